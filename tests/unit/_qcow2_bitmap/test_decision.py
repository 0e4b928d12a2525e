# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is done to a dirty bitmap, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import replace
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._formats.bitmaps import Bitmap
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_bitmap import decision as _decision
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_bitmap.decision import Observed, Source
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_bitmap.wish import BitmapWish
from unit.samples import qcow2

THERE = Bitmap(b"there", 65536, in_use=False, enabled=True, table_offset=0, table_entries=1)
SOURCES = ("a", "b")


def observed(bitmap: Bitmap | None = THERE, dirty: int | None = 65536, missing: tuple[str, ...] = ()) -> Observed:
    found = (bitmap,) if bitmap else ()
    others = tuple(replace(THERE, name=name.encode()) for name in SOURCES)
    source = Source("/images/web.qcow2", qcow2().virtual_size, others, frozenset(SOURCES) - {*missing})
    return Observed(qcow2(), found, {one.name: dirty for one in found}, source)


class Told(list[str]):
    """Work that only notes the actions that a plan does."""

    def act(self, *actions: str) -> None:
        self.extend(actions)

    def verify(self) -> None:
        assert self, "nothing was done yet"


def decide(wish: BitmapWish, found: Observed, work: Told | None = None) -> Plan:
    return _decision.plan_bitmap(wish, found, lambda: work if work is not None else Told())


@pytest.mark.parametrize(
    ("state", "found", "told"),
    [
        ("present", observed(None), ["add"]),
        ("present", observed(), []),
        ("absent", observed(), ["remove"]),
        ("absent", observed(None), []),
        ("absent", observed(replace(THERE, in_use=True), None), ["remove"]),
        ("enabled", observed(), []),
        ("enabled", observed(replace(THERE, enabled=False)), ["enable"]),
        ("disabled", observed(), ["disable"]),
        ("disabled", observed(replace(THERE, enabled=False)), []),
        ("cleared", observed(), ["clear"]),
        ("cleared", observed(dirty=0), []),
        ("merged", observed(missing=("a", "b")), ["merge=a", "merge=b"]),
        ("merged", observed(), []),
    ],
)
def test_only_what_is_otherwise_is_changed(state: str, found: Observed, told: list[str]) -> None:
    done = Told()
    sources = SOURCES if state == "merged" else ()
    plan = decide(BitmapWish("/images/web.qcow2", "there", state, sources=sources), found, done)
    for step in plan.steps:
        step.do()
    assert done == told
    assert bool(plan) == bool(told)
    assert (plan.before == plan.after) == (not told)


@pytest.mark.parametrize("state", [state for state in _decision.STATES if state not in ("present", "absent")])
def test_what_is_not_there_is_not_changed(state: str) -> None:
    sources = ("a",) if state == "merged" else ()
    with pytest.raises(DiskError, match="has no bitmap 'there'; it has: none: add it with state=present"):
        decide(BitmapWish("/i", "there", state, sources=sources), observed(None))


@pytest.mark.parametrize("state", [state for state in _decision.STATES if state != "absent"])
def test_a_bitmap_in_use_is_only_removed(state: str) -> None:
    with pytest.raises(UnsafeImage, match="is marked in use"):
        decide(BitmapWish("/i", "there", state, sources=("a",)), observed(replace(THERE, in_use=True), None))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"bitmaps": ()}, "has no bitmap 'a'; it has: none"),
        ({"bitmaps": (replace(THERE, name=b"a", in_use=True),)}, "its bitmap 'a' is marked in use.*asked to merge it"),
        (
            {"virtual_size": 512},
            "has 512 bytes, /i has 10485760: bitmaps are only merged between disks of the same size",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_merged_is_refused(changes: dict[str, Any], reason: str) -> None:
    found = observed(missing=("a",))
    assert found.source is not None
    found = replace(found, source=replace(found.source, **changes))
    with pytest.raises(DiskError, match=reason):
        decide(BitmapWish("/i", "there", "merged", sources=("a",)), found)


@pytest.mark.parametrize("cluster_size", [512, 4096, 65536, 2 << 20])
def test_the_granularity_that_qemu_chooses_is_predicted(cluster_size: int) -> None:
    found = Observed(qcow2(cluster_size=cluster_size), (), {})
    predicted = _decision.predicted(BitmapWish("/i", "there", "present"), found)
    assert predicted is not None
    assert predicted["granularity"] == {512: 4096, 4096: 4096, 65536: 65536, 2 << 20: 65536}[cluster_size]
