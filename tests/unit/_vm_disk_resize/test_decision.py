# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""To what size a disk goes, by which way, and what stands in the way: decisions, without a world."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import replace
from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainDisk, DomainState
from ansible_collections.kvmops.disk.plugins.module_utils._errors import (
    DiskError,
    InvalidRequest,
    NotEnoughSpace,
    UnsafeImage,
)
from ansible_collections.kvmops.disk.plugins.module_utils._formats.snapshots import Snapshot
from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_resize import decision as _decision
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_resize import decision_obstacles as _obstacles
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_resize.decision import Resizing
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_resize.wish import ResizeWish
from ansible_collections.kvmops.disk.plugins.module_utils._xml.disks import DiskElement
from unit import samples

GIB = 1 << 30
ELEMENT = samples.element("/images/vm.qcow2", "qcow2")
IMAGE = Image(
    "/images/vm.qcow2", "qcow2", 30 * GIB, GIB, cluster_size=65536, compat="1.1", refcount_bits=16, extended_l2=False
)
RAW = Image("/images/vm.raw", "raw", 30 * GIB, GIB)
SNAPSHOT = Snapshot("1", "before", "2024-01-01T00:00:00+00:00", 0, 30 * GIB)


def disk(defined: DiskElement | None = ELEMENT, live: DiskElement | None = None) -> DomainDisk:
    return samples.disk(defined, live)


def state(*disks: DomainDisk, **fields: Any) -> DomainState:
    return samples.domain(*(disks or (disk(),)), **fields)


def item(after: int = 40, image: Image = IMAGE, *, live: bool = False, of: DomainDisk | None = None) -> Resizing:
    """A disk that is to have AFTER GiB."""
    return Resizing(of or disk(), image, image.virtual_size, after * GIB, live)


class Nobody:
    """Work that is never done."""

    def grow_live(self) -> None: ...

    def resize(self) -> None: ...

    def revert(self) -> None: ...


def refusal(
    what: Resizing,
    *,
    found: DomainState | None = None,
    wish: ResizeWish | None = None,
    jobs: tuple[str, ...] = (),
) -> DiskError:
    with pytest.raises(DiskError) as caught:
        _obstacles.require_resizable(found or state(what.disk), what, wish or ResizeWish(), jobs)
    return caught.value


# What stands in the way


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"device": "cdrom"}, "is a cdrom"),
        ({"device": "floppy"}, "is a floppy"),
        ({"device": "lun", "type": "block"}, "is a lun"),
        ({"type": "block", "source": "/dev/vg/lv"}, "is the block device /dev/vg/lv.*lvextend.*virsh blockresize"),
        ({"type": "network", "source": None}, "of type network.*virsh blockresize"),
        ({"type": "file", "source": None}, "of type file"),
        ({"sliced": True}, "is a slice of /images/vm.qcow2"),
    ],
)
def test_only_image_files_are_resized(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(DiskError, match=said):
        _decision.require_image_file(state(), disk(replace(ELEMENT, **fields)))


@pytest.mark.parametrize("live", [True, False])
def test_a_usual_disk_grows(live: bool) -> None:
    _obstacles.require_resizable(state(), item(live=live), ResizeWish(), ())


def test_a_disk_that_is_off_shrinks_only_when_told() -> None:
    assert "cannot shrink from 30 GiB to 20 GiB: set shrink=true" in str(refusal(item(20)))
    _obstacles.require_resizable(state(), item(20), ResizeWish(shrink=True), ())


@pytest.mark.parametrize("shrink", [True, False])
@pytest.mark.parametrize("word", ["running", "paused"])
def test_a_disk_is_never_shrunk_under_its_guest(shrink: bool, word: str) -> None:
    error = refusal(item(20, live=True), found=state(state=word), wish=ResizeWish(shrink=shrink))
    assert f"cannot shrink from 30 GiB to 20 GiB while it is {word}" in str(error)
    assert error.facts == {"virtual_size": 30 * GIB}


@pytest.mark.parametrize("fields", [{"snapshots": ("before",)}, {"checkpoints": ("before",)}])
def test_snapshots_and_checkpoints_forbid_shrinking_and_not_growing(fields: dict[str, Any]) -> None:
    assert "snapshots or checkpoints (before)" in str(
        refusal(item(20), found=state(**fields), wish=ResizeWish(shrink=True))
    )
    _obstacles.require_resizable(state(**fields), item(40), ResizeWish(), ())


@pytest.mark.parametrize("kind", ["readonly", "shareable", "transient"])
@pytest.mark.parametrize("live", [True, False])
def test_a_disk_that_may_have_other_users_is_not_resized(kind: str, live: bool) -> None:
    fields: dict[str, Any] = {kind: True}
    element = replace(ELEMENT, **fields)
    assert "not resized" in str(refusal(item(live=live, of=disk(element, element if live else None))))


@pytest.mark.parametrize(
    "other",
    [{"source": "/images/other.qcow2"}, {"format": "raw"}, {"source": None, "type": "volume", "volume": "other"}],
)
def test_a_guest_on_another_disk_than_the_defined_one_is_left_alone(other: dict[str, Any]) -> None:
    error = refusal(item(live=True, of=disk(replace(ELEMENT, **other), ELEMENT)))
    assert "the guest runs on /images/vm.qcow2 (qcow2), but the definition names" in str(error)


def test_a_disk_that_was_plugged_in_grows_with_its_guest() -> None:
    _obstacles.require_resizable(state(), item(live=True, of=disk(None, ELEMENT)), ResizeWish(), ())


def test_a_block_job_on_the_disk_forbids_it_and_one_on_another_does_not() -> None:
    error = refusal(item(live=True), jobs=("vda", "vdb"))
    assert "a block job runs on vda" in str(error)
    assert error.facts == {"block_jobs": ["vda"]}
    _obstacles.require_resizable(state(), item(live=True), ResizeWish(), ("vdb",))


def test_a_job_of_the_domain_forbids_it() -> None:
    assert "is being migrated" in str(refusal(item(live=True), found=state(busy=True)))


@pytest.mark.parametrize("live", [True, False])
@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"format": "vmdk"}, "vmdk images cannot be resized: convert the disk first"),
        ({"corrupt": True}, "is marked corrupt"),
        ({"compat": "0.10", "snapshots": (SNAPSHOT,)}, "compat 0.10 with 1 internal snapshot"),
        ({"cluster_size": 512}, "more than a qcow2 image with clusters of 512 bytes can hold"),
    ],
)
def test_an_image_that_cannot_have_the_size_is_refused(fields: dict[str, Any], said: str, live: bool) -> None:
    assert said in str(refusal(item(200 * 1024, replace(IMAGE, **fields), live=live)))


def test_a_newer_image_with_snapshots_grows() -> None:
    _obstacles.require_resizable(state(), item(image=replace(IMAGE, snapshots=(SNAPSHOT,))), ResizeWish(), ())


def test_a_qed_image_only_grows() -> None:
    image = Image("/images/vm.qed", "qed", 30 * GIB, GIB, cluster_size=65536)
    _obstacles.require_resizable(state(), item(image=image), ResizeWish(), ())
    assert "qed images only grow" in str(refusal(item(20, image), wish=ResizeWish(shrink=True)))


@pytest.mark.parametrize(
    ("image", "found", "said"),
    [
        (IMAGE, {"managed_save": True}, "managed-save image"),
        (replace(IMAGE, encrypted=True), {}, "is encrypted.*start the domain"),
        (replace(IMAGE, data_file="/images/data"), {}, "keeps its data in another file, /images/data"),
    ],
)
def test_what_only_its_guest_can_grow(image: Image, found: dict[str, Any], said: str) -> None:
    with pytest.raises(DiskError, match=said):
        _obstacles.require_resizable(state(**found), item(image=image), ResizeWish(), ())
    _obstacles.require_resizable(state(**found), item(image=image, live=True), ResizeWish(), ())


@pytest.mark.parametrize("preallocation", ["metadata", "falloc", "full"])
def test_space_under_a_guest_cannot_be_reserved(preallocation: str) -> None:
    wish = ResizeWish(preallocation=preallocation)
    assert "cannot be reserved" in str(refusal(item(live=True), wish=wish))
    _obstacles.require_resizable(state(), item(live=True), ResizeWish(preallocation="off"), ())


@pytest.mark.parametrize(
    ("image_format", "preallocation", "valid"),
    [
        ("raw", "metadata", False),
        ("raw", "falloc", True),
        ("qcow2", "metadata", True),
        ("qed", "off", True),
        ("qed", "full", False),
        ("vmdk", "full", True),
    ],
)
def test_a_policy_that_the_format_does_not_know_is_refused(image_format: str, preallocation: str, valid: bool) -> None:
    wish = ResizeWish(preallocation=preallocation)
    if valid:
        _decision.require_valid_policy(wish, image_format)
        return
    with pytest.raises(InvalidRequest, match="preallocation"):
        _decision.require_valid_policy(wish, image_format)


@pytest.mark.parametrize(("before", "after", "below", "cut"), [(30, 20, 25, True), (30, 25, 25, False)])
def test_an_overlay_is_not_shrunk_below_its_backing_file(before: int, after: int, below: int, cut: bool) -> None:
    overlay = replace(IMAGE, virtual_size=before * GIB, backing_file="/images/base.raw")
    base = replace(RAW, path="/images/base.raw", virtual_size=below * GIB)
    if not cut:
        _obstacles.require_no_cut(item(after, overlay), base)
        return
    with pytest.raises(DiskError, match=r"its backing file /images/base\.raw has 25 GiB"):
        _obstacles.require_no_cut(item(after, overlay), base)


def test_an_overlay_that_was_smaller_than_its_backing_file_all_along_may_grow() -> None:
    overlay = replace(IMAGE, virtual_size=30 * GIB, backing_file="/images/base.raw")
    _obstacles.require_no_cut(item(40, overlay), replace(RAW, virtual_size=50 * GIB))


@pytest.mark.parametrize("verb", ["commit", "reconcile", "unknown"])
def test_what_a_dead_run_left_is_not_grown_under_a_guest(verb: str) -> None:
    left = {"verb": verb, "started": "yesterday"}
    with pytest.raises(
        DiskError, match=f"a run \\({verb}\\) was interrupted on it, and it cannot be checked"
    ) as caught:
        _obstacles.require_settled(state(active=True, state="running"), item(live=True), left)
    assert caught.value.facts == {"operation": left}


@pytest.mark.parametrize(
    "left", [None, {"verb": "resize"}, {"verb": "convert"}, {"verb": "flatten"}, {"verb": "commit", "alive": True}]
)
def test_what_leaks_at_most_or_lives_is_no_reason_against_growing(left: dict[str, Any] | None) -> None:
    _obstacles.require_settled(state(active=True, state="running"), item(live=True), left)


def test_a_growth_that_does_not_fit_says_that_it_would_be_allocated() -> None:
    error = _obstacles.fully_allocated(NotEnoughSpace("/images: has 1 GiB", available_bytes=GIB))
    assert str(error).startswith("/images: has 1 GiB. The image is fully allocated")
    assert error.facts == {"available_bytes": GIB}


# The policy


@pytest.mark.parametrize(
    ("image", "asked", "length", "kept"),
    [
        (RAW, None, 30, None),
        (replace(RAW, actual_size=30 * GIB), None, 30, "falloc"),
        (replace(RAW, actual_size=30 * GIB), "off", 30, None),
        (replace(RAW, actual_size=30 * GIB), "full", 30, "full"),
        (RAW, "falloc", 30, "falloc"),
        (IMAGE, None, 1, None),
        (IMAGE, None, 31, "metadata"),
        (IMAGE, "off", 31, None),
        (replace(IMAGE, actual_size=31 * GIB), None, 31, "falloc"),
        (replace(IMAGE, actual_size=31 * GIB, snapshots=(SNAPSHOT,)), None, 31, None),
        (replace(IMAGE, actual_size=31 * GIB, backing_file="/images/base"), None, 31, None),
        (replace(IMAGE, actual_size=31 * GIB, format="qed"), None, 31, None),
    ],
)
def test_the_policy_of_what_is_added(image: Image, asked: str | None, length: int, kept: str | None) -> None:
    assert _decision.policy(ResizeWish(preallocation=asked), item(image=image), length * GIB) == kept


def test_nothing_is_preallocated_where_an_image_shrinks() -> None:
    thick = replace(RAW, actual_size=30 * GIB)
    assert _decision.policy(ResizeWish(preallocation="full", shrink=True), item(20, thick), 30 * GIB) is None


@pytest.mark.parametrize(
    ("after", "chosen", "needed"),
    [
        (40, None, 65536),
        (30, None, 0),
        (40, "metadata", 7),
        (40, "falloc", 10 * GIB + 7),
        (40, "full", 10 * GIB + 7),
        (20, "full", 0),
    ],
)
def test_the_space_that_a_growth_takes_at_once(after: int, chosen: str | None, needed: int) -> None:
    assert _decision.bytes_added(item(after), chosen, 7) == needed


def test_a_thin_image_takes_a_new_first_table_at_once_where_the_old_one_is_too_short() -> None:
    small = replace(IMAGE, virtual_size=GIB, cluster_size=4096)
    assert _decision.bytes_added(item(40, small), None, 7) == 20480 * 8
    assert _decision.bytes_added(item(40, replace(small, extended_l2=True)), None, 7) == 40960 * 8
    within = replace(IMAGE, virtual_size=GIB - 1024)
    assert _decision.bytes_added(item(1, within), None, 7) == 0, "the last one covers 512 MiB anyway"
    assert _decision.bytes_added(item(40, RAW), None, 7) == 0


# The plan


@pytest.mark.parametrize(
    ("what", "chosen", "said"),
    [
        (item(live=True), None, "grow vda of vm from 30 GiB to 40 GiB while it runs (/images/vm.qcow2)"),
        (item(), None, "grow vda of vm from 30 GiB to 40 GiB (/images/vm.qcow2)"),
        (item(), "falloc", "grow vda of vm from 30 GiB to 40 GiB (/images/vm.qcow2, preallocation falloc)"),
        (item(20), None, "shrink vda of vm from 30 GiB to 20 GiB (/images/vm.qcow2)"),
    ],
)
def test_the_plan_says_what_is_done(what: Resizing, chosen: str | None, said: str) -> None:
    plan = _decision.plan_resize(state(), what, chosen, Nobody())
    assert [step.summary for step in plan.steps] == [said]
    assert plan.before == {"vda": {"virtual_size": what.before}}
    assert plan.after == {"vda": {"virtual_size": what.after}}
    undone = what.growth > 0 and not what.live
    assert (plan.steps[0].undo is not None) == undone, "only what has added nothing but zeros can be undone"


def test_another_size_than_asked_for_is_an_error() -> None:
    _obstacles.require_size_reached(item(), 40 * GIB)
    with pytest.raises(DiskError, match="has 41 GiB after the resize, asked for 40 GiB"):
        _obstacles.require_size_reached(item(), 41 * GIB)


def test_what_is_said_of_a_corrupt_image_names_it() -> None:
    error = refusal(item(image=replace(IMAGE, corrupt=True)))
    assert isinstance(error, UnsafeImage)
    assert error.facts == {"path": "/images/vm.qcow2"}
