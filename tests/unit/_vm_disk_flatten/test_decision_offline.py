# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The order in which disks are flattened while their domain is off: a decision, without a world."""

from __future__ import annotations

from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten import decision_offline as _decision
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
STATE = samples.domain(*(item.disk for item in ITEMS))


def test_all_new_files_are_there_before_any_takes_its_place() -> None:
    work = Noting()
    assert order(_decision.steps(STATE, ITEMS, work), work) == ["begin", "stage", "stage", "exchange*", "finish"]


def test_what_fails_is_undone_the_newest_first() -> None:
    work = Noting()
    undone = undoing(_decision.steps(STATE, ITEMS, work), work)
    assert undone == ["define_as_before", "withdraw", "withdraw", "restore"]
