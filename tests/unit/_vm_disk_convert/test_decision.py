# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which disks are converted, to where, and what stands in the way: decisions, without a world."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._domain import disk_chain as _disk_chain
from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainDisk, DomainState
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, InvalidRequest, UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._formats.qcow2 import Snapshot
from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
from ansible_collections.kvmops.disk.plugins.module_utils._image.layout import Layout
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert import decision as _decision
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert.decision import Conversion
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert.wish import ConvertWish
from ansible_collections.kvmops.disk.plugins.module_utils._xml.disks import ChainLink, DiskElement
from ansible_collections.kvmops.disk.plugins.module_utils._xml.records import RecordedDisk
from unit import samples

ELEMENT = samples.element()


def element(
    target: str = "vda", source: str | None = "/images/vm.raw", image_format: str = "raw", **fields: Any
) -> DiskElement:
    return samples.element(source, image_format, target=target, **fields)


def disk(defined: DiskElement | None = ELEMENT, live: DiskElement | None = None) -> DomainDisk:
    return samples.disk(defined, live)


def state(*disks: DomainDisk, **fields: Any) -> DomainState:
    return samples.domain(*(disks or (disk(),)), **fields)


def wish(*disks: str, image_format: str = "qcow2", **fields: Any) -> ConvertWish:
    return ConvertWish(disks or ("vda",), Layout(format=image_format), **fields)


def conversion(element: DiskElement = ELEMENT, dest: str = "/images/vm.qcow2") -> Conversion:
    return Conversion(disk(element), element.source or "", dest)


@pytest.mark.parametrize(
    ("source", "image_format", "dest"),
    [
        ("/i/vm.raw", "qcow2", "/i/vm.qcow2"),
        ("/i/vm.img", "qcow2", "/i/vm.qcow2"),
        ("/i/vm.IMG", "vmdk", "/i/vm.vmdk"),
        ("/i/vm.qcow2", "raw", "/i/vm.raw"),
        ("/i/vm.vpc", "qcow2", "/i/vm.qcow2"),
        ("/i/vm.raw", "vpc", "/i/vm.vhd"),
        ("/i/vm", "qcow2", "/i/vm.qcow2"),
        ("/i/web.example.org", "qcow2", "/i/web.example.org.qcow2"),
        ("/i/.raw", "qcow2", "/i/.raw.qcow2"),
        ("/i.raw/vm", "qcow2", "/i.raw/vm.qcow2"),
    ],
)
def test_the_new_name_is_the_old_one_with_the_suffix_of_the_format(source: str, image_format: str, dest: str) -> None:
    assert wish(image_format=image_format).destination(source) == dest


def test_dest_dir_changes_the_directory_and_dest_everything() -> None:
    assert wish(dest_dir="/fast").destination("/i/vm.raw") == "/fast/vm.qcow2"
    assert wish(dest="/fast/root").destination("/i/vm.raw") == "/fast/root"


@pytest.mark.parametrize("name", ["vda", "/images/vm.raw"])
def test_a_disk_is_meant_by_its_target_or_its_source(name: str) -> None:
    meant, conversions = _decision.select(state(), wish(name))
    assert [found.target for found in meant] == ["vda"]
    assert [(item.source, item.dest) for item in conversions] == [("/images/vm.raw", "/images/vm.qcow2")]


def test_a_disk_that_is_named_twice_is_converted_once() -> None:
    meant, conversions = _decision.select(state(), wish("vda", "/images/vm.raw"))
    assert len(meant) == len(conversions) == 1


def test_a_converted_disk_is_known_by_its_old_source() -> None:
    done = state(disk(element(source="/images/vm.qcow2", image_format="qcow2")))
    meant, conversions = _decision.select(done, wish("/images/vm.raw"))
    assert [found.target for found in meant] == ["vda"]
    assert conversions == []


def test_an_old_source_is_not_taken_for_a_disk_that_merely_stands_where_it_would_go() -> None:
    other = state(disk(element(source="/images/vm.qcow2", image_format="raw")))
    with pytest.raises(InvalidRequest, match="has no disk"):
        _decision.select(other, wish("/images/vm.raw"))


def test_a_missing_disk_is_an_error_that_names_those_there_are() -> None:
    with pytest.raises(InvalidRequest, match=r"vm: has no disk vdx: it has vda \(/images/vm.raw\)"):
        _decision.select(state(), wish("vdx"))


@pytest.mark.parametrize(
    ("found", "wanted", "to_do"),
    [
        (element(image_format="qcow2"), wish(), 0),
        (element(), wish(), 1),
        (element(source="/fast/vm.qcow2", image_format="qcow2"), wish(dest_dir="/fast/"), 0),
        (element(image_format="qcow2"), wish(dest_dir="/fast"), 1),
        (element(source="/a/../b", image_format="qcow2"), wish(dest="/b"), 0),
        (element(source="/b", image_format="raw"), wish(dest="/b"), 1),
    ],
)
def test_a_disk_is_converted_unless_format_and_place_are_as_wanted(
    found: DiskElement, wanted: ConvertWish, to_do: int
) -> None:
    assert len(_decision.select(state(disk(found)), wanted)[1]) == to_do


def test_a_disk_is_as_wanted_only_if_it_both_runs_and_is_defined_so() -> None:
    new = element(source="/images/vm.qcow2", image_format="qcow2")
    assert len(_decision.select(state(disk(ELEMENT, live=new)), wish())[1]) == 1
    assert len(_decision.select(state(disk(new, live=ELEMENT)), wish())[1]) == 1
    assert _decision.select(state(disk(new, live=new)), wish())[1] == []


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"persistent": False}, "is transient"),
        ({"managed_save": True}, "managed-save image"),
        ({"snapshots": ("a", "b")}, r"2 snapshot\(s\) \(a, b\)"),
        ({"checkpoints": ("c",)}, r"checkpoints \(c\)"),
        ({"busy": True}, "is being migrated, saved, dumped or backed up"),
    ],
)
def test_a_domain_in_no_state_for_it_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(DiskError, match=said):
        _decision.require_convertible(state(**fields), [conversion()], [])


def test_a_domain_with_a_block_job_is_refused() -> None:
    with pytest.raises(DiskError, match="a block job runs on vdb"):
        _decision.require_convertible(state(), [conversion()], ["vdb"])


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"device": "cdrom"}, "is a cdrom"),
        ({"device": "floppy"}, "is a floppy"),
        ({"device": "lun", "type": "block"}, "is a lun"),
        ({"type": "block"}, "of type block"),
        ({"type": "network", "source": None}, "of type network"),
        ({"readonly": True}, "is read-only"),
        ({"shareable": True}, "is shareable"),
        ({"transient": True}, "is transient"),
    ],
)
def test_a_disk_that_is_none_to_exchange_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(DiskError, match=f"^vm: vda: .*{said}"):
        _decision.require_convertible(state(), [conversion(replace(ELEMENT, **fields))], [])


@pytest.mark.parametrize("defined", [None, element(source="/other"), element(image_format="qcow2")])
def test_a_guest_that_runs_on_another_disk_than_the_definition_names_is_refused(defined: DiskElement | None) -> None:
    item = Conversion(disk(defined, live=ELEMENT), "/images/vm.raw", "/images/new")
    with pytest.raises(DiskError, match="the guest runs on /images/vm"):
        _decision.require_convertible(state(), [item], [])


@pytest.mark.parametrize("shutdown", ["graceful", "force", "never"])
def test_a_domain_that_is_off_needs_no_permission(shutdown: str) -> None:
    _decision.require_stoppable(state(), wish(shutdown=shutdown))


@pytest.mark.parametrize(
    ("word", "shutdown", "said"),
    [
        ("running", "never", "shutdown is never"),
        ("paused", "never", "shutdown is never"),
        ("paused", "graceful", "is paused"),
        ("crashed", "graceful", "is crashed"),
    ],
)
def test_a_domain_that_may_or_can_not_go_off_is_refused(word: str, shutdown: str, said: str) -> None:
    with pytest.raises(DiskError, match=said):
        _decision.require_stoppable(state(state=word, active=True), wish(shutdown=shutdown))


def test_a_domain_that_may_and_can_go_off_is_taken() -> None:
    _decision.require_stoppable(state(state="running", active=True), wish())
    _decision.require_stoppable(state(state="paused", active=True), wish(shutdown="force"))


IMAGE = Image("/images/vm.raw", "raw", 1 << 20, 4096)


def test_references_must_be_in_the_definition_or_trusted() -> None:
    overlay = replace(IMAGE, backing_file="/base")
    with pytest.raises(UnsafeImage, match="has the backing file /base"):
        _disk_chain.require_known_references(state(), disk(), [overlay], trusted=False)
    _disk_chain.require_known_references(state(), disk(), [overlay], trusted=True)
    known = disk(replace(ELEMENT, chain=(ChainLink("/base", "raw"),)))
    _disk_chain.require_known_references(state(), known, [overlay], trusted=False)


def test_a_data_file_is_never_in_the_definition() -> None:
    known = disk(replace(ELEMENT, chain=(ChainLink("/data", "raw"),)))
    with pytest.raises(UnsafeImage, match="keeps its data in /data"):
        _disk_chain.require_known_references(state(), known, [replace(IMAGE, data_file="/data")], trusted=False)


@pytest.mark.parametrize(
    ("image", "keep_source", "said"),
    [
        (replace(IMAGE, encrypted=True), True, "is encrypted"),
        (replace(IMAGE, corrupt=True), True, "is marked corrupt"),
        (replace(IMAGE, snapshots=(Snapshot("1", "s", "", 0, 0),)), False, r"1 internal snapshot\(s\) \(s\)"),
    ],
)
def test_an_image_that_would_lose_something_is_refused(image: Image, keep_source: bool, said: str) -> None:
    with pytest.raises(DiskError, match=said):
        _decision.require_convertible_image(conversion(), image, keep_source)


def test_internal_snapshots_stay_in_a_source_that_is_kept() -> None:
    image = replace(IMAGE, snapshots=(Snapshot("1", "s", "", 0, 0),))
    _decision.require_convertible_image(conversion(), image, keep_source=True)


def test_an_encrypted_disk_is_refused_by_its_definition_alone() -> None:
    with pytest.raises(DiskError, match="is encrypted"):
        _decision.require_convertible_image(conversion(replace(ELEMENT, encrypted=True)), IMAGE, keep_source=True)


def test_a_destination_must_be_free_new_and_its_own() -> None:
    first, second = conversion(), conversion(element(target="vdb"), "/images/vm.qcow2")
    with pytest.raises(DiskError, match="exists already"):
        _decision.require_free_destinations([first], lambda _path: True)
    with pytest.raises(InvalidRequest, match="same file"):
        _decision.require_free_destinations([conversion(dest="/images/./vm.raw")], lambda _path: False)
    with pytest.raises(InvalidRequest, match="two disks would become"):
        _decision.require_free_destinations([first, second], lambda _path: False)
    _decision.require_free_destinations([first], lambda _path: False)


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (wish("vda", "vdb", dest="/x"), "dest: names one file"),
        (wish(shutdown_timeout=0), "shutdown_timeout: 0 s"),
        (wish(image_format="raw", compress=True), "raw images cannot be compressed"),
    ],
)
def test_a_wish_that_contradicts_itself_is_refused(wanted: ConvertWish, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        wanted.require_valid()


def test_a_recorded_conversion_is_defined_once_the_definition_names_its_image() -> None:
    record = RecordedDisk("vda", "/images/vm.raw", "raw", "/images/vm.qcow2", "qcow2")
    new = element(source="/images/vm.qcow2", image_format="qcow2")
    assert not _decision.is_defined(state(), record)
    assert not _decision.is_defined(state(disk(element(source="/images/vm.qcow2"))), record)
    assert not _decision.is_defined(state(disk(ELEMENT, live=new)), record), (
        "what runs does not count, what is defined does"
    )
    assert _decision.is_defined(state(disk(new)), record)


def test_the_new_image_is_predicted_alone_and_as_large_as_its_source() -> None:
    found = _decision.predicted(conversion(), replace(IMAGE, backing_file="/base"), "qcow2")
    assert (found.path, found.format, found.virtual_size) == ("/images/vm.qcow2", "qcow2", 1 << 20)
    assert found.backing_file is None
