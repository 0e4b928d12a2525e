# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a disk is used, as its XML says: read, written in libvirt's order, and nothing dropped that nobody names."""

from __future__ import annotations

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disk_definition as _disk_definition
from ansible_collections.kvmops.disk.plugins.module_utils._xml import document as _document
from ansible_collections.kvmops.disk.plugins.module_utils._xml.disk_definition import NewDisk
from ansible_collections.kvmops.disk.plugins.module_utils._xml.machine import machine
from ansible_collections.kvmops.disk.plugins.module_utils._xml.tuning import (
    Tuning,
    differences,
    limited,
    tune,
    tuning,
)

DISK = """<disk type='file' device='disk' snapshot='no'>
  <driver name='qemu' type='qcow2' cache='none' queues='4'/>
  <source file='/images/a.qcow2'><seclabel model='dac' relabel='no'/></source>
  <target dev='vdb' bus='virtio'/>
  <iotune><total_bytes_sec>1024</total_bytes_sec><group_name>g</group_name></iotune>
  <wwn>5000c50015ea71aa</wwn>
  <address type='pci' domain='0x0000' bus='0x00' slot='0x05' function='0x0'/>
</disk>"""
DOMAIN = f"<domain><devices>{DISK}</devices></domain>"


def tuned(wanted: Tuning) -> str:
    return _disk_definition.tuned(DISK, wanted)


def test_what_a_disk_says_is_read() -> None:
    found = tuning(_document.parse(DISK))
    assert (found.cache, found.io, found.iothread, found.serial, found.readonly) == ("none", "default", 0, "", False)
    assert found.throttle == {"total_bytes_sec": 1024, "group_name": "g"}


def test_nothing_is_dropped_and_what_is_added_stands_where_libvirt_has_it() -> None:
    wanted = Tuning(io="native", serial="s", boot_order=2, readonly=True, shareable=True, iothread=1)
    element = _document.parse(tuned(wanted))
    assert dict(element.find("driver").attrib) == {
        "name": "qemu",
        "type": "qcow2",
        "cache": "none",
        "queues": "4",
        "io": "native",
        "iothread": "1",
    }
    tags = [child.tag for child in element]
    order = ["driver", "source", "target", "iotune", "readonly", "shareable", "serial", "wwn", "boot", "address"]
    assert tags == order
    assert element.find("source/seclabel") is not None
    assert element.get("snapshot") == "no"


def test_what_is_set_back_goes() -> None:
    everything = Tuning(io="native", serial="s", boot_order=2, readonly=True, iothread=1)
    back = Tuning(io="default", serial="", boot_order=0, readonly=False, iothread=0)
    element = _document.parse(_disk_definition.tuned(tuned(everything), back))
    assert tuning(element) == tuning(_document.parse(DISK))


def test_a_disk_that_says_nothing_of_its_driver_gets_one() -> None:
    element = _document.parse("<disk><source file='/a'/></disk>")
    tune(element, Tuning(cache="none"))
    assert [child.tag for child in element] == ["driver", "source"]


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        (Tuning(), ()),
        (Tuning(cache="none", io="default", readonly=False, serial="", throttle={"total_bytes_sec": 1024}), ()),
        (Tuning(throttle={"write_iops_sec": 0}), ()),
        (Tuning(cache="default", serial="s"), ("cache", "serial")),
        (Tuning(throttle={"total_bytes_sec": 0}), ("throttle",)),
        (Tuning(throttle={"read_bytes_sec": 1}), ("throttle",)),
    ],
)
def test_only_what_is_said_otherwise_differs(wanted: Tuning, names: tuple[str, ...]) -> None:
    assert differences(tuning(_document.parse(DISK)), wanted) == names


def test_a_limit_on_one_direction_drops_the_one_on_both_with_its_burst() -> None:
    both = {"total_bytes_sec": 8, "total_bytes_sec_max": 9, "total_bytes_sec_max_length": 2, "total_iops_sec": 7}
    assert limited(both, {"write_bytes_sec": 5}) == {"total_iops_sec": 7, "write_bytes_sec": 5}
    each = {"read_iops_sec": 1, "write_iops_sec": 2, "read_iops_sec_max": 3}
    assert limited(each, {"total_iops_sec": 4}) == {"total_iops_sec": 4}


def test_a_new_disk_names_its_format_and_its_source() -> None:
    file = _document.parse(NewDisk("vdb", "virtio", "disk", "/a.qcow2", "qcow2", secret="u").xml())
    assert file.find("driver").get("type") == "qcow2"
    assert file.find("source/encryption/secret").get("uuid") == "u"
    volume = _document.parse(NewDisk("vdb", "virtio", "disk", "/p/v", "raw", volume=("p", "v")).xml())
    assert (volume.get("type"), dict(volume.find("source").attrib)) == ("volume", {"pool": "p", "volume": "v"})
    empty = _document.parse(NewDisk("hdc", "ide", "cdrom", None, "raw").xml())
    assert empty.find("source") is None


def test_a_medium_takes_the_place_of_another_and_all_else_stays() -> None:
    drive = (
        "<domain><devices><disk type='block' device='cdrom'><driver name='qemu' type='raw' io='threads'/>"
        "<source dev='/dev/sr0' startupPolicy='optional'/><backingStore/><target dev='hdc' bus='ide'/><readonly/>"
        "</disk></devices></domain>"
    )
    changed = _disk_definition.medium_xml(drive, "hdc", "/a.iso", "raw")
    element = _document.parse(changed)
    assert (element.get("type"), element.find("source").get("file")) == ("file", "/a.iso")
    assert element.find("source").get("startupPolicy") == "optional"
    assert element.find("driver").get("io") == "threads"
    ejected = _disk_definition.with_medium(drive, "hdc", None, "raw")
    assert "source" not in ejected
    again = _document.parse(_disk_definition.medium_xml(ejected, "hdc", "/b.iso", "raw"))
    assert [child.tag for child in again] == ["driver", "source", "target", "readonly"]


def test_what_only_a_running_machine_knows_is_not_defined() -> None:
    live = DISK.replace("<source ", "<source index='3' ").replace(
        "<address", "<backingStore/><alias name='virtio-disk1'/><address"
    )
    assert "index" not in _disk_definition.plain(live)
    assert "alias" not in _disk_definition.plain(live)
    assert "ua-mine" in _disk_definition.plain(live.replace("virtio-disk1", "ua-mine"))


def test_a_disk_moves_to_the_address_of_another_definition() -> None:
    new = NewDisk("vdb", "virtio", "disk", "/a.qcow2", "qcow2").xml()
    placed = _document.parse(_disk_definition.at_the_address_of(new, DISK))
    assert placed.find("address").get("slot") == "0x05"


def test_a_disk_comes_and_goes() -> None:
    new = NewDisk("vdc", "virtio", "disk", "/b.qcow2", "qcow2").xml()
    both = _disk_definition.with_disk(DOMAIN, new)
    assert [one.get("dev") for one in _document.parse(both).iterfind("./devices/disk/target")] == ["vdb", "vdc"]
    assert _disk_definition.disk_xml(_disk_definition.without_disk(both, "vdb"), "vdc")


def test_a_machine_says_what_it_offers() -> None:
    found = machine(
        "<domain><os><boot dev='hd'/></os><iothreads>2</iothreads><devices>"
        "<disk><target dev='vda'/><address type='pci' bus='0x01'/></disk>"
        "<interface><boot order='1'/><address type='pci' bus='0x03'/></interface>"
        "<controller type='pci' index='0' model='pcie-root'/>"
        "<controller type='pci' index='1' model='pcie-root-port'><address type='pci' bus='0x00'/></controller>"
        "<controller type='pci' index='2' model='pcie-root-port'><address type='pci' bus='0x00'/></controller>"
        "<controller type='pci' index='3' model='pcie-root-port'><address type='pci' bus='0x00'/></controller>"
        "<controller type='scsi' index='0'/>"
        "<channel><target type='virtio' name='org.qemu.guest_agent.0' state='connected'/></channel>"
        "</devices></domain>"
    )
    assert (found.pcie, found.free_ports, found.agent, found.boots_by_kind) == (True, 1, True, True)
    assert ([*found.iothreads], [*found.scsi_controllers]) == ([1, 2], [0])
    assert (found.boot_orders, found.has_kernel) == ({1: "interface"}, False)


def test_a_machine_without_pcie_has_slots_enough() -> None:
    found = machine(
        "<domain><os><kernel>/k</kernel></os><devices/><iothreadids><iothread id='4'/></iothreadids></domain>"
    )
    assert (found.free_ports, [*found.iothreads], found.has_kernel, found.agent) == (None, [4], True, False)
