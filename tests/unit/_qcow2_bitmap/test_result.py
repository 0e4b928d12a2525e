# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What qcow2_bitmap returns in check mode: the bitmaps as they would be."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._formats.bitmaps import Bitmap
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan, Step
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_bitmap.decision import Observed
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_bitmap.result import facts, predicted
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_bitmap.wish import BitmapWish
from unit.samples import qcow2

ONE, TWO = (Bitmap(name, 65536, False, True, 0, 1) for name in (b"one", b"two"))
OBSERVED = Observed(qcow2(), (ONE, TWO), {b"one": 0, b"two": 65536})


def plan(after: dict[str, Any] | None) -> Plan:
    return Plan({"bitmap": None}, {"bitmap": after}, (Step("change it", lambda: None),))


@pytest.mark.parametrize(
    ("name", "after", "told"),
    [
        ("two", {"name": "two", "dirty_bytes": 0}, [("one", 0), ("two", 0)]),
        ("one", None, [("two", 65536)]),
        ("three", {"name": "three", "dirty_bytes": 0}, [("one", 0), ("two", 65536), ("three", 0)]),
    ],
)
def test_the_bitmaps_are_told_as_they_would_be(
    name: str, after: dict[str, Any] | None, told: list[tuple[str, int]]
) -> None:
    found = predicted(plan(after), BitmapWish("/images/web.qcow2", name, "present"), OBSERVED)
    assert [(one["name"], one["dirty_bytes"]) for one in found["bitmaps"]] == told
    assert found["changed"]


def test_where_nothing_is_done_they_are_told_as_they_are() -> None:
    nothing = Plan({"bitmap": None}, {"bitmap": None})
    wish = BitmapWish("/images/web.qcow2", "gone", "absent")
    assert predicted(nothing, wish, OBSERVED) == facts(nothing, OBSERVED)
    assert [one["name"] for one in facts(nothing, OBSERVED)["bitmaps"]] == ["one", "two"]
