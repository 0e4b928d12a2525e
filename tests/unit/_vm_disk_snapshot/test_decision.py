# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the snapshot that is there is the one that is wanted, and what a plan tells of."""

from __future__ import annotations

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, InvalidRequest
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Step
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot import decision as _decision
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot import decision_take as _decision_take
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot.decision_change import Change
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot.wish import VmSnapshotWish
from ansible_collections.kvmops.disk.plugins.module_utils._xml import snapshots as _snapshots
from unit._vm_disk_snapshot.scene import BASE, FIRST, ONE, SECOND, TWO, disk, domain_xml, observed, state


def test_a_snapshot_with_the_memory_of_the_guest_is_none_of_disks_alone() -> None:
    xml = FIRST.xml.replace("<memory snapshot='no'/>", "<memory snapshot='external' file='/m'/>")
    found = _snapshots.snapshot(xml)
    assert not found.is_external
    with pytest.raises(DiskError, match="with the memory of the guest"):
        _decision.require_same(state(), VmSnapshotWish("s1"), found)


def test_a_disk_may_be_named_by_the_image_that_it_had_before_the_snapshot() -> None:
    for name in ("vda", TWO, ONE):
        _decision.require_same(state(), VmSnapshotWish("s2", disks=(name,)), SECOND)
    with pytest.raises(InvalidRequest, match=r"has no disk /images/vm\.raw"):
        _decision.require_same(state(), VmSnapshotWish("s2", disks=(BASE,)), SECOND)
    with pytest.raises(DiskError, match="but not of vdb and also of vda"):
        _decision.require_same(state(disk(), disk(target="vdb")), VmSnapshotWish("s2", disks=("vdb",)), SECOND)


def test_a_plan_tells_of_the_snapshots_and_the_images_before_and_after() -> None:
    before = observed(state=state(definition=domain_xml(TWO, "qcow2")))
    (item,) = _decision_take.takings(before, "s3", [disk()])
    after = _decision_take.taken(before, [item])
    step, settled = Step("take", lambda: None), Step("settle", lambda: None)
    plan = _decision.plan(VmSnapshotWish("s3"), before, after, Change(takings=(item,)), (settled,), (step,))
    assert plan.before == {"snapshots": ["s1", "s2"], "disks": {"vda": [TWO, ONE, BASE]}}
    assert plan.after == {"snapshots": ["s1", "s2", "s3"], "disks": {"vda": [item.overlay, TWO, ONE, BASE]}}
    assert plan.steps == (settled, step)
    assert any(line[0] == "+" and item.overlay in line for line in plan.diff[0]["prepared"].splitlines())


def test_a_plan_that_only_settles_changes_nothing_of_that() -> None:
    settled = Step("settle", lambda: None)
    plan = _decision.plan(VmSnapshotWish("s1"), observed(), observed(), Change(), (settled,), ())
    assert (plan.before == plan.after, plan.steps, plan.diff) == (True, (settled,), ())
