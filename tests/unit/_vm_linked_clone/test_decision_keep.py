# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a clone that is there lacks, and how it gets that."""

from __future__ import annotations

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import replace
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import decision_keep as _decision_keep
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_existing import Existing
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_seed import Seed
from unit._vm_linked_clone.scene import THERE, spec, wish
from unit.samples import Recorder

XML = (
    "<domain><name>pc-1</name><devices><disk type='file' device='disk'><source file='/d/pc-1.qcow2'/>"
    "<target dev='vda'/></disk></devices></domain>"
)


CLONE = replace(THERE, xml=XML)
SEED = Seed("/seeds/a.iso")


def actions(found: Existing, left: tuple[str, ...] = (), *, start: bool = False) -> list[str]:
    missing = _decision_keep.lack(spec(seed=SEED.path), wish(start=start), found, left)
    return [step.summary for step in _decision_keep.steps(missing, SEED.path, Recorder())]


def test_a_clone_that_is_as_asked_for_lacks_nothing() -> None:
    assert not _decision_keep.lack(spec(), wish(), CLONE, ())
    assert not _decision_keep.lack(spec(), wish(start=True), replace(CLONE, active=True), ())
    assert actions(CLONE) == []


def test_it_may_lack_a_seed_its_start_and_the_end_of_a_run() -> None:
    assert actions(replace(CLONE, seed=SEED)) == ["give pc-1 the seed /seeds/a.iso"]
    assert actions(CLONE, start=True) == ["start pc-1"]
    assert actions(CLONE, ("/d/pc-1.qcow2",)) == ["forget the run that was interrupted when it had made pc-1"]


def test_it_gets_the_seed_before_it_starts() -> None:
    work = Recorder()
    missing = _decision_keep.lack(spec(seed=SEED.path), wish(start=True), replace(CLONE, seed=SEED), ("/d/pc-1",))
    Plan({}, {}, _decision_keep.steps(missing, SEED.path, work)).apply()
    assert work.calls == ["forget", "define", "start"]
