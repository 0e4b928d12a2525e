# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which disks are converted, to where, and what stands in the way: decisions, without a world."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import replace
from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainDisk, DomainState
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, InvalidRequest
from ansible_collections.kvmops.disk.plugins.module_utils._formats.snapshots import Snapshot
from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
from ansible_collections.kvmops.disk.plugins.module_utils._image.layout import Layout
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert import decision as _decision
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert import (
    decision_conversion as _decision_conversion,
)
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert import decision_obstacles as _obstacles
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert.decision import Conversion
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert.decision_obstacles import Place
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert.wish import ConvertWish
from ansible_collections.kvmops.disk.plugins.module_utils._xml.disks import DiskElement
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
        _obstacles.require_convertible(state(**fields), [conversion()], [])


def test_a_domain_with_a_block_job_is_refused() -> None:
    with pytest.raises(DiskError, match="a block job runs on vdb"):
        _obstacles.require_convertible(state(), [conversion()], ["vdb"])


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"device": "cdrom"}, "is a cdrom"),
        ({"device": "floppy"}, "is a floppy"),
        ({"device": "lun", "type": "block"}, "is a lun"),
        ({"type": "vhostuser"}, "of type vhostuser"),
        ({"type": "network", "source": None}, "of type network"),
        ({"readonly": True}, "is read-only"),
        ({"shareable": True}, "is shareable"),
        ({"transient": True}, "is transient"),
    ],
)
def test_a_disk_that_is_none_to_exchange_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(DiskError, match=f"^vm: vda: .*{said}"):
        _obstacles.require_convertible(state(), [conversion(replace(ELEMENT, **fields))], [])


@pytest.mark.parametrize("defined", [None, element(source="/other"), element(image_format="qcow2")])
def test_a_guest_that_runs_on_another_disk_than_the_definition_names_is_refused(defined: DiskElement | None) -> None:
    item = Conversion(disk(defined, live=ELEMENT), "/images/vm.raw", "/images/new")
    with pytest.raises(DiskError, match="the guest runs on /images/vm"):
        _obstacles.require_convertible(state(), [item], [])


@pytest.mark.parametrize("shutdown", ["graceful", "force", "never"])
def test_a_domain_that_is_off_needs_no_permission(shutdown: str) -> None:
    _obstacles.require_stoppable(state(), wish(shutdown=shutdown))


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
        _obstacles.require_stoppable(state(state=word, active=True), wish(shutdown=shutdown))


def test_a_domain_that_may_and_can_go_off_is_taken() -> None:
    _obstacles.require_stoppable(state(state="running", active=True), wish())
    _obstacles.require_stoppable(state(state="paused", active=True), wish(shutdown="force"))


IMAGE = Image("/images/vm.raw", "raw", 1 << 20, 4096)


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
        _obstacles.require_convertible_image(conversion(), image, keep_source)


def test_internal_snapshots_stay_in_a_source_that_is_kept() -> None:
    image = replace(IMAGE, snapshots=(Snapshot("1", "s", "", 0, 0),))
    _obstacles.require_convertible_image(conversion(), image, keep_source=True)


def test_an_encrypted_disk_is_refused_by_its_definition_alone() -> None:
    with pytest.raises(DiskError, match="is encrypted"):
        _obstacles.require_convertible_image(conversion(replace(ELEMENT, encrypted=True)), IMAGE, keep_source=True)


def test_a_destination_must_be_free_new_and_its_own() -> None:
    first, second = conversion(), conversion(element(target="vdb"), "/images/vm.qcow2")
    free = Place("/images/vm.qcow2")
    with pytest.raises(DiskError, match="exists already"):
        require_free(first, place=replace(free, exists=True))
    with pytest.raises(InvalidRequest, match="same file"):
        require_free(conversion(dest="/images/./vm.raw"), place=Place("/images/vm.raw", is_source=True))
    with pytest.raises(InvalidRequest, match="two disks would become"):
        require_free(first, second, place=free)
    require_free(first, place=free)


def test_a_block_device_is_a_destination_only_where_it_is_meant() -> None:
    device = Place("/dev/vg/lv", is_block_device=True, exists=True)
    with pytest.raises(InvalidRequest, match="is a block device, whose content would be overwritten"):
        require_free(conversion(dest="/dev/vg/lv"), place=device)
    with pytest.raises(InvalidRequest, match="asked for a block device, and is something else"):
        require_free(conversion(), place=Place("/images/vm.qcow2"), block_device=True)
    require_free(conversion(dest="/dev/vg/lv"), place=device, block_device=True)


def require_free(*conversions: Conversion, place: Place, block_device: bool = False) -> None:
    """Where the same is found for all of CONVERSIONS."""
    places = {item.target: place for item in conversions}
    _obstacles.require_free_destinations(conversions, places, block_device=block_device)


def test_a_disk_whose_guest_is_on_the_new_image_needs_no_conversion() -> None:
    there = RecordedDisk("vda", "/images/vm.raw", "raw", "/images/vm.qcow2", "qcow2")
    assert _decision.without_pivoted([conversion()], [there], wish()) == []
    assert _decision.without_pivoted([conversion()], [replace(there, format="raw")], wish()) == [conversion()]
    assert _decision.without_pivoted([conversion()], [], wish()) == [conversion()]


def test_the_plan_says_what_becomes_of_the_disks_and_of_the_definition() -> None:
    definition = (
        "<domain><devices><disk type='file' device='disk'><driver name='qemu' type='raw'/>"
        "<source file='/images/vm.raw'/><target dev='vda'/></disk></devices></domain>"
    )
    plan = _decision_conversion.plan(state(definition=definition), wish(), [conversion()], ())
    assert plan.before == {"vda": {"path": "/images/vm.raw", "format": "raw"}}
    assert plan.after == {"vda": {"path": "/images/vm.qcow2", "format": "qcow2"}}
    assert "/images/vm.qcow2" in plan.diff[0]["prepared"]


def test_a_recorded_conversion_is_defined_once_the_definition_names_its_image() -> None:
    record = RecordedDisk("vda", "/images/vm.raw", "raw", "/images/vm.qcow2", "qcow2")
    new = element(source="/images/vm.qcow2", image_format="qcow2")
    assert not _decision_conversion.is_defined(state(), record)
    assert not _decision_conversion.is_defined(state(disk(element(source="/images/vm.qcow2"))), record)
    assert not _decision_conversion.is_defined(state(disk(ELEMENT, live=new)), record), (
        "what runs does not count, what is defined does"
    )
    assert _decision_conversion.is_defined(state(disk(new)), record)


def test_the_new_image_is_predicted_alone_and_as_large_as_its_source() -> None:
    found = _decision_conversion.predicted(conversion(), replace(IMAGE, backing_file="/base"), "qcow2")
    assert (found.path, found.format, found.virtual_size) == ("/images/vm.qcow2", "qcow2", 1 << 20)
    assert found.backing_file is None


def renamed(*items: Conversion, taken: Sequence[str] = (), wanted: ConvertWish | None = None) -> list[str]:
    found = _decision.renamed(items, wanted or wish(), lambda path, _item: path in taken)
    return [item.dest for item in found]


def test_an_image_that_has_the_name_of_the_new_one_already_gives_it_the_next() -> None:
    own = Conversion(disk(element(source="/images/x.qcow2")), "/images/x.qcow2", "/images/x.qcow2")
    assert renamed(own) == ["/images/x.1.qcow2"]
    assert renamed(own, taken=["/images/x.1.qcow2"]) == ["/images/x.2.qcow2"]
    other = Conversion(disk(element("vdb", "/images/x.raw")), "/images/x.raw", "/images/x.qcow2")
    assert renamed(own, other) == ["/images/x.1.qcow2", "/images/x.2.qcow2"]
    assert renamed(other, other) == ["/images/x.qcow2", "/images/x.1.qcow2"], "two disks never become one file"


def test_a_name_that_is_given_or_free_stays() -> None:
    own = Conversion(disk(element(source="/images/x.qcow2")), "/images/x.qcow2", "/images/x.qcow2")
    assert renamed(own, wanted=wish(dest="/images/x.qcow2")) == ["/images/x.qcow2"], "to be refused"
    assert renamed(conversion(), taken=["/images/vm.qcow2"]) == ["/images/vm.qcow2"], "to be refused, too"


def test_a_disk_with_such_a_name_is_known_by_its_old_path() -> None:
    new = element(source="/images/x.1.qcow2", image_format="qcow2")
    assert _decision.select(state(disk(new)), wish("/images/x.qcow2"))[1] == []
    strange = element(source="/images/x.old.qcow2", image_format="qcow2")
    with pytest.raises(InvalidRequest, match="has no disk"):
        _decision.select(state(disk(strange)), wish("/images/x.qcow2"))
