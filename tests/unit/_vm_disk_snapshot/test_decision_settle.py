# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How that is settled which a dead run left."""

from __future__ import annotations

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot import decision_settle as _decision_settle
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot.decision_change import Settlement
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot.decision_found import Left
from ansible_collections.kvmops.disk.plugins.module_utils._xml.records import RecordedDisk
from unit._vm_disk_snapshot.scene import BASE, ONE, TWO, record, state
from unit.samples import Recorder

LOST = RecordedDisk("vda", ONE, "qcow2", BASE, "raw", base=TWO)


def test_what_was_lost_is_merged_again_before_anything_is_removed() -> None:
    work = Recorder()
    settlement = Settlement(Left(staging=(TWO,), unused=(ONE,)), again=(LOST,))
    steps = _decision_settle.first_steps(settlement, work)
    Plan({}, {}, steps).apply()
    assert work.calls == ["merge_again", "discard", "remove"]
    assert [step.summary for step in steps] == [
        f"merge {ONE} into {BASE} again: vda went off before all of that was in it",
        f"remove the unfinished overlay that an interrupted run left for {TWO}",
        f"remove {ONE}, which an interrupted run left and the domain does not use",
    ]


def test_where_nothing_is_left_there_is_nothing_to_do() -> None:
    assert _decision_settle.first_steps(Settlement(Left()), Recorder()) == ()


@pytest.mark.parametrize(
    ("left", "calls"),
    [
        (Left(record("take")), ["leave_no_record", "forget"]),
        (Left(record("merge")), ["forget"]),
        (Left(record("revert"), owed=True), ["start", "forget"]),
        (Left(noted=(ONE,)), ["forget"]),
    ],
)
def test_in_the_end_nothing_tells_of_the_run_and_the_domain_runs_if_it_ran(left: Left, calls: list[str]) -> None:
    work = Recorder()
    Plan({}, {}, _decision_settle.last_steps(state(), left, work)).apply()
    assert work.calls == calls


def test_a_guest_that_runs_on_an_image_which_lost_something_is_to_be_stopped_first() -> None:
    running = state(active=True, state="running")
    _decision_settle.require_settleable(running, [])
    _decision_settle.require_settleable(state(), [LOST])
    with pytest.raises(DiskError, match=r"vm\.raw lost a part of what was merged into it.*destroy the domain"):
        _decision_settle.require_settleable(running, [LOST])
