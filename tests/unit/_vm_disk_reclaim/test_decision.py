# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which disks give something back, what is foretold of them, and what stands in the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._content.bitmaps import Carried
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import replace
from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainState
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, InvalidRequest
from ansible_collections.kvmops.disk.plugins.module_utils._formats.bitmaps import Bitmap
from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.domain import GuestFileSystem
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_reclaim import decision as _decision
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_reclaim import decision_obstacles as _obstacles
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_reclaim.decision import Reclaiming
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_reclaim.wish import ReclaimWish, Threshold
from unit import samples
from unit.samples import MIB, qcow2, raw

WISH = ReclaimWish(("vda",))
GROWN = qcow2(virtual_size=100 * MIB, actual_size=80 * MIB)
ELEMENT = samples.element("/images/web.qcow2", "qcow2")
UNMAP = replace(ELEMENT, discard="unmap")


def item(image: Image = GROWN, most: int | None = None, **element: Any) -> Reclaiming:
    found = replace(ELEMENT, **element)
    return Reclaiming(samples.disk(found), (image,), most)


def running(found: Reclaiming, live: Any = UNMAP, **facts: Any) -> tuple[DomainState, Reclaiming]:
    disk = replace(found.disk, live=live)
    state = samples.domain(disk, **{"state": "running", "active": True, "live": "<domain/>", **facts})
    return state, replace(found, disk=disk)


# What is worth the work


@pytest.mark.parametrize(
    ("image", "most", "wish", "why"),
    [
        (GROWN, 20 * MIB, WISH, None),
        (GROWN, None, WISH, None),
        (GROWN, 73 * MIB, WISH, "min_gain"),
        (GROWN, 72 * MIB, WISH, None),
        (GROWN, 90 * MIB, WISH, "min_gain"),
        (GROWN, 80 * MIB, replace(WISH, min_gain=Threshold()), "min_gain"),
        (GROWN, 80 * MIB - 1, replace(WISH, min_gain=Threshold()), None),
        (replace(GROWN, actual_size=100 * MIB), 20 * MIB, WISH, "thick"),
        (replace(GROWN, actual_size=100 * MIB), 20 * MIB, replace(WISH, thick=True), None),
    ],
)
def test_a_disk_is_left_alone_that_is_thick_or_gives_too_little(
    image: Image, most: int | None, wish: ReclaimWish, why: str | None
) -> None:
    assert _decision.why_left_alone(item(image, most), wish) == why


def test_a_disk_that_is_named_twice_is_meant_once_and_one_that_is_missing_is_refused() -> None:
    state = samples.domain(samples.disk(ELEMENT))
    both = replace(WISH, disks=("vda", "/images/web.qcow2"))
    assert [disk.target for disk in _decision.select(state, both)] == ["vda"]
    with pytest.raises(InvalidRequest, match="has no disk vdz"):
        _decision.select(state, replace(WISH, disks=("vdz",)))


# What a guest tells


@pytest.mark.parametrize(
    ("systems", "most"),
    [
        ([GuestFileSystem("/", 10 * MIB, 90 * MIB, ("vda",))], 20 * MIB),
        ([GuestFileSystem("/", 1, 40 * MIB, ("vda",)), GuestFileSystem("/", 2, 50 * MIB, ("vda",))], 10 * MIB + 3),
        ([GuestFileSystem("/", 10 * MIB, 90 * MIB, ("vdb",))], None),
        ([GuestFileSystem("/", 10 * MIB, 90 * MIB)], None),
        ([GuestFileSystem("/", 10 * MIB, 90 * MIB, ("vda", "vdb"))], None),
        ([GuestFileSystem("/", 1, 40 * MIB, ("vda",)), GuestFileSystem("/", None, None, ("vda",))], None),
        ([], None),
    ],
    ids=["one", "two", "another", "nowhere", "over two disks", "one that does not tell", "none"],
)
def test_what_is_in_no_file_system_counts_as_full(systems: list[GuestFileSystem], most: int | None) -> None:
    assert _decision.most_after_trim(item(), systems) == most


# What stands in the way


@pytest.mark.parametrize(
    ("live", "defined", "facts", "said"),
    [
        (ELEMENT, None, {}, r"set it with kvmops\.disk\.vm_disk \(name: vm, disk: vda, discard: unmap\) and restart"),
        (replace(ELEMENT, discard="ignore"), None, {}, "does not have discard=unmap"),
        (ELEMENT, "unmap", {}, "which its definition has by now.* shut the machine down and start it again"),
        (UNMAP, None, {"state": "paused"}, "is paused: its guest cannot trim anything now"),
    ],
)
def test_a_guest_that_could_not_trim_is_refused(
    live: Any, defined: str | None, facts: dict[str, Any], said: str
) -> None:
    state, found = running(item(discard=defined), live, **facts)
    with pytest.raises(DiskError, match=said):
        _obstacles.require_trimmable(state, found)


def test_a_guest_trims_a_disk_that_discards_unless_the_image_holds_snapshots() -> None:
    _obstacles.require_trimmable(*running(item()))
    kept = item(replace(GROWN, snapshots=(samples.snapshot("old"),)))
    with pytest.raises(DiskError, match=r"\(old\), and a trim gives nothing back of what they hold"):
        _obstacles.require_trimmable(*running(kept))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "vmdk"}, "formats raw and qcow2 are rewritten, this one is vmdk"),
        ({"encrypted": True}, "is encrypted, so that it is not rewritten"),
        ({"data_file": "/images/data"}, "keeps its data in /images/data"),
        ({"corrupt": True}, "is marked corrupt"),
        ({"snapshots": (samples.snapshot("old"),)}, r"\(old\), and a new image would not have them"),
    ],
)
def test_an_image_that_would_lose_something_is_not_written_anew(change: dict[str, Any], said: str) -> None:
    with pytest.raises(DiskError, match=said):
        _obstacles.require_rewritable(samples.domain(), item(replace(GROWN, **change)))


def test_checkpoints_are_no_obstacle_and_snapshots_of_the_domain_are() -> None:
    _obstacles.require_rewritable(samples.domain(checkpoints=("monday",)), item())
    with pytest.raises(DiskError, match=r"has 1 snapshot\(s\) \(old\), which a rewrite would break"):
        _obstacles.require_rewritable(samples.domain(snapshots=("old",)), item())


def test_a_raw_image_that_ends_within_a_sector_is_refused() -> None:
    odd = item(raw(virtual_size=1024))
    _obstacles.require_whole_sectors(odd, 1024)
    with pytest.raises(DiskError, match="has 1000 bytes, no whole number of sectors: grow it to 1024 bytes"):
        _obstacles.require_whole_sectors(odd, 1000)


@pytest.mark.parametrize(
    "lose",
    [
        lambda _bitmap: (),
        lambda bitmap: (replace(bitmap, enabled=False),),
        lambda bitmap: (replace(bitmap, granularity=512),),
    ],
    ids=["gone", "disabled", "coarser"],
)
def test_a_bitmap_that_the_new_image_has_otherwise_is_an_error(lose: Callable[[Bitmap], tuple[Bitmap, ...]]) -> None:
    bitmap = Bitmap(b"daily", 65536, in_use=False, enabled=True, table_offset=0, table_entries=1)
    carried = Carried("/images/web.qcow2", kept=(bitmap,))
    _obstacles.require_bitmaps(item(), carried, (replace(bitmap, table_offset=9),))
    with pytest.raises(DiskError, match=r"does not have the dirty bitmap\(s\) daily as the old one has them"):
        _obstacles.require_bitmaps(item(), carried, lose(bitmap))


def test_an_image_that_gives_nothing_back_is_not_put_in_place() -> None:
    _obstacles.require_gain(item(), 80 * MIB - 1)
    with pytest.raises(DiskError, match="it was removed, and the old one is as it was"):
        _obstacles.require_gain(item(), 80 * MIB)


# The order


def test_all_images_are_made_before_one_takes_its_place() -> None:
    hands = samples.Recorder()
    plan = _decision.plan([item(most=MIB)], _decision.offline_steps(samples.domain(), [item(), item()], hands))
    plan.apply()
    assert hands.calls == ["stage", "stage", "exchange", "finish"]
    assert (plan.before, plan.after) == (
        {"vda": {"actual_size": "80 MiB"}},
        {"vda": {"actual_size": "at most 1 MiB"}},
    )


def test_what_fails_is_withdrawn_until_the_images_are_in_place() -> None:
    hands = samples.Recorder(fails="exchange")
    with pytest.raises(DiskError):
        _decision.plan([], _decision.offline_steps(samples.domain(), [item()], hands)).apply()
    assert hands.calls == ["stage", "exchange", "withdraw"]


def test_one_trim_is_for_all_disks_and_nobody_can_say_what_of_a_silent_guest_comes_back() -> None:
    hands = samples.Recorder()
    plan = _decision.plan([item()], _decision.live_steps(samples.domain(), [item(), item()], hands))
    plan.apply()
    assert hands.calls == ["trim"]
    assert plan.after == {"vda": {"actual_size": "not known before"}}
