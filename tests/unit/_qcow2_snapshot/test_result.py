# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What qcow2_snapshot returns in check mode: the image as it would be."""

from __future__ import annotations

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import replace
from ansible_collections.kvmops.disk.plugins.module_utils._formats.snapshots import SnapshotEntry
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan, Step
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_snapshot.decision import Observed
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_snapshot.result import facts, predicted
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_snapshot.wish import SnapshotWish
from unit.samples import MIB, qcow2, snapshot

PATH = "/images/web.qcow2"
BEFORE = SnapshotEntry(snapshot("before"), b"before", 0, 1, 0)
OBSERVED = Observed(qcow2(snapshots=(BEFORE.snapshot,)), (BEFORE,), 1)
STEP = (Step("change it", lambda: None),)


def test_a_new_snapshot_is_told_of_without_its_date() -> None:
    wish = SnapshotWish(PATH, "now", "present")
    found = facts(Plan({}, {}, STEP), predicted(Plan({}, {}, STEP), wish, OBSERVED), [])
    assert [(one["name"], one["date"] is None) for one in found["snapshots"]] == [("before", False), ("now", True)]


def test_a_revert_tells_the_size_that_the_disk_would_have() -> None:
    plan = Plan({}, {"virtual_size": 20 * MIB}, STEP)
    found = predicted(plan, SnapshotWish(PATH, "before", "reverted"), OBSERVED)
    assert found == replace(OBSERVED.image, virtual_size=20 * MIB)


def test_where_nothing_is_done_the_image_is_told_as_it_is() -> None:
    nothing = Plan({}, {})
    found = facts(nothing, predicted(nothing, SnapshotWish(PATH, "before", "present"), OBSERVED), [])
    assert not found["changed"]
    assert [one["name"] for one in found["snapshots"]] == ["before"]
