# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is done to a dirty bitmap, what is refused, and what its bits say."""

from __future__ import annotations

import io
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, InvalidRequest, UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._formats.bitmaps import Bitmap, Bits
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_bitmap import decision as _decision
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_bitmap.decision import Observed
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_bitmap.wish import BitmapWish
from hypothesis import given
from hypothesis import strategies as st
from unit.samples import qcow2

THERE = Bitmap(b"there", 65536, in_use=False, enabled=True, table_offset=0, table_entries=1)


def observed(bitmap: Bitmap | None = THERE, dirty: int | None = 65536, missing: tuple[str, ...] = ()) -> Observed:
    found = (bitmap,) if bitmap else ()
    return Observed(qcow2(), found, {one.name: dirty for one in found}, missing)


class Told(list[str]):
    """The actions that a plan does."""

    def __call__(self, *actions: str) -> None:
        self.extend(actions)


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
    sources = ("a", "b") if state == "merged" else ()
    plan = _decision.plan_bitmap(BitmapWish("/images/web.qcow2", "there", state, sources=sources), found, done)
    for step in plan.steps:
        step.do()
    assert done == told
    assert bool(plan) == bool(told)
    assert (plan.before == plan.after) == (not told)


@pytest.mark.parametrize("state", [state for state in _decision.STATES if state not in ("present", "absent")])
def test_what_is_not_there_is_not_changed(state: str) -> None:
    sources = ("a",) if state == "merged" else ()
    with pytest.raises(DiskError, match="has no bitmap 'there'; it has: none: add it with state=present"):
        _decision.plan_bitmap(BitmapWish("/i", "there", state, sources=sources), observed(None), Told())


@pytest.mark.parametrize("state", [state for state in _decision.STATES if state != "absent"])
def test_a_bitmap_in_use_is_only_removed(state: str) -> None:
    with pytest.raises(UnsafeImage, match="is marked in use"):
        _decision.plan_bitmap(
            BitmapWish("/i", "there", state, sources=("a",)), observed(replace(THERE, in_use=True), None), Told()
        )


@pytest.mark.parametrize("cluster_size", [512, 4096, 65536, 2 << 20])
def test_the_granularity_that_qemu_chooses_is_predicted(cluster_size: int) -> None:
    found = Observed(qcow2(cluster_size=cluster_size), (), {})
    predicted = _decision.predicted(BitmapWish("/i", "there", "present"), found)
    assert predicted is not None
    assert predicted["granularity"] == {512: 4096, 4096: 4096, 65536: 65536, 2 << 20: 65536}[cluster_size]


@pytest.mark.parametrize(
    ("wish", "reason"),
    [
        ({"name": "x" * 1024}, "from 1 to 1023 bytes"),
        ({"name": "caf\udce9"}, "UTF-8"),
        ({"name": "nul\0"}, "control characters"),
        ({"state": "merged"}, "required there"),
        ({"sources": ("a",)}, "is for state=merged"),
        ({"state": "merged", "sources": ("",)}, "merge_from: a name has"),
        ({"state": "merged", "sources": ("a",), "file": "/i"}, "is the image itself"),
        ({"granularity": 1 << 32}, "not a power of two"),
        ({"granularity": 1536}, "not a power of two"),
    ],
    ids=str,
)
def test_a_wish_that_cannot_be_is_refused(wish: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        BitmapWish(**{"path": "/i", "name": "a", "state": "present", **wish}).require_valid()


def bits(places: set[int], granularity: int, disk: int = 64 * 1024) -> Bits:
    """A bitmap of a disk of 64 KiB in an image of clusters of 512 bytes, of which one holds the bits."""
    length = -(-disk // (8 * granularity))
    data = sum(1 << place for place in places).to_bytes(512, "little")
    stream = io.BytesIO((512 + 512).to_bytes(8, "big").ljust(1024, b"\0") + data)
    header: Any = SimpleNamespace(cluster_size=512, virtual_size=disk)
    return Bits(stream, header, Bitmap(b"", granularity, False, True, 0, -(-length // 512)), "/i")


PLACES = st.sets(st.integers(0, 127), max_size=8)


@given(PLACES, PLACES)
def test_one_of_the_same_granularity_covers_another_if_it_has_its_bits(one: set[int], other: set[int]) -> None:
    assert bits(one, 512).covers(bits(other, 512)) == (other <= one)
    assert bits(one, 512).count() == len(one)


@given(PLACES, st.sets(st.integers(0, 15), max_size=4))
def test_one_of_another_granularity_covers_another_if_it_has_its_bytes(fine: set[int], coarse: set[int]) -> None:
    expanded = {8 * place + bit for place in coarse for bit in range(8)}
    assert bits(fine, 512).covers(bits(coarse, 4096)) == (expanded <= fine)
    assert bits(coarse, 4096).covers(bits(fine, 512)) == (fine <= expanded)
