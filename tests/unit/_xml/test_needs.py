# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a definition needs for a start, and what a running domain and its definition do not have in common."""

from __future__ import annotations

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._xml.devices import only_in
from ansible_collections.kvmops.disk.plugins.module_utils._xml.needs import image_files, needs, optional_disks


def domain(devices: str = "", boot: str = "") -> str:
    return f"<domain><os><type>hvm</type>{boot}</os><devices>{devices}</devices></domain>"


@pytest.mark.parametrize(
    ("xml", "path"),
    [
        (domain(boot="<loader>/fw</loader>"), "/fw"),
        (domain(boot="<kernel>/k</kernel>"), "/k"),
        (domain(boot="<initrd> /r </initrd>"), "/r"),
        (domain(boot="<dtb>/d</dtb>"), "/d"),
        (domain(boot="<acpi><table type='slic'>/t</table></acpi>"), "/t"),
        (domain("<emulator>/usr/bin/qemu</emulator>"), "/usr/bin/qemu"),
        (domain("<filesystem type='mount'><source dir='/s'/></filesystem>"), "/s"),
        (domain("<filesystem type='mount'><source socket='/s'/></filesystem>"), "/s"),
        (domain("<rng><backend model='random'>/dev/hwrng</backend></rng>"), "/dev/hwrng"),
        (domain("<tpm><backend type='passthrough'><device path='/dev/tpm0'/></backend></tpm>"), "/dev/tpm0"),
        (domain("<memory model='nvdimm'><source><path>/n</path></source></memory>"), "/n"),
        (domain("<input type='passthrough'><source evdev='/e'/></input>"), "/e"),
        (domain("<serial type='dev'><source path='/dev/ttyS0'/></serial>"), "/dev/ttyS0"),
        (domain("<channel type='unix'><source mode='connect' path='/c'/></channel>"), "/c"),
        (domain("<interface type='vhostuser'><source type='unix' mode='client' path='/v'/></interface>"), "/v"),
        (domain("<hostdev mode='capabilities'><source><block>/b</block></source></hostdev>"), "/b"),
    ],
)
def test_a_file_of_the_host_is_needed(xml: str, path: str) -> None:
    assert [name for name, _what in needs(xml).files] == [path]


def test_what_qemu_makes_itself_is_not_needed() -> None:
    made = (
        "<serial type='unix'><source mode='bind' path='/s'/></serial><serial type='file'><source path='/l'/></serial>"
    )
    assert needs(domain(made + "<rng><backend model='egd' type='udp'/></rng>")).files == ()


def test_things_of_libvirt_are_needed() -> None:
    bridged = "<interface type='bridge'><source bridge='ovs0'/><virtualport type='openvswitch'/></interface>"
    found = needs(
        domain(
            "<interface type='network'><source network='n'/><filterref filter='f'/></interface>"
            "<interface type='bridge'><source bridge='b'/></interface><interface type='user'/>"
            "<disk type='volume'><source pool='p' volume='v'/><encryption><secret uuid='u'/></encryption></disk>"
            + bridged
        )
    )
    assert set(found.offered) == {
        ("network", "n"),
        ("network filter", "f"),
        ("interface", "b"),
        ("storage pool", "p"),
        ("secret", "u"),
    }


def test_devices_of_the_host_are_known_by_their_names() -> None:
    address = "<address domain='0x0000' bus='0x01' slot='0x02' function='0x3'/>"
    pci = f"<hostdev type='pci'><source>{address}</source></hostdev>"
    mdev = "<hostdev type='mdev'><source><address uuid='m'/></source></hostdev>"
    usb = "<hostdev type='usb'><source><vendor id='0x1234'/><product id='0xbeef'/></source></hostdev>"
    found = needs(domain(pci + mdev + usb + usb.replace("<source>", "<source startupPolicy='optional'>")))
    assert (found.pci, found.mediated, found.usb) == (("0000:01:02.3",), ("m",), (("1234", "beef"),))


@pytest.mark.parametrize(("policy", "optional"), [("mandatory", False), ("requisite", False), ("optional", True)])
def test_only_an_optional_disk_may_be_missing_at_a_start(policy: str, optional: bool) -> None:
    source = f"<source pool='p' volume='v' startupPolicy='{policy}'/>"
    xml = domain(f"<disk type='volume'>{source}<target dev='hda'/></disk>")
    assert optional_disks(xml) == ({"hda"} if optional else set())
    assert needs(xml).offered == (() if optional else (("storage pool", "p"),))


def test_variables_of_the_firmware_are_made_from_their_template() -> None:
    assert needs(domain(boot="<nvram template='/t'>/v</nvram>")).templates == (("/v", "/t"),)
    assert needs(domain(boot="<nvram>/v</nvram>")).templates == ()


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("<disk type='file'><target dev='vdb'/></disk>", "disk vdb"),
        ("<interface type='user'><mac address='52:54:00:00:00:01'/></interface>", "interface 52:54:00:00:00:01"),
        ("<filesystem type='mount'><target dir='shared'/></filesystem>", "filesystem shared"),
        ("<memory model='dimm'><target><node>0</node></target></memory>", "memory dimm 0"),
        ("<channel type='unix'><target type='virtio' name='x'/></channel>", "channel unix x"),
        ("<hostdev type='usb'><source><vendor id='0x1'/><product id='0x2'/></source></hostdev>", "hostdev usb 0x1 0x2"),
        ("<input type='tablet' bus='usb'/>", "input tablet usb"),
        ("<lease><lockspace>s</lockspace><key>k</key></lease>", "lease s k"),
    ],
)
def test_a_device_that_only_one_of_two_has_is_named(device: str, name: str) -> None:
    assert only_in(domain(device), domain()) == [name]
    assert only_in(domain(), domain(device)) == []
    assert only_in(domain(device), domain(device)) == []
    assert only_in(domain(device + device), domain(device)) == [name], "they are counted"


def test_what_libvirt_adds_to_a_running_device_does_not_count() -> None:
    live = (
        "<interface type='network'><mac address='m'/><source network='n' portid='p'/><alias name='net0'/></interface>"
    )
    live += "<controller type='scsi' index='0'/><console type='pty' tty='/dev/pts/1'/>"
    defined = "<interface type='network'><mac address='m'/><source network='n'/></interface>"
    assert only_in(domain(live), domain(defined)) == []


@pytest.mark.parametrize(
    ("xml", "found"),
    [
        (domain(boot="<loader>/fw</loader><nvram template='/t'>/v</nvram>"), {("loader", "/fw"), ("nvram", "/v")}),
        (domain(boot="<nvram type='file'><source file='/v'/></nvram>"), {("nvram", "/v")}),
        (domain(boot="<varstore path='/v'/>"), {("varstore", "/v")}),
        (domain(boot="<kernel>/k</kernel><initrd>/r</initrd>"), {("kernel", "/k"), ("initrd", "/r")}),
        (domain("<filesystem type='file'><source file='/f'/></filesystem>"), {("filesystem", "/f")}),
        (domain("<memory model='nvdimm'><source><path>/n</path></source></memory>"), {("memory", "/n")}),
        (domain("<serial type='file'><source path='/s'/></serial>"), {("serial", "/s")}),
        (domain("<console type='pty'><log file='/l'/></console>"), {("console", "/l")}),
        (domain("<serial type='dev'><source path='/dev/ttyS0'/></serial>"), set()),
        (domain("<emulator>/usr/bin/qemu</emulator><filesystem><source dir='/s'/></filesystem>"), set()),
    ],
)
def test_files_outside_of_the_disks_are_known(xml: str, found: set[tuple[str, str]]) -> None:
    assert found <= {*image_files(xml)}
    assert bool(found) == bool([*image_files(xml)])


@pytest.mark.parametrize(
    ("argument", "paths"),
    [
        ("file=/a b.qcow2,if=virtio", ["/a b.qcow2"]),
        ("driver=qcow2,file.filename=/a,file.driver=file", ["/a"]),
        ("{&quot;driver&quot;:&quot;file&quot;,&quot;filename&quot;:&quot;/a&quot;}", ["/a"]),
        ("/a", ["/a"]),
        ("isa-debug,n=1/2", []),
    ],
)
def test_files_in_a_command_line_for_qemu_are_known(argument: str, paths: list[str]) -> None:
    line = "<q:commandline xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'><q:arg value='{}'/></q:commandline>"
    xml = domain().replace("</domain>", f"{line.format(argument)}</domain>")
    assert [path for _part, path in image_files(xml)] == paths
