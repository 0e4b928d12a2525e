# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The walk of vm_disk_snapshot. What a run has no use for it does not load: most find everything as it is wanted."""

from __future__ import annotations

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import replace
from ansible_collections.kvmops.disk.plugins.module_utils._domain import start as _start
from ansible_collections.kvmops.disk.plugins.module_utils._files import beside as _beside
from ansible_collections.kvmops.disk.plugins.module_utils._recovery.verbs import DISK_SNAPSHOT
from ansible_collections.kvmops.disk.plugins.module_utils._task.domain_task import DomainTask
from ansible_collections.kvmops.disk.plugins.module_utils._task.places import require_nobody_elses
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot import decision as _decision
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot import result as _result
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot.decision_change import (
    Change,
    Removal,
    Settlement,
)
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot.decision_found import Left, Observed, find
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot.survey import Survey
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot.wish import VmSnapshotWish, wish_from
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disk_changes as _disk_changes
from ansible_collections.kvmops.disk.plugins.module_utils._xml import snapshots as _snapshots

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation
    from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan, Step
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot.survey_change import ChangeSurvey
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot.work import Works
    from ansible_collections.kvmops.disk.plugins.module_utils._xml.snapshots import DomainSnapshot


class VmSnapshotTask(DomainTask):
    """The external snapshots of a domain, as *wish* wants them.

    What is *observed* is looked at anew for each decision, and with it what a dead run *left*; *then* is what will be
    there once the *change* as far as it is decided is made.
    """

    verb = DISK_SNAPSHOT

    def __init__(self, module: AnsibleModule, wish: VmSnapshotWish) -> None:
        super().__init__(module)
        self.wish = wish
        self.survey = Survey(self.domain, self.qemu_img, wish.trusted)
        self.observed: Observed
        self.then: Observed
        self.left = Left()
        self.change = Change()
        self.is_settled = False
        self.works: Works | None = None

    def paths(self) -> set[str]:
        """The images whose records are to be held."""
        return self.left.paths | self.change.paths

    def _plan(self, operation: Operation | None) -> Plan:
        self.change, self.works, self.is_settled = Change(), None, False
        self.observed = self.then = self.survey.look(self.state)
        self.left = self._left(operation)
        if self.left:
            self._settle()
        return self._go_back(operation) if self.wish.state == "reverted" else self._take_and_remove(operation)

    def _given_up(self, operation: Operation | None) -> tuple[Step, ...]:
        self.change = Change(self.change.settlement)
        return self._settling(operation) if self.is_settled else ()

    def result(self, plan: Plan) -> dict[str, t.Any]:
        """What the module returns, read from the world again after a change."""
        definition, diff = self.state.definition, list(plan.diff)
        targets = _result.targets(self.wish, self.then, self.change)
        snapshots = _result.snapshots_then(self.wish, self.then, self.change)
        if plan and not self.check_mode:
            self.state = self.state_after(plan)
            self.then = self.survey.look(self.state)
            snapshots = _result.snapshots(self.then)
            if self.change.reverted is not None:
                diff = [{"prepared": _disk_changes.definition_diff(definition, self.state.definition)}]
        for warning in self.works.warnings if self.works else ():
            self.warn(warning)
        orphans = _result.orphans(self.observed, self.then, self.survey.is_there)
        if orphans:
            self.warn(_result.warning_of_orphans(self.state.name, orphans))
        chains = self.then.chains
        return {
            **plan.report(),
            "diff": [{"before": plan.before, "after": plan.after}, *diff],
            "snapshots": snapshots,
            "removed": [removal.snapshot.name for removal in self.change.removals],
            "quiesced": self.works.quiesced if self.works else None,
            "orphans": orphans,
            "disks": [_result.disk(self.then, one, self.survey.images(chains.get(one, ()))) for one in targets],
        }

    def _left(self, operation: Operation | None) -> Left:
        """What a dead run left: nothing where neither the domain nor anything beside its images tells of one."""
        note_of = _beside.notes(operation)
        images = {str(link.path) for chain in self.observed.chains.values() for link in chain}
        if self.state.record is None and not any(note_of(path) or _beside.left_over(path) for path in images):
            return Left()
        from ansible_collections.kvmops.disk.plugins.module_utils._domain import block_job as _block_job
        from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot import leftovers as _leftovers

        run = self.domain.run_number()
        return _leftovers.find(self.observed, run, note_of, lambda target: _block_job.commit_of(self.domain, target))

    def _settle(self) -> None:
        """Decides how that is settled which a dead run left; then all is looked at as if that were done."""
        from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot import (
            decision_settle as _decision_settle,
        )
        from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot import leftovers as _leftovers

        lost = _leftovers.lost(self.left, self.qemu_img)
        _decision_settle.require_settleable(self.state, lost)
        unfinished = [self.left.unfinished.name] if self.left.unfinished is not None else []
        self.change = Change(Settlement(self.left, lost, self._removals(unfinished)))
        self._remove(self.change.removals)
        self.is_settled = True

    def _take_and_remove(self, operation: Operation | None) -> Plan:
        """The plan that takes a snapshot, removes the one that the task names, and those which are too many."""
        wish, before = self.wish, self.then
        found = find(wish.name, before.snapshots)
        doomed = self._doomed()
        if wish.state == "present" and found is not None:
            _decision.require_same(self.state, wish, found)
        elif wish.state == "present" and wish.name is not None:
            self._take(wish.name)
        self.change = replace(self.change, removed=self._removals(doomed))
        self._remove(self.change.removed)
        if self.change == Change():
            return _decision.plan(wish, before, self.then, self.change, (), ())
        self.works = self._works(operation)
        steps = (*self.works.take(), *self.works.remove())
        return _decision.plan(wish, before, self.then, self.change, self.works.settle(), steps)

    def _doomed(self) -> list[str]:
        """The names of the snapshots that go."""
        if self.wish.state != "absent" and self.wish.keep is None:
            return []
        from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot import (
            decision_merge as _decision_merge,
        )

        return _decision_merge.doomed(self.wish, self.then.snapshots)

    def _take(self, name: str) -> None:
        """Decides on the overlays of a new snapshot; then the images are looked at as if it were taken."""
        from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot import (
            decision_take as _decision_take,
        )

        state = self.state
        _decision.require_quiet(state, self._foreign_jobs())
        disks = _decision_take.select(state, self.wish)
        _decision_take.require_images(self.then, disks)
        _decision_take.require_quiescable(state, self.wish.quiesce, self.survey.has_agent(state))
        self.change = replace(self.change, takings=_decision_take.takings(self.then, name, disks))
        self._around.require_takeable(self.change.takings, self._going())
        for taking in self.change.takings:
            require_nobody_elses(taking.overlay, "open a new overlay", self.module)
        self.then = _decision_take.taken(self.then, self.change.takings)

    def _removals(self, names: t.Sequence[str]) -> tuple[Removal, ...]:
        """How those snapshots go."""
        if not names:
            return ()
        from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot import (
            decision_merge as _decision_merge,
        )

        return _decision_merge.removals(self.then, names, self.left.recorded)

    def _remove(self, removals: tuple[Removal, ...]) -> None:
        """Looks whether *removals* may be done; then all is looked at as if they were."""
        if not removals:
            return
        from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot import (
            decision_merge as _decision_merge,
        )

        _decision.require_quiet(self.state, self._foreign_jobs())
        self._around.require_mergeable(removals, self.left, self._going())
        self.then = _decision_merge.removed(self.then, removals)

    def _going(self) -> set[str]:
        """The overlays that will be gone: those of snapshots that go, and what a dead run left."""
        return {*self.left.unused, *(disk.source for removal in self.change.removals for disk in removal.recorded)}

    def _foreign_jobs(self) -> list[str]:
        return [target for target in self.survey.jobs(self.state) if target not in self.left.working]

    @property
    def _around(self) -> ChangeSurvey:
        from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot.survey_change import ChangeSurvey

        return ChangeSurvey(self.surroundings, self.qemu_img, self.observed)

    def _go_back(self, operation: Operation | None) -> Plan:
        """The plan that brings the domain back to a snapshot, unless it is there, and off as it was."""
        found = find(self.wish.name, self.then.snapshots)
        is_there = found is not None and self.survey.is_at(self.observed, found)
        owed = self.left.owed
        if is_there and not owed:
            return _decision.plan_of_return(self.wish, self._settling(operation), (), is_there=True)
        from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot import (
            decision_revert as _decision_revert,
        )

        version = self.hypervisor.version()
        found = _decision_revert.require_revertible(self.state, self.wish, self.then.snapshots, version)
        self.change = replace(self.change, reverted=found)
        _decision.require_quiet(self.state, self._foreign_jobs())
        if not is_there:
            self._around.require_no_dependents(found)
            self._require_startable_at(found)
        works = self._works(operation)
        steps = works.go_back(is_there=is_there, owed=owed)
        return _decision.plan_of_return(self.wish, works.settle(), steps, is_there=is_there)

    def _require_startable_at(self, snapshot: DomainSnapshot) -> None:
        """Raises DiskError where the domain runs, and could not with the definition that it had at the snapshot."""
        definition = _snapshots.definition(snapshot.xml)
        if self.state.active and definition is not None:
            exchanged = {disk.target for disk in snapshot.external}
            _start.require_startable(self.hypervisor, self.state.name, definition, exchanged)

    def _settling(self, operation: Operation | None) -> tuple[Step, ...]:
        """The steps that only settle what a dead run left."""
        return self._works(operation).settle() if self.change.settlement is not None else ()

    def _works(self, operation: Operation | None) -> Works:
        """Who does what is decided."""
        from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot.work import Works

        return Works(self.tools(operation), self.qemu_img, self.wish, self.observed, self.change)


def run(module: AnsibleModule) -> dict[str, t.Any]:
    """One run of the module."""
    return VmSnapshotTask(module, wish_from(module.params)).walk()
