# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The order in which disks are pulled while their guest runs: a decision, without a world."""

from __future__ import annotations

from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten import decision_live as _decision
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten.decision import Flattening
from unit import samples
from unit.noting import Noting, order, undoing

IMAGES = (samples.qcow2("/i/a.qcow2", backing_file="/i/base"), samples.raw("/i/base"))
ITEMS = [
    Flattening(
        samples.disk(samples.element("/i/a.qcow2", "qcow2", target=target)), IMAGES, ("/i/a.qcow2", "/i/base"), 2
    )
    for target in ("vda", "vdb")
]
STATE = samples.domain(*(item.disk for item in ITEMS), state="running", active=True)


def test_disks_are_pulled_one_after_the_other_and_a_pull_that_a_dead_run_began_is_waited_for() -> None:
    work = Noting()
    steps = _decision.steps(STATE, ITEMS, "7", {"vda"}, work)
    assert order(steps, work) == ["begin", "pull", "pull", "finish"]
    assert [step.summary for step in steps if step.summary] == [
        "wait for the pull of /i/base into /i/a.qcow2 (vda), which an interrupted run began, below vm while it runs",
        "pull /i/base into /i/a.qcow2 (vdb), below vm while it runs",
    ]


def test_a_pull_that_fails_is_ended_before_the_records_go() -> None:
    work = Noting()
    assert undoing(_decision.steps(STATE, ITEMS, "7", (), work), work) == ["end", "end", "restore"]
