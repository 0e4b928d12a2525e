# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Domain XML: what is read of a disk, what is changed, what is kept, and what is never resolved."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import replace
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, InvalidRequest
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disk_changes as _disk_changes
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disks as _disks
from ansible_collections.kvmops.disk.plugins.module_utils._xml import document as _document
from ansible_collections.kvmops.disk.plugins.module_utils._xml import records as _records
from ansible_collections.kvmops.disk.plugins.module_utils._xml.disk_changes import DiskChange
from ansible_collections.kvmops.disk.plugins.module_utils._xml.disks import ChainLink
from ansible_collections.kvmops.disk.plugins.module_utils._xml.records import Record, RecordedDisk

FILE = """<disk type='file' device='disk'>
      <driver name='qemu' type='raw' cache='none'/>
      <source file='/images/vm.raw'><seclabel model='dac' relabel='no'/></source>
      <target dev='vda' bus='virtio'/>
      <serial>S1</serial>
    </disk>"""
CHAIN = """<disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/>
      <source file='/images/top.qcow2'/>
      <backingStore type='file'>
        <format type='qcow2'/>
        <source file='/images/middle.qcow2'/>
        <backingStore type='file'>
          <format type='raw'/>
          <source file='/images/base.raw'/>
          <backingStore/>
        </backingStore>
      </backingStore>
      <target dev='vdb' bus='virtio'/>
    </disk>"""


def domain(*disks: str, rest: str = "", metadata: str = "") -> str:
    between = "\n    ".join(disks)
    return f"""<domain type='qemu'>
  <name>vm</name>{metadata}
  <devices>
    {between}
    <controller type='usb' index='0'/>{rest}
  </devices>
</domain>
"""


def only(disk: str) -> _disks.DiskElement:
    (found,) = _disks.disks(domain(disk))
    return found


def test_a_disk_is_read_with_its_driver_and_source() -> None:
    disk = only(FILE)
    assert (disk.target, disk.bus, disk.device, disk.type) == ("vda", "virtio", "disk", "file")
    assert (disk.source, disk.format) == ("/images/vm.raw", "raw")
    assert (disk.readonly, disk.shareable, disk.transient, disk.encrypted) == (False, False, False, False)
    assert (disk.chain, disk.mirror) == (None, None)


def test_a_disk_without_a_driver_type_is_raw_as_libvirt_takes_it() -> None:
    assert only("<disk type='file'><source file='/x'/><target dev='vda'/></disk>").format == "raw"


def test_the_chain_is_read_from_the_top_down() -> None:
    assert only(CHAIN).chain == (ChainLink("/images/middle.qcow2", "qcow2"), ChainLink("/images/base.raw", "raw"))


def test_a_chain_that_is_said_to_be_empty_is_not_an_unknown_one() -> None:
    assert only("<disk type='file'><source file='/x'/><backingStore/><target dev='vda'/></disk>").chain == ()


def test_an_empty_drive_has_no_source() -> None:
    disk = only("<disk type='file' device='cdrom'><target dev='hdc' bus='ide'/><readonly/></disk>")
    assert (disk.source, disk.device, disk.readonly) == (None, "cdrom", True)


@pytest.mark.parametrize(
    "where", ["<encryption format='luks'/>", "<source file='/x'><encryption format='luks'/></source>"]
)
def test_encryption_is_seen_in_both_places(where: str) -> None:
    assert only(f"<disk type='file'>{where}<target dev='vda'/></disk>").encrypted


def test_a_mirror_is_seen_in_the_new_and_the_old_form() -> None:
    new = "<mirror type='file' job='copy'><source file='/copy'/></mirror>"
    old = "<mirror file='/copy' format='raw'/>"
    for mirror in (new, old):
        assert only(f"<disk type='file'><source file='/x'/>{mirror}<target dev='vda'/></disk>").mirror == "/copy"


def test_a_volume_is_known_by_its_pool() -> None:
    disk = only("<disk type='volume'><source pool='p' volume='v'/><target dev='vda'/></disk>")
    assert (disk.type, disk.pool, disk.volume, disk.source) == ("volume", "p", "v", None)


def test_a_change_touches_the_driver_type_and_the_source_only() -> None:
    before = domain(FILE, CHAIN)
    after = _disk_changes.with_changes(before, [DiskChange("vda", "/images/vm.qcow2", "qcow2")])
    expected = before.replace("type='raw'", "type='qcow2'", 1).replace("/images/vm.raw", "/images/vm.qcow2")
    assert _disk_changes.unexpected_difference(expected, after) is None
    assert after == expected.replace("'", '"').rstrip("\n")


def test_the_backing_files_go_with_the_overlay_and_no_gap_stays() -> None:
    after = _disk_changes.with_changes(domain(FILE, CHAIN), [DiskChange("vdb", "/images/flat.raw", "raw")])
    assert "backingStore" not in after
    assert '<source file="/images/flat.raw"/>\n      <target dev="vdb" bus="virtio"/>' in after


def test_several_disks_are_changed_at_once() -> None:
    changes = [DiskChange("vda", "/new/a", "qcow2"), DiskChange("vdb", "/new/b", "raw")]
    found = _disks.disks(_disk_changes.with_changes(domain(FILE, CHAIN), changes))
    assert [(disk.source, disk.format) for disk in found] == [("/new/a", "qcow2"), ("/new/b", "raw")]


def test_a_volume_becomes_a_file() -> None:
    volume = "<disk type='volume'><source pool='p' volume='v' mode='host' index='1'/><target dev='vda'/></disk>"
    after = _disk_changes.with_changes(domain(volume), [DiskChange("vda", "/images/v.qcow2", "qcow2")])
    (disk,) = _disks.disks(after)
    assert (disk.type, disk.source, disk.pool, disk.volume, disk.format) == (
        "file",
        "/images/v.qcow2",
        None,
        None,
        "qcow2",
    )
    assert "mode=" not in after


def test_a_disk_without_a_driver_gets_one() -> None:
    after = _disk_changes.with_changes(
        domain("<disk type='file'><source file='/x'/><target dev='vda'/></disk>"), [DiskChange("vda", "/y", "qcow2")]
    )
    assert '<disk type="file"><driver name="qemu" type="qcow2"/><source file="/y"/>' in after


def test_a_path_cannot_break_out_of_its_attribute() -> None:
    path = """/images/a"b'c<d>&e.qcow2"""
    after = _disk_changes.with_changes(domain(FILE), [DiskChange("vda", path, "qcow2")])
    assert [disk.source for disk in _disks.disks(after)] == [path]


def test_a_disk_that_is_not_there_cannot_be_changed() -> None:
    with pytest.raises(DiskError, match="vdz: the domain has no such disk"):
        _disk_changes.with_changes(domain(FILE), [DiskChange("vdz", "/x", "raw")])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("<controller type='usb' index='0'/>", '<controller index="0" type="usb"/>'),
        ("<a/>\n  <b/>", "<a/><b/>"),
        ("<controller type='b'/><controller type='a'/>", "<controller type='a'/><controller type='b'/>"),
        (
            "<controller type='a' index='10'/><controller type='a' index='9'/>",
            "<controller type='a' index='9'/><controller type='a' index='10'/>",
        ),
    ],
    ids=["quotes and order of attributes", "white space", "order of controllers", "numbers of controllers"],
)
def test_what_says_the_same_is_no_difference(one: str, other: str) -> None:
    assert _disk_changes.unexpected_difference(domain(rest=one), domain(rest=other)) is None


@pytest.mark.parametrize(
    "other",
    [
        "<serial>x </serial>",
        "<serial>y</serial>",
        "",
        "<serial a='1'>x</serial>",
        "<serial>x</serial><serial>x</serial>",
    ],
)
def test_what_says_something_else_is_a_difference(other: str) -> None:
    found = _disk_changes.unexpected_difference(domain(rest="<serial>x</serial>"), domain(rest=other))
    assert found is not None
    assert "-    <serial>x</serial>" in found or "+    <serial" in found


@pytest.mark.parametrize("password", ["passwd='se same'", 'passwd="se\'same"', "passwd=''"])
def test_a_diff_hides_passwords(password: str) -> None:
    before = domain(rest=f"<graphics type='vnc' {password} port='1'/>")
    shown = _disk_changes.definition_diff(before, before.replace("port='1'", "port='2'"))
    assert "same" not in shown
    assert shown.count("********") == 2
    assert "port" in shown


def test_a_diff_shows_only_what_changed() -> None:
    before = domain(FILE)
    after = _disk_changes.with_changes(before, [DiskChange("vda", "/images/vm.qcow2", "qcow2")])
    lines = [line for line in _disk_changes.definition_diff(before, after).splitlines() if line[:1] in "+-"]
    assert [line[:1] for line in lines] == ["-", "+", "-", "-", "+", "+"]


RECORD = Record(
    verb="convert",
    mode="live",
    started="2026-01-02T03:04:05+00:00",
    was_running=True,
    remove_source=False,
    disks=(
        RecordedDisk("vda", "/a 'b\" <&>.raw", "raw", "/ü.qcow2", "qcow2"),
        RecordedDisk("vdb", "/b", "raw", "/c", "qed", base="/base", options="cluster_size=4096", block="yes"),
    ),
)


def test_a_record_comes_back_as_it_was_written() -> None:
    assert _records.record_from_xml(_records.record_to_xml(RECORD)) == RECORD


def test_a_record_comes_back_from_under_libvirts_namespace() -> None:
    text = _records.record_to_xml(RECORD)
    moved = text.replace("<operation", "<kvmops:operation xmlns:kvmops='urn:kvmops:disk:1'")
    moved = moved.replace("</operation", "</kvmops:operation").replace("<disk", "<kvmops:disk")
    assert _records.record_from_xml(moved) == RECORD


@pytest.mark.parametrize(
    "text",
    ["<operation/>", "<operation verb='x' started='' was_running='no' remove_source='no'><disk new='1'/></operation>"],
)
def test_a_record_that_nobody_can_read_is_an_error_that_says_what_to_do(text: str) -> None:
    with pytest.raises(DiskError, match="virsh metadata DOMAIN --remove"):
        _records.record_from_xml(text)


@pytest.mark.parametrize(
    ("metadata", "kept"),
    [
        ("\n  <metadata/>", ""),
        ("\n  <metadata>\n  </metadata>", ""),
        ("\n  <metadata><a:b xmlns:a='urn:a'/></metadata>", "\n  <metadata><a:b xmlns:a='urn:a'/></metadata>"),
        ("\n  <metadata><!-- note --></metadata>", "\n  <metadata><!-- note --></metadata>"),
    ],
)
def test_only_an_empty_metadata_element_goes(metadata: str, kept: str) -> None:
    found = _disk_changes.without_empty_metadata(domain(FILE, metadata=metadata))
    assert _disk_changes.unexpected_difference(found, domain(FILE, metadata=kept)) is None


def test_nothing_is_rewritten_where_there_is_no_empty_metadata() -> None:
    assert _disk_changes.without_empty_metadata(domain(FILE)) == domain(FILE)


@pytest.mark.parametrize("path", ["/a\nb", "/a\tb", "/a\rb", "/a\x00b", "/a\x01b", "/a\x1bb", "/a\udcffb", "/a\ufffeb"])
def test_a_path_that_xml_cannot_say_is_refused(path: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^dest: "):
        _document.require_expressible(path, "dest")


@pytest.mark.parametrize("path", ["/a b", "/a,b", "/a:b", "/a'b\"c", "/-a", "/ünïcode-ディスク", "/&<>"])
def test_a_path_that_xml_can_say_is_taken(path: str) -> None:
    _document.require_expressible(path, "dest")


def test_entities_are_not_resolved(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("sesame")
    header = f"<!DOCTYPE domain [<!ENTITY x SYSTEM 'file://{secret}'><!ENTITY y 'expanded'>]>"
    xml = header + domain(FILE, rest="<serial>&x;&y;</serial>")
    after = _disk_changes.with_changes(xml, [DiskChange("vda", "/y", "qcow2")])
    assert "sesame" not in after
    assert "expanded" not in after
    assert "&x;" in after


def test_entities_that_explode_are_refused() -> None:
    levels = "".join(f"<!ENTITY a{n + 1} '{f'&a{n};' * 10}'>" for n in range(9))
    bomb = f"<!DOCTYPE domain [<!ENTITY a0 'x'>{levels}]>" + domain(rest="<serial a='&a9;'/>")
    with pytest.raises(Exception, match=r"(?i)entit|amplification"):
        _disks.disks(bomb)


@pytest.mark.parametrize(
    ("base", "left"),
    [
        ("/images/middle.qcow2", [("/images/middle.qcow2", "qcow2"), ("/images/base.raw", "raw")]),
        ("/images/base.raw", [("/images/base.raw", "raw")]),
        (None, []),
    ],
)
def test_a_chain_is_shortened_and_nothing_else_changes(base: str | None, left: list[tuple[str, str]]) -> None:
    before = domain(FILE, CHAIN)
    after = _disk_changes.with_shorter_chain(before, "vdb", base)
    assert _disks.disks(after)[1].chain == tuple(ChainLink(*link) for link in left)
    assert _disk_changes.with_shorter_chain(after, "vdb", base) == after
    old = (ChainLink("/images/middle.qcow2", "qcow2"), ChainLink("/images/base.raw", "raw"))
    assert _disk_changes.unexpected_difference(before, _disk_changes.with_chain(after, "vdb", old)) is None


def test_where_no_chain_is_said_none_is_written() -> None:
    xml = domain(FILE)
    assert _disk_changes.with_shorter_chain(xml, "vda", None) == xml
    assert _disk_changes.with_shorter_chain(xml, "vda", "/images/base.raw") == xml
    assert _disk_changes.with_chain(xml, "vda", [ChainLink("/images/base.raw", "raw")]) == xml
    none = domain(CHAIN.replace(CHAIN[CHAIN.index("<backingStore") : CHAIN.rindex("<target")], "<backingStore/>"))
    assert _disk_changes.with_shorter_chain(none, "vdb", None) == none


def test_a_base_that_the_xml_does_not_name_is_an_error() -> None:
    with pytest.raises(DiskError, match="does not name the backing file /images/other"):
        _disk_changes.with_shorter_chain(domain(CHAIN), "vdb", "/images/other")


def test_the_indexes_of_a_running_domain_are_read() -> None:
    live = CHAIN.replace("<backingStore type='file'>", "<backingStore type='file' index='3'>", 1)
    disk = only(live.replace("<source file='/images/top.qcow2'/>", "<source file='/images/top.qcow2' index='1'/>"))
    assert disk.index == "1"
    assert disk.chain is not None
    assert [link.index for link in disk.chain] == ["3", None]


def test_a_record_of_a_flattening_is_read_as_it_was_written() -> None:
    disks = (
        RecordedDisk(
            "vda", "/a.qcow2", "qcow2", "/a.qcow2", "qcow2", base="/c.raw", below="/b.qcow2", below_format="qcow2"
        ),
        RecordedDisk("vdb", "/d.qcow2", "qcow2", "/d.qcow2", "qcow2"),
    )
    record = Record("flatten", "live", "2026-01-02T03:04:05+00:00", True, False, disks, run="7")
    assert _records.record_from_xml(_records.record_to_xml(record)) == record
    assert "None" not in _records.record_to_xml(replace(record, run=None))
