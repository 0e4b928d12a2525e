# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which image an overlay is merged into, and what becomes of the overlay."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._content.merge import Observed
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import replace
from ansible_collections.kvmops.disk.plugins.module_utils._errors import (
    DiskError,
    InvalidRequest,
    MissingImage,
    UnsafeImage,
)
from ansible_collections.kvmops.disk.plugins.module_utils._formats.bitmaps import Bitmap
from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Encryption, Image
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan, Step
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_commit import decision as _decision
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_commit.decision import Fate, Rest
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_commit.wish import CommitWish
from unit.samples import MIB, qcow2, raw, snapshot

BASE = raw("/images/base")
MIDDLE = qcow2("/images/middle", backing_file="/images/base", backing_format="raw")
TOP = qcow2("/images/top", backing_file="/images/middle", backing_format="qcow2")
CHAIN = (TOP, MIDDLE, BASE)
LUKS = Encryption("luks", taken_slots=(0,))
BITMAP = Bitmap(b"backup", 65536, False, True, 0, 1)
HELD = [(0, 65536), (MIB, 2 * MIB)]


class Work:
    """What no decision does."""

    def __getattr__(self, name: str) -> Any:
        def work(*_ignored: Any) -> None:
            raise AssertionError(f"a decision does not {name}")

        return work


def wish(**params: Any) -> CommitWish:
    return CommitWish(**{"path": TOP.path, "format": "qcow2", **params})


def depth(chain: tuple[Image, ...] = CHAIN, **params: Any) -> int:
    wanted = wish(**params)
    return _decision.depth_of_base(
        wanted, chain, [n for n, image in enumerate(chain) if n and image.path == wanted.base]
    )


def actions(end: str, found: Observed) -> list[str]:
    actions: list[str] = _decision.plan_commit(wish(end=end), found, Work()).report()["actions"]
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
    plan = _decision.plan_commit(wish(end="keep"), found, Work())
    assert (plan.before["virtual_size"], plan.after["virtual_size"]) == (10 * MIB, 20 * MIB)


def test_what_lies_between_is_invalid_once_the_base_is_written() -> None:
    assert _decision.invalid(wish(end="keep"), Observed(CHAIN, HELD)) == ["/images/middle"]
    assert _decision.invalid(wish(end="keep"), Observed(CHAIN, HELD, differs=False)) == []
    assert _decision.invalid(wish(end="remove"), Observed(CHAIN, HELD)) == []


def test_an_emptied_overlay_has_the_layout_of_what_it_was() -> None:
    layout = _decision.empty_layout(qcow2(cluster_size=16384, extended_l2=True))
    assert (layout.cluster_size, layout.extended_l2, layout.compat) == (16384, True, "1.1")


def test_only_a_task_that_wants_the_overlay_gone_is_content_where_it_has_gone() -> None:
    _decision.require_overlay_wanted_gone(wish(end="remove"))
    for end in ("keep", "empty"):
        with pytest.raises(MissingImage, match=r"/images/top: no such image.* set remove=true"):
            _decision.require_overlay_wanted_gone(wish(end=end))


def test_what_a_dead_merge_left_goes_after_it_was_looked_at() -> None:
    check = Step("check /images/base", lambda: None)
    rest = Rest("/images/base", "raw", ("/images/middle",))
    plan = _decision.plan_rest(rest, (check,), Work())
    assert plan.report()["actions"] == ["check /images/base", "remove /images/middle"]
    assert [step.summary for step in plan.steps] == ["check /images/base", "", "remove /images/middle"]
    assert plan.before == plan.after == {"base": "/images/base", "overlay": "absent"}
    assert not _decision.plan_rest(Rest(None, None), (), Work())


def test_nothing_becomes_of_images_that_are_merged_already() -> None:
    found, base = Observed(CHAIN, HELD), ("/images/base", "raw")
    plan = _decision.plan_commit(wish(end="keep"), found, Work())
    assert _decision.fate(wish(end="keep"), found, plan) == Fate(base, (), ("/images/middle",))
    plan = _decision.plan_commit(wish(end="remove"), found, Work())
    assert _decision.fate(wish(end="remove"), found, plan) == Fate(base, ("/images/top", "/images/middle"), ())
    assert _decision.fate(wish(end="keep"), found, Plan({}, {})) == Fate(base)
