# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a check does first where a run died on the image."""

from __future__ import annotations

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan, Step
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_check.decision import settling
from ansible_collections.kvmops.disk.plugins.module_utils._recovery.leftovers import Leftovers

PATH = "/images/web.qcow2"
DEAD = {"verb": "reconcile", "started": "2024-01-01T00:00:00+00:00"}
REPAIR, NOTHING = Plan({}, {}, (Step("repair it", lambda: None),)), Plan({}, {})
REMOVE = f"remove the unfinished file that an interrupted run left for {PATH}"
FORGET = f"forget the run that was interrupted on {PATH} at {DEAD['started']}"


@pytest.mark.parametrize(
    ("left", "plan", "said"),
    [
        (Leftovers(PATH, "qcow2"), NOTHING, []),
        (Leftovers(PATH, "qcow2", DEAD), NOTHING, [FORGET]),
        (Leftovers(PATH, "qcow2", DEAD), REPAIR, []),
        (Leftovers(PATH, "qcow2", DEAD, unfinished_file=True), NOTHING, [REMOVE, FORGET]),
        (Leftovers(PATH, "qcow2", unfinished_file=True), REPAIR, [REMOVE]),
        (Leftovers(PATH, "qcow2", DEAD, half_reverted="before"), NOTHING, []),
        (Leftovers(PATH, "qcow2", DEAD, half_merged="/images/top"), REPAIR, []),
    ],
    ids=[
        "nobody died",
        "a run died",
        "a run died and there is damage",
        "a run died over a new file",
        "a new file is left and there is damage",
        "half reverted",
        "half merged",
    ],
)
def test_a_check_settles_what_a_dead_run_left_but_a_disk_between_two_contents(
    left: Leftovers, plan: Plan, said: list[str]
) -> None:
    assert [step.summary for step in settling(left, plan, lambda: None)] == said


def test_only_the_unfinished_file_is_removed() -> None:
    removed: list[str] = []
    for step in settling(Leftovers(PATH, "qcow2", DEAD, unfinished_file=True), REPAIR, lambda: removed.append("file")):
        step.do()
    assert removed == ["file"]
