# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether libvirt can go back to a snapshot, and in which order."""

from __future__ import annotations

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot import decision_revert as _decision_revert
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot.wish import VmSnapshotWish
from ansible_collections.kvmops.disk.plugins.module_utils._xml import snapshots as _snapshots
from ansible_collections.kvmops.disk.plugins.module_utils._xml.records import RecordedDisk
from unit._vm_disk_snapshot.scene import BASE, FIRST, ONE, domain_xml, state
from unit.samples import Recorder


def test_only_a_new_libvirt_goes_back() -> None:
    wish = VmSnapshotWish("s1", "reverted")
    assert _decision_revert.require_revertible(state(), wish, [FIRST], (9, 10)) == FIRST
    assert _decision_revert.require_revertible(state(), wish, [FIRST], (12, 8)) == FIRST
    with pytest.raises(DiskError, match=r"libvirt 9\.9 cannot revert .*vda: /images/vm\.raw"):
        _decision_revert.require_revertible(state(), wish, [FIRST], (9, 9))


def test_overlays_that_libvirt_would_give_one_name_are_refused() -> None:
    xml = FIRST.xml
    another = xml[xml.index("<disk name") : xml.index("</disks>")].replace("vda", "vdb")
    two = xml.replace("</disks>", another + "</disks>")
    devices = domain_xml("/images/vm.qcow2", "qcow2").replace("vda", "vdb")
    disks = devices[devices.index("<disk") : devices.index("</devices>")]
    found = _snapshots.snapshot(two.replace("</devices>", disks + "</devices>"))
    with pytest.raises(DiskError, match=r"would have one name, /images/vm\.EPOCH"):
        _decision_revert.require_revertible(state(), VmSnapshotWish("s1", "reverted"), [found], (9, 10))


@pytest.mark.parametrize(
    ("is_there", "runs", "calls"),
    [
        (False, False, ["begin", "revert", "finish"]),
        (False, True, ["begin", "revert", "start", "finish"]),
        (True, True, ["begin", "start", "finish"]),
    ],
)
def test_the_domain_goes_back_once_and_runs_again_if_it_ran(is_there: bool, runs: bool, calls: list[str]) -> None:
    work = Recorder()
    Plan({}, {}, _decision_revert.steps(state(), FIRST, work, is_there=is_there, runs=runs)).apply()
    assert work.calls == calls


def test_the_record_of_a_way_back_says_where_from_and_where_to() -> None:
    found = _decision_revert.revert_record(state(), True, None, FIRST)
    assert (found.change, found.was_running, found.snapshot) == ("revert", True, "s1")
    assert found.disks == (RecordedDisk("vda", ONE, "qcow2", BASE, "raw"),)
