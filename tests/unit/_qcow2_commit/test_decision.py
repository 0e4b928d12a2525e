# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which image an overlay is merged into, what is refused, what becomes of the overlay, and what the base may need."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._content import merge as _merge
from ansible_collections.kvmops.disk.plugins.module_utils._content.merge import Observed
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, InvalidRequest, UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._formats.bitmaps import Bitmap
from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Encryption, Image
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_commit import decision as _decision
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_commit.decision import Deeds
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_commit.wish import CommitWish
from unit.samples import MIB, qcow2, raw, snapshot

BASE = raw("/images/base")
MIDDLE = qcow2("/images/middle", backing_file="/images/base", backing_format="raw")
TOP = qcow2("/images/top", backing_file="/images/middle", backing_format="qcow2")
CHAIN = (TOP, MIDDLE, BASE)
BITMAP = Bitmap(b"backup", 65536, False, True, 0, 1)
HELD = [(0, 65536), (MIB, 2 * MIB)]


def nothing(*_ignored: str) -> None:
    raise AssertionError("a decision does nothing")


DEEDS = Deeds(nothing, nothing, nothing, nothing)


def wish(**params: Any) -> CommitWish:
    return CommitWish(**{"path": TOP.path, "format": "qcow2", **params})


def depth(chain: tuple[Image, ...] = CHAIN, **params: Any) -> int:
    return _decision.depth_of_base(wish(**params), chain, lambda one, other: one == other)


def actions(end: str, found: Observed) -> list[str]:
    actions: list[str] = _decision.plan_commit(wish(end=end), found, DEEDS).report()["actions"]
    return actions


def test_the_base_is_the_backing_file_or_the_one_that_the_task_names() -> None:
    assert depth() == 1
    assert depth(base=BASE.path, base_format="raw") == 2
    with pytest.raises(DiskError, match="has no backing file"):
        depth((TOP,))
    with pytest.raises(InvalidRequest, match="is not below /images/top, which reads /images/middle, /images/base"):
        depth(base="/images/other")
    with pytest.raises(UnsafeImage, match="asked for qcow2, but /images/middle reads it as raw"):
        depth(base=BASE.path, base_format="qcow2")


def test_what_no_world_could_grant_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="cannot be merged into itself"):
        wish(base=TOP.path).require_valid()
    with pytest.raises(InvalidRequest, match="qed images are not emptied"):
        wish(format="qed").require_valid()


@pytest.mark.parametrize(
    ("images", "reason"),
    [
        ((qcow2(virtual_size=MIB), BASE), "less than its backing file /images/base"),
        ((TOP, qcow2(virtual_size=MIB), BASE), "less than its backing file /images/base"),
        ((TOP, raw(format="parallels")), "into a parallels image"),
        ((TOP, raw(format="vdi", virtual_size=MIB)), "vdi images cannot be grown"),
        ((TOP, qcow2(compat="0.10", virtual_size=MIB, snapshots=(snapshot(),))), "cannot be grown: bring it to compat"),
    ],
)
def test_a_merge_that_would_not_give_the_disk_is_refused(images: tuple[Image, ...], reason: str) -> None:
    with pytest.raises(DiskError, match=reason):
        _merge.require_mergeable(Observed(images, HELD))


@pytest.mark.parametrize("facts", [{"corrupt": True}, {"data_file": "/etc/shadow"}])
def test_what_cannot_be_read_as_it_is_is_refused(facts: dict[str, Any]) -> None:
    with pytest.raises(DiskError, match=r"/images/web\.qcow2"):
        _merge.require_readable((TOP, qcow2(**facts), BASE))


LUKS = Encryption("luks", taken_slots=(0,))


@pytest.mark.parametrize(
    ("images", "reason"),
    [
        ((qcow2(encrypted=True, encryption=LUKS), BASE), "would hold its content unencrypted"),
        (
            (TOP, MIDDLE, replace(BASE, encrypted=True, encryption=LUKS)),
            "merge into the backing file, /images/middle, first",
        ),
        (
            (TOP, replace(MIDDLE, encrypted=True, encryption=LUKS), BASE),
            "/images/middle: is encrypted, and its base /images/base would hold its content unencrypted",
        ),
    ],
)
def test_nothing_encrypted_is_merged_into_the_clear_nor_past_an_image(images: tuple[Image, ...], reason: str) -> None:
    with pytest.raises(DiskError, match=reason):
        _merge.require_mergeable(Observed(images, HELD))


def test_an_encrypted_overlay_is_emptied_where_one_key_opens_it() -> None:
    one, two = (qcow2(encrypted=True, encryption=replace(LUKS, taken_slots=slots)) for slots in ((3,), (0, 1)))
    _decision.require_endable(wish(), one, ())
    with pytest.raises(DiskError, match="2 keys open it"):
        _decision.require_endable(wish(), two, ())
    for end in ("keep", "remove"):
        _decision.require_endable(wish(end=end), two, ())


def test_only_a_kept_overlay_may_hold_more_than_its_disk() -> None:
    for end in ("empty", "remove"):
        with pytest.raises(DiskError, match=r"1 internal snapshot\(s\) \(before\)"):
            _decision.require_endable(wish(end=end), qcow2(snapshots=(snapshot(),)), ())
        with pytest.raises(DiskError, match=r"1 dirty bitmap\(s\) \(backup\)"):
            _decision.require_endable(wish(end=end), TOP, (BITMAP,))
    _decision.require_endable(wish(end="keep"), qcow2(snapshots=(snapshot(),)), (BITMAP,))


@pytest.mark.parametrize(
    ("end", "told"),
    [
        ("keep", []),
        ("empty", ["empty /images/top"]),
        ("remove", ["remove /images/top", "remove /images/middle"]),
    ],
)
def test_the_overlay_is_dealt_with_after_the_merge(end: str, told: list[str]) -> None:
    assert actions(end, Observed(CHAIN, HELD)) == ["merge /images/top, with /images/middle, into /images/base", *told]
    nothing_left = [] if end == "empty" else told
    assert actions(end, Observed(CHAIN, [])) == nothing_left, "it holds nothing"
    assert actions(end, Observed(CHAIN, HELD, differs=False)) == told, "the base has it already"


def test_a_larger_overlay_is_never_merged_before_the_base_has_grown() -> None:
    found = Observed((qcow2(virtual_size=20 * MIB), BASE), [])
    assert not found.is_merged
    assert actions("keep", found)[0].endswith("/images/base, which grows from 10 MiB to 20 MiB")
    plan = _decision.plan_commit(wish(end="keep"), found, DEEDS)
    assert (plan.before["virtual_size"], plan.after["virtual_size"]) == (10 * MIB, 20 * MIB)


def test_what_lies_between_is_invalid_once_the_base_is_written() -> None:
    assert _decision.invalid(wish(end="keep"), Observed(CHAIN, HELD)) == ["/images/middle"]
    assert _decision.invalid(wish(end="keep"), Observed(CHAIN, HELD, differs=False)) == []
    assert _decision.invalid(wish(end="remove"), Observed(CHAIN, HELD)) == []


def test_space_is_needed_for_what_the_base_does_not_hold() -> None:
    size = TOP.virtual_size
    assert _merge.bytes_needed(BASE, size, HELD, []) == MIB + 65536
    assert _merge.bytes_needed(BASE, size, HELD, [(0, 65536)]) == MIB
    full = raw("/images/base", actual_size=10 * MIB)
    assert _merge.bytes_needed(full, size, HELD, []) == 0, "preallocated, though it holds no data"


def test_a_qcow2_base_needs_whole_clusters_and_tables() -> None:
    base, held, size = qcow2("/images/base"), [(1000, 2000), (MIB, 2 * MIB)], TOP.virtual_size
    assert _merge.bytes_needed(base, size, held, []) == 17 * 65536 + 4 * 65536
    assert _merge.bytes_needed(base, size, held, [(0, 10 * MIB)]) == 0
    with_snapshots = qcow2("/images/base", snapshots=(snapshot(),))
    shared = _merge.bytes_needed(with_snapshots, size, held, [(0, 10 * MIB)])
    assert shared == 21 * 65536, "it shares its clusters with them"


def test_an_emptied_overlay_has_the_layout_of_what_it_was() -> None:
    layout = _decision.empty_layout(qcow2(cluster_size=16384, extended_l2=True))
    assert (layout.cluster_size, layout.extended_l2, layout.compat) == (16384, True, "1.1")
