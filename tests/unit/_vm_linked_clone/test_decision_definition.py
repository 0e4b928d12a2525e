# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The definition of a clone: everything that two domains cannot share is its own, and nothing else has changed."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import replace
from ansible_collections.kvmops.disk.plugins.module_utils._errors import InvalidRequest
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import (
    decision_definition as _decision_definition,
)
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_definition import (
    CloneDisk,
    Identity,
    cloned,
)
from ansible_collections.kvmops.disk.plugins.module_utils._xml import comparison as _comparison
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disks as _disks
from ansible_collections.kvmops.disk.plugins.module_utils._xml import document as _document
from ansible_collections.kvmops.disk.plugins.module_utils._xml import identity as _identity
from ansible_collections.kvmops.disk.plugins.module_utils._xml.disks import ChainLink
from ansible_collections.kvmops.disk.plugins.module_utils._xml.identity import Mark, MarkedDisk

OLD, NEW = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
GENID = "33333333-3333-4333-8333-333333333333"
DISK = (
    "<disk type='file' device='disk'><driver name='qemu' type='raw' cache='none' discard='unmap'/>"
    "<source file='/images/golden.raw'><seclabel model='dac' relabel='no'/></source><target dev='vda' bus='virtio'/>"
    "<serial>GOLD</serial></disk>"
)
ISO = "/images/tools.iso"
CDROM = f"<disk device='cdrom'><source file='{ISO}'/><target dev='sda' bus='sata'/><readonly/></disk>"
MARK = Mark("golden", OLD, "linked", (MarkedDisk("vda", "/images/pc-1.qcow2", "/images/golden.raw"),))
IDENTITY = Identity(
    name="pc-1",
    uuid=NEW,
    genid=GENID,
    macs=("52:54:00:00:00:01",),
    disks=(CloneDisk("vda", "/images/pc-1.qcow2", "qcow2", (ChainLink("/images/golden.raw", "raw"),)),),
    mark=MARK,
)


def golden(devices: str = "", *, outside: str = "", os: str = "") -> str:
    return (
        f"<domain type='kvm'><name>golden</name><uuid>{OLD}</uuid>{outside}"
        "<memory unit='KiB'>1048576</memory><currentMemory unit='KiB'>524288</currentMemory><vcpu>2</vcpu>"
        f"<os><type>hvm</type>{os}</os><devices>{DISK}{CDROM}{devices}</devices></domain>"
    )


def made(devices: str = "", outside: str = "", os: str = "", **identity: Any) -> Any:
    """The root of the clone's definition."""
    return _document.parse(cloned(golden(devices, outside=outside, os=os), replace(IDENTITY, **identity)).xml)


def told(devices: str = "", outside: str = "", **identity: Any) -> dict[str, tuple[str | None, str | None]]:
    found = cloned(golden(devices, outside=outside), replace(IDENTITY, **identity)).changes
    return {change.what: (change.before, change.after) for change in found}


def test_nothing_but_its_identity_changes() -> None:
    before, after = _comparison.pretty(golden()), _comparison.pretty(cloned(golden(), IDENTITY).xml)
    added = [
        line[1:].strip() for line in _comparison.unified_diff(before, after).splitlines()[2:] if line.startswith("+")
    ]
    removed = [
        line[1:].strip() for line in _comparison.unified_diff(before, after).splitlines()[2:] if line.startswith("-")
    ]
    assert removed == [
        "<name>golden</name>",
        f"<uuid>{OLD}</uuid>",
        '<driver name="qemu" type="raw" cache="none" discard="unmap"/>',
        '<source file="/images/golden.raw">',
    ]
    assert added[:4] == [
        "<name>pc-1</name>",
        f"<uuid>{NEW}</uuid>",
        '<driver name="qemu" type="qcow2" cache="none" discard="unmap"/>',
        '<source file="/images/pc-1.qcow2">',
    ]
    assert [line for line in added[4:] if "kvmops" not in line and "ns0" not in line] == [
        '<backingStore type="file">',
        '<format type="raw"/>',
        '<source file="/images/golden.raw"/>',
        "<backingStore/>",
        "</backingStore>",
        "<metadata>",
        "</metadata>",
    ]


def test_all_that_was_changed_is_told() -> None:
    assert told() == {
        "name": ("golden", "pc-1"),
        "uuid": (OLD, NEW),
        "vda source": ("/images/golden.raw", "/images/pc-1.qcow2"),
    }


def test_a_linked_clone_names_its_whole_chain_and_a_copy_says_that_it_has_none() -> None:
    chain = (ChainLink("/images/golden.qcow2", "qcow2"), ChainLink("/dev/vg/root", "raw", block=True))
    linked = _disks.disks(_document.text(made(disks=(replace(IDENTITY.disks[0], chain=chain),))))[0]
    assert linked.chain == chain
    assert linked.chain is not None
    assert [link.block for link in linked.chain] == [False, True]
    copied = _disks.disks(_document.text(made(disks=(replace(IDENTITY.disks[0], chain=()),))))[0]
    assert copied.chain == ()


def test_a_disk_of_a_pool_or_a_device_becomes_a_file() -> None:
    for kind, source in (("volume", "pool='gold' volume='root' mode='host'"), ("block", "dev='/dev/vg/root'")):
        xml = golden().replace("type='file' device='disk'", f"type='{kind}' device='disk'")
        xml = xml.replace("file='/images/golden.raw'", source)
        disk = _document.parse(cloned(xml, IDENTITY).xml).find("./devices/disk")
        assert disk.get("type") == "file"
        assert dict(disk.find("source").attrib) == {"file": "/images/pc-1.qcow2"}


def test_numbers_that_the_guest_sees_are_its_own() -> None:
    outside = (
        f"<title>Golden</title><genid>{OLD}</genid><hwuuid>{OLD}</hwuuid><sysinfo type='smbios'><system>"
        f"<entry name='manufacturer'>X</entry><entry name='uuid'>{OLD}</entry></system></sysinfo>"
    )
    clone = made(outside=outside)
    assert clone.findtext("./sysinfo/system/entry[@name='uuid']") == NEW
    assert clone.findtext("./sysinfo/system/entry[@name='manufacturer']") == "X"
    assert clone.findtext("./genid") == GENID
    assert clone.find("./hwuuid") is None
    assert clone.find("./title") is None
    assert OLD not in _document.text(clone).replace(f'source_uuid="{OLD}"', "")
    assert {"sysinfo uuid", "genid", "hwuuid", "title"} <= set(told(outside=outside))


def test_an_interface_gets_its_address_and_no_name_or_port_of_the_source() -> None:
    bridge = (
        "<interface type='bridge'><mac address='52:54:00:AA:AA:AA'/><source bridge='ovs0'/>"
        f"<virtualport type='openvswitch'><parameters interfaceid='{OLD}' profileid='lan'/></virtualport>"
        "<target dev='gold0'/><model type='virtio'/></interface>"
    )
    user = "<interface type='vhostuser'><source type='unix' path='/run/golden.sock' mode='client'/></interface>"
    clone = made(bridge + user, macs=("52:54:00:00:00:01", "52:54:00:00:00:02"))
    first, second = clone.findall("./devices/interface")
    assert first.find("mac").get("address") == "52:54:00:00:00:01"
    assert first.find("target") is None
    assert dict(first.find("virtualport/parameters").attrib) == {"profileid": "lan"}
    assert first.find("source").get("bridge") == "ovs0"
    assert second.find("mac").get("address") == "52:54:00:00:00:02"
    assert second.find("source").get("path") == "/run/pc-1.sock"
    changes = told(bridge + user, macs=("52:54:00:00:00:01", "52:54:00:00:00:02"))
    assert changes["interface 0 mac"] == ("52:54:00:AA:AA:AA", "52:54:00:00:00:01")
    assert changes["interface 0 target"] == ("gold0", None)
    assert changes["interface 0 interfaceid"] == (OLD, None)


def character(tag: str, kind: str, **source: str) -> str:
    given = "".join(f" {name}='{value}'" for name, value in source.items())
    return f"<{tag} type='{kind}'><source{given}/><log file='/var/log/golden-1.log'/></{tag}>"


def graphics(kind: str = "vnc", **attributes: str) -> str:
    given = "".join(f" {name}='{value}'" for name, value in attributes.items())
    return f"<graphics type='{kind}'{given} passwd='x'><listen type='socket' socket='/run/golden.spice'/></graphics>"


@pytest.mark.parametrize(
    ("device", "where", "wanted"),
    [
        (character("serial", "unix", mode="bind", path="/run/golden.sock"), "serial/source path", "/run/pc-1.sock"),
        (character("serial", "unix", mode="bind", path="/run/S0.sock"), "serial/source path", "/run/S0-pc-1.sock"),
        (character("serial", "unix", mode="connect", path="/run/hub.sock"), "serial/source path", "/run/hub.sock"),
        (character("serial", "file", path="/var/log/golden.txt"), "serial/source path", "/var/log/pc-1.txt"),
        (character("serial", "pty", path="/dev/pts/3"), "serial/log file", "/var/log/pc-1-1.log"),
        (character("console", "unix", mode="bind", path="/run/golden.sock"), "console/source path", "/run/pc-1.sock"),
        (character("parallel", "file", path="/var/spool/lp"), "parallel/source path", "/var/spool/lp-pc-1"),
        (character("channel", "unix", mode="bind", path="/run/x.golden"), "channel/source path", "/run/x.pc-1"),
        (f"<rng>{character('backend', 'unix', mode='bind', path='/golden')}</rng>", "rng/backend/source path", "/pc-1"),
        ("<audio id='1' type='file' path='/tmp/golden.wav'/>", "audio path", "/tmp/pc-1.wav"),
        ("<interface><backend type='passt' logFile='/l/golden'/></interface>", "interface/backend logFile", "/l/pc-1"),
        (graphics("spice"), "graphics/listen socket", "/run/pc-1.spice"),
        (graphics(port="5901", autoport="no"), "graphics autoport", "yes"),
        (graphics(port="5901", autoport="no"), "graphics passwd", "x"),
        (graphics(port="5901", autoport="no"), "graphics port", None),
        (graphics("spice", port="-1", tlsPort="5903", autoport="no"), "graphics tlsPort", None),
        (graphics(port="-1", autoport="yes", websocket="5700"), "graphics websocket", "-1"),
        (graphics(port="-1", autoport="yes"), "graphics port", "-1"),
    ],
)
def test_what_lies_outside_of_the_domain_is_its_own(device: str, where: str, wanted: str | None) -> None:
    path, attribute = where.split(" ")
    assert made(device).find(f"./devices/{path}").get(attribute) == wanted


@pytest.mark.parametrize(
    ("device", "gone"),
    [
        ("<serial type='pty'><source path='/dev/pts/3'/></serial>", "serial/source"),
        (
            "<channel type='unix'><source mode='bind' path='/var/lib/libvirt/qemu/channel/target/domain-3-golden/x'/>"
            "<target type='virtio' name='x'/></channel>",
            "channel/source",
        ),
        ("<tpm><backend type='emulator'><source type='dir' path='/tpm'/></backend></tpm>", "tpm/backend/source"),
    ],
)
def test_what_libvirt_chooses_by_itself_is_left_to_it(device: str, gone: str) -> None:
    assert made(device).find(f"./devices/{gone}") is None


@pytest.mark.parametrize(
    ("device", "said"),
    [
        ("<hostdev mode='subsystem' type='pci'/>", "host device 0"),
        ("<serial type='tcp'><source mode='bind' host='0' service='4555'/></serial>", "serial 0 on port 4555"),
        ("<serial type='dev'><source path='/dev/ttyS0'/></serial>", "serial 0 on /dev/ttyS0"),
        ("<interface type='hostdev'/>", "interface of type hostdev"),
        ("<tpm><backend type='passthrough'/></tpm>", "passthrough TPM"),
        ("<lease><key>k</key></lease>", "lease k"),
        (character("serial", "unix", mode="connect", path="/run/hub.sock"), "serial 0 connected to /run/hub.sock"),
        (character("serial", "tcp", mode="connect", host="hub", service="99"), "serial 0 connected to hub:99"),
        (f"<rng>{character('backend', 'tcp', mode='connect', host='e', service='1')}</rng>", "rng 0 connected to e:1"),
        (f"<rng>{character('backend', 'unix', mode='connect', path='/egd')}</rng>", "rng 0 connected to /egd"),
        (character("redirdev", "tcp", mode="connect", host="u", service="4"), "redirdev 0 connected to u:4"),
        (
            "<serial type='udp'><source mode='connect' service='1'/><source mode='bind' service='2'/></serial>",
            "serial 0 on port 2",
        ),
        (character("channel", "dbus", channel="org.qemu.x"), "channel 0 on D-Bus as org.qemu.x"),
        ("<shmem name='pages'/>", "shared memory pages"),
        ("<shmem name='s'><server path='/run/iv'/></shmem>", "shared memory s of the server /run/iv"),
        ("<filesystem type='mount'><driver type='path'/><source dir='/srv'/></filesystem>", "filesystem of /srv"),
        (
            "<filesystem><driver type='virtiofs'/><source socket='/run/fs'/><readonly/></filesystem>",
            "filesystem on the socket /run/fs",
        ),
        ("<input type='evdev'><source dev='/dev/input/event1'/></input>", "input device /dev/input/event1"),
        ("<input type='passthrough'><source evdev='/dev/input/e2'/></input>", "input device /dev/input/e2"),
        ("<graphics type='dbus' address='unix:path=/b'/>", "graphics 0 on D-Bus at unix:path=/b"),
        (
            "<interface type='direct'><source dev='eth1' mode='passthrough'/></interface>",
            "interface 0 with all of eth1",
        ),
        (
            "<interface type='user'><portForward proto='tcp'><range start='2022'/></portForward></interface>",
            "interface 0 with the port 2022 of the host",
        ),
    ],
)
def test_what_only_one_of_them_can_have_is_told(device: str, said: str) -> None:
    assert cloned(golden(device), IDENTITY).shared == (said,)


def test_what_both_can_read_is_not_told() -> None:
    for device in (
        "<filesystem><source dir='/srv'/><readonly/></filesystem>",
        "<rng><backend model='random'>/dev/urandom</backend></rng>",
        "<interface type='direct'><source dev='eth1' mode='bridge'/></interface>",
    ):
        assert cloned(golden(device), IDENTITY).shared == ()


def test_firmware_that_keeps_its_variables_in_itself_is_told() -> None:
    loader = "<loader readonly='no' type='pflash'>/fw/OVMF.fd</loader>"
    shared = cloned(golden(os=loader), IDENTITY).shared
    assert shared == ("the firmware /fw/OVMF.fd, which keeps its variables in itself",)
    assert cloned(golden(os=loader.replace("'no'", "'yes'")), IDENTITY).shared == ()


def test_the_number_of_a_socket_to_the_host_is_found_by_libvirt() -> None:
    device = "<vsock model='virtio'><cid auto='no' address='7'/></vsock>"
    assert dict(made(device).find("./devices/vsock/cid").attrib) == {"auto": "yes"}
    assert told(device)["vsock cid"] == ("7", None)


def test_a_socket_with_too_long_a_name_is_refused() -> None:
    device = f"<serial type='unix'><source mode='bind' path='/run/{'d' * 90}/golden.sock'/></serial>"
    with pytest.raises(InvalidRequest, match="at most 107 bytes"):
        cloned(golden(device), replace(IDENTITY, name="a-longer-name"))


@pytest.mark.parametrize(
    "os",
    [
        "<nvram template='/t'>/nvram/golden_VARS.fd</nvram>",
        "<nvram type='file'><source file='/nvram/golden_VARS.fd'/></nvram>",
        "<varstore path='/nvram/golden_VARS.fd'/>",
    ],
)
def test_the_variables_of_the_firmware_are_its_own(os: str) -> None:
    clone = made(os=os, nvram="/nvram/pc-1_VARS.fd")
    assert _identity.nvram(clone) == "/nvram/pc-1_VARS.fd"
    assert "golden_VARS" not in _document.text(clone)


def test_serial_numbers_change_where_that_is_asked() -> None:
    assert made().findtext("./devices/disk/serial") == "GOLD"
    disk = replace(IDENTITY.disks[0], serial="own", wwn="3000000000000001")
    clone = made(disks=(disk,))
    assert clone.findtext("./devices/disk/serial") == "own"
    assert clone.findtext("./devices/disk/wwn") == "3000000000000001"


def test_drives_stay_as_they_are() -> None:
    cdrom = _disks.disks(_document.text(made()))[1]
    assert (cdrom.source, cdrom.readonly) == (ISO, True)


def test_memory_and_processors_are_those_that_are_asked_for() -> None:
    clone = made(memory=2 << 30, vcpus=4)
    assert (clone.findtext("./memory"), clone.findtext("./currentMemory"), clone.findtext("./vcpu")) == (
        "2097152",
        "2097152",
        "4",
    )
    topology = "<cpu><topology sockets='1' cores='2' threads='2'/></cpu>"
    assert made(outside=topology, vcpus=4).findtext("./vcpu") == "4"
    with pytest.raises(InvalidRequest, match="a topology of 4 virtual CPUs, asked for 3"):
        made(outside=topology, vcpus=3)
    with pytest.raises(InvalidRequest, match="NUMA cells"):
        made(outside="<cpu><numa><cell id='0' memory='1'/></numa></cpu>", memory=2 << 30)


def test_the_mark_says_whose_clone_it_is_and_takes_the_place_of_the_source_s_own() -> None:
    first = cloned(golden(), IDENTITY).xml
    again = cloned(first, replace(IDENTITY, name="pc-2", mark=replace(MARK, source="pc-1", nvram="/n")))
    found = _identity.looks(again.xml)
    assert found.mark == replace(MARK, source="pc-1", nvram="/n")
    assert again.xml.count("urn:kvmops:clone:1") == 1


def test_what_is_under_way_on_the_source_is_not_under_way_on_a_clone() -> None:
    record = "<r:operation xmlns:r='urn:kvmops:disk:1'/><s:shutdown xmlns:s='urn:kvmops:shutdown:1'/>"
    clone = made(outside=f"<metadata>{record}<b:y xmlns:b='urn:b'/></metadata>")
    assert {_document.namespace(node) for node in clone.find("./metadata")} == {"urn:b", "urn:kvmops:clone:1"}


def test_metadata_takes_the_place_of_what_has_its_namespace() -> None:
    outside = "<metadata><a:x xmlns:a='urn:a'>old</a:x><b:y xmlns:b='urn:b'/></metadata>"
    clone = made(outside=outside, metadata="<q:x xmlns:q='urn:a'>new</q:x>")
    texts = [(_document.namespace(node), node.text) for node in clone.find("./metadata")]
    assert texts == [("urn:b", None), ("urn:a", "new"), ("urn:kvmops:clone:1", None)]


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("/x/golden", "/x/pc-1"),
        ("/x/golden_VARS.fd", "/x/pc-1_VARS.fd"),
        ("/golden/VARS.fd", "/golden/VARS-pc-1.fd"),
        ("/x/goldenrod.sock", "/x/goldenrod-pc-1.sock"),
        ("/x/a.golden.b", "/x/a.pc-1.b"),
    ],
)
def test_a_path_gets_the_name_of_the_clone(path: str, wanted: str) -> None:
    assert _decision_definition.own_path(path, "golden", "pc-1") == wanted


def test_a_domain_is_read_in_whatever_units_it_is_written() -> None:
    xml = golden("<interface><mac address='52:54:00:AA:00:01'/></interface>").replace(
        "<memory unit='KiB'>1048576", "<memory unit='GiB'>2"
    )
    found = _identity.looks(xml)
    assert (found.name, found.uuid, found.memory, found.vcpus) == ("golden", OLD, 2 << 30, 2)
    assert found.macs == ("52:54:00:aa:00:01",)
    assert found.mark is None
