# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The external snapshots of a domain as a task wants them: the walk of vm_disk_snapshot from its parameters to its
result."""

from __future__ import annotations

import typing as t
from contextlib import AbstractContextManager

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._domain import block_job as _block_job
from ansible_collections.kvmops.disk.plugins.module_utils._domain import domain as _domain
from ansible_collections.kvmops.disk.plugins.module_utils._errors import MissingImage
from ansible_collections.kvmops.disk.plugins.module_utils._files import lock as _lock
from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan, Step
from ansible_collections.kvmops.disk.plugins.module_utils._progress import Phase
from ansible_collections.kvmops.disk.plugins.module_utils._recovery.leftovers import DISK_SNAPSHOT
from ansible_collections.kvmops.disk.plugins.module_utils._recovery.records import Records
from ansible_collections.kvmops.disk.plugins.module_utils._task.carry_out import carry_out
from ansible_collections.kvmops.disk.plugins.module_utils._task.domain_task import DomainTask
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot import decision as _decision
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot import decision_merge as _decision_merge
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot import leftovers as _leftovers
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot import work_merge as _work_merge
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot import work_revert as _work_revert
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot import work_take as _work_take
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot.decision import Taking
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot.decision_merge import Removal
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot.leftovers import Left
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot.survey import Unvouched, VmSnapshotSurvey
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot.wish import VmSnapshotWish, wish_from
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disks as _disks
from ansible_collections.kvmops.disk.plugins.module_utils._xml import snapshots as _snapshots
from ansible_collections.kvmops.disk.plugins.module_utils._xml.disks import ChainLink
from ansible_collections.kvmops.disk.plugins.module_utils._xml.records import Record
from ansible_collections.kvmops.disk.plugins.module_utils._xml.snapshots import DomainSnapshot


class VmSnapshotTask(DomainTask):
    """The external snapshots of a domain, as *wish* wants them."""

    verb = DISK_SNAPSHOT

    def __init__(self, module: AnsibleModule, wish: VmSnapshotWish) -> None:
        super().__init__(module)
        self.wish = wish
        self.qemu_img = self.qemu_img.limiting(not wish.trusted)
        self.survey: VmSnapshotSurvey
        self.snapshots: tuple[DomainSnapshot, ...] = ()
        self.found: dict[str, tuple[ChainLink, ...]] = {}
        self.chains: dict[str, tuple[ChainLink, ...]] = {}
        self.unvouched: dict[str, Unvouched] = {}
        self.left = Left()
        self.settlement: tuple[Step, ...] = ()
        self.finished: tuple[Removal, ...] = ()
        self.removed: tuple[Removal, ...] = ()
        self.takings: tuple[Taking, ...] = ()
        self.taker: _work_take.TakeWork | None = None
        self.reverted: DomainSnapshot | None = None

    def _plan(self, operation: Operation | None) -> Plan:
        self.settlement, self.finished, self.taker = (), (), None
        self._mean_nothing()
        self._look(operation)
        self.settlement = self._settlement(operation)
        plan = self._revert(operation) if self.wish.state == "reverted" else self._change(operation)
        return Plan(plan.before, plan.after, (*self.settlement, *plan.steps), plan.diff)

    def _given_up(self, operation: Operation | None) -> tuple[Step, ...]:
        self._mean_nothing()
        return self.settlement

    def _mean_nothing(self) -> None:
        self.removed, self.takings, self.reverted = (), (), None

    def paths(self) -> set[str]:
        """The images whose records are to be held."""
        found = set(self.left.paths)
        for item in self.takings:
            found |= {item.overlay, str(item.below.path)}
        for removal in (*self.finished, *self.removed):
            found |= {path for merge in removal.merges for path in merge.paths}
        if self.reverted is not None:
            disks = _decision.recorded_revert(self.reverted)
            found |= {path for disk in disks for path in (disk.source, disk.dest) if path}
        return found

    def result(self, plan: Plan) -> dict[str, t.Any]:
        """What the module returns, read from the world again after a change."""
        definition = self.state.definition
        targets = self._targets()
        new = [self._new_snapshot_facts()] if self.takings else []
        diff = list(plan.diff)
        if plan and not self.check_mode:
            self.state = self.state_after(plan)
            self._look(None)
            new = []
            if self.reverted is not None:
                diff = [{"prepared": _disks.definition_diff(definition, self.state.definition)}]
        return {
            **plan.report(),
            "diff": [{"before": plan.before, "after": plan.after}, *diff],
            "snapshots": [*(self._snapshot_facts(one) for one in self.snapshots), *new],
            "removed": [removal.snapshot.name for removal in (*self.finished, *self.removed)],
            "quiesced": self.taker.quiesced if self.taker else None,
            "disks": [self._disk_facts(target) for target in targets],
        }

    def _look(self, operation: Operation | None) -> None:
        xmls, current = self.domain.snapshot_xmls()
        self.snapshots = tuple(_snapshots.snapshot(xml, current) for xml in xmls)
        self.survey = VmSnapshotSurvey(
            *(self.hypervisor, self.qemu_img, self.state, self.snapshots),
            trusted=self.wish.trusted,
            search_paths=tuple(self.params["search_paths"]),
        )
        self.found, self.unvouched = self.survey.chains()
        self.chains = dict(self.found)
        run, note_of = self.domain.run_number(), _lock.notes(operation)
        self.left = _leftovers.find(*(self.state, self.snapshots, self.chains, run, note_of, self._commit_of))

    def _phase(self, target: str, verb: str) -> AbstractContextManager[Phase]:
        return self.progress.phase(f"{self.state.name} {target}", verb, 0)

    def _commit_of(self, target: str) -> tuple[str, str] | None:
        return _block_job.commit_of(self.domain, target)

    def _settlement(self, operation: Operation | None) -> tuple[Step, ...]:
        """The steps that settle what a dead run left; the images and snapshots are looked at as if that were done."""
        left = self.left
        if not left:
            return ()
        again = _leftovers.lost(left, self.qemu_img)
        _leftovers.require_settleable(self.state, again)
        found = [
            *_leftovers.merge_again(again, self.holding(operation), self._phase),
            *_leftovers.settle(left),
        ]
        if left.unfinished is not None:
            self.finished = self._removals([left.unfinished.name])
            self._require_possible(self.finished)
            found += self._merge_steps(operation, self.finished, self.state.record)
            self._go_on_without(self.finished)
            return tuple(found)
        if left.owed and self.wish.state == "reverted":
            return tuple(found)
        if left.record is not None and left.record.change == "take":
            name = str(left.record.snapshot)
            found.append(Step("", lambda: _work_take.leave_no_record(self.domain, name)))
        if left.owed:
            found.append(Step(f"start {self.state.name}, which an interrupted run had left off", self.domain.start))
        records = self._records(operation, self.state.record)
        forget = Step(
            f"forget the run that was interrupted on {self.state.name}",
            lambda: records.let_go({*left.unused} - self._reused()),
        )
        found.append(forget)
        return tuple(found)

    def _change(self, operation: Operation | None) -> Plan:
        """The plan that takes a snapshot, removes the one that the task names, and those which are too many."""
        wish, before, definition = self.wish, self._summary(), self.state.definition
        found = _decision.find(wish.name, self.snapshots)
        doomed = [found.name] if found is not None and wish.state == "absent" else []
        doomed += [one.name for one in _decision_merge.surplus(wish, self.snapshots, doomed)]
        if wish.state == "present" and found is not None:
            _decision.require_same(self.state, wish, found)
        elif wish.state == "present" and wish.name is not None:
            self._prepare_taking(wish.name)
        self.removed = self._removals(doomed)
        self._require_possible(self.removed)
        steps = (*self._take_steps(operation), *self._merge_steps(operation, self.removed, None))
        self._go_on_without(self.removed)
        if not steps:
            return Plan(before, before)
        outcomes = [item.outcome for item in self.takings]
        outcomes += [outcome for removal in self.removed for outcome in removal.outcomes]
        after = _decision.with_outcomes(definition, outcomes)
        diff = ({"prepared": _disks.definition_diff(definition, after)},)
        return Plan(before, self._summary(), steps, diff)

    def _revert(self, operation: Operation | None) -> Plan:
        """The plan that brings the domain back to a snapshot, unless it is there, and off as it was."""
        found = _decision.find(self.wish.name, self.snapshots)
        before = {"snapshot": found.name if found is not None and self._is_at(found) else None}
        after = {"snapshot": self.wish.name}
        there, owed = before == after, self.left.owed
        if there and not owed:
            return Plan(after, after)
        found = _decision.require_revertible(self.state, self.wish, self.snapshots, self.hypervisor.version())
        self.reverted = found
        _decision.require_quiet(self.state, self._foreign_jobs())
        if not there:
            self.survey.require_no_dependents(found, self.found)
        records = self._records(operation, self.state.record if owed else None)
        runs = self.state.active or owed
        work = _work_revert.RevertWork(self.domain, records, self.state, found, runs)
        return Plan(before, after, _work_revert.steps(work, is_there=there))

    def _is_at(self, snapshot: DomainSnapshot) -> bool:
        return not self.state.active and snapshot.is_external and self.survey.is_at(snapshot, self.found)

    def _prepare_taking(self, name: str) -> None:
        """Decides on the overlays of a new snapshot; from here on the images are looked at as if it were taken."""
        _decision.require_quiet(self.state, self._foreign_jobs())
        disks = _decision.select(self.state, self.wish)
        missing = [disk for disk in disks if disk.target not in self.chains]
        if missing:
            raise MissingImage(f"{missing[0].path}: is missing, or is not a file: {self.state.name} has it as a disk")
        agent = self.state.active and _snapshots.has_agent(self.domain.xml(inactive=False))
        _work_take.require_quiescable(self.state, self.wish.quiesce, agent)
        self.takings = _decision.takings(name, disks, self.chains, self.snapshots, self.unvouched)
        self.survey.require_takeable(self.takings, self._going(()))
        for item in self.takings:
            self.chains[item.target] = item.outcome.images

    def _removals(self, doomed: t.Iterable[str]) -> tuple[Removal, ...]:
        named = {disk.target: disk.defined is not None and disk.defined.chain is not None for disk in self.state.disks}
        named.update({item.target: item.named for item in self.takings})
        return _decision_merge.removals(self.state, doomed, self.chains, self.snapshots, self.left.recorded, named)

    def _require_possible(self, removals: t.Sequence[Removal]) -> None:
        if removals:
            _decision.require_quiet(self.state, self._foreign_jobs())
            self.survey.require_mergeable(removals, self.found, self.unvouched, self.left, self._going(removals))

    def _going(self, removals: t.Sequence[Removal]) -> set[str]:
        """The overlays that will be gone: those of *removals*, and what a dead run left."""
        finished = (*self.finished, *removals)
        return {*self.left.unused, *(disk.source for removal in finished for disk in removal.recorded)}

    def _reused(self) -> set[str]:
        """The overlays of the snapshot that is taken, which may have the names of others that are removed before."""
        return {item.overlay for item in self.takings}

    def _go_on_without(self, removals: t.Sequence[Removal]) -> None:
        """From here on the images, and the snapshots, are looked at as if *removals* were done."""
        self.chains = _decision_merge.without(self.chains, removals)
        self.snapshots = tuple(_decision_merge.predicted(self.snapshots, removals, self.chains))

    def _foreign_jobs(self) -> list[str]:
        jobs = _domain.block_jobs(self.domain, self.state) if self.state.active else []
        return [target for target in jobs if target not in self.left.working]

    def _take_steps(self, operation: Operation | None) -> tuple[Step, ...]:
        if not self.takings:
            return ()
        self.taker = _work_take.TakeWork(
            **self._hands(operation, None), state=self.state, name=str(self.wish.name), quiesce=self.wish.quiesce
        )
        return _work_take.steps(self.takings, self.taker)

    def _merge_steps(
        self, operation: Operation | None, removals: t.Sequence[Removal], found: Record | None
    ) -> tuple[Step, ...]:
        """The steps that remove snapshots; *found* is the record of a dead run that had begun with it."""
        steps: list[Step] = []
        for number, removal in enumerate(removals):
            chains = _decision_merge.without(self.chains, removals[: number + 1])
            work = _work_merge.MergeWork(
                **self._hands(operation, found),
                state=self.state,
                wish=self.wish,
                working=self.left.working if found is not None else (),
                resumed=found is not None,
                reused=self._reused,
            )
            steps += _work_merge.steps(removal, chains, work)
        return tuple(steps)

    def _hands(self, operation: Operation | None, found: Record | None) -> dict[str, t.Any]:
        """What the hands of a change are made of; *found* is the record that it finds in the metadata."""
        return {**self.hands(operation), "qemu_img": self.qemu_img, "records": self._records(operation, found)}

    def _records(self, operation: Operation | None, found: Record | None) -> Records:
        return Records(self.hypervisor, self.domain, operation or Operation(self.verb), found)

    def _summary(self) -> dict[str, t.Any]:
        """What the diff shows: the snapshots, and the images of each disk, the one that counts first."""
        names = [one.name for one in self.snapshots]
        if self.takings:
            names.append(str(self.wish.name))
        images = {target: [link.path for link in chain] for target, chain in self.chains.items()}
        return {"snapshots": names, "disks": images}

    def _snapshot_facts(self, snapshot: DomainSnapshot) -> dict[str, t.Any]:
        disks = [
            _overlay_facts(
                one.target, one.overlay, one.format, image.source if image else None, image.format if image else None
            )
            for one in snapshot.external
            for image in [snapshot.image(one.target)]
        ]
        facts = {name: getattr(snapshot, name) for name in ("name", "date", "state", "parent", "current")}
        facts["current"] = snapshot.current and not (self.takings and self.check_mode)
        return {**facts, "external": snapshot.is_external, "disks": disks}

    def _new_snapshot_facts(self) -> dict[str, t.Any]:
        """The snapshot that would be taken."""
        disks = [
            _overlay_facts(item.target, item.overlay, _decision.OVERLAY, below.path, below.format)
            for item in self.takings
            for below in self.chains[item.target][1:2]
        ]
        parent = next((one.name for one in self.snapshots if one.current), None)
        kind = "disk-snapshot" if self.state.active else "shutoff"
        facts = {"name": self.wish.name, "date": None, "state": kind, "parent": parent, "current": True}
        return {**facts, "external": True, "disks": disks}

    def _targets(self) -> list[str]:
        """The disks that the task was about."""
        known = _decision.find(self.wish.name, self.snapshots)
        found = {one.target for one in known.external} if known is not None else set()
        found |= {item.target for item in self.takings}
        found |= {disk.target for one in (*self.finished, *self.removed) for disk in one.snapshot.external}
        return [disk.target for disk in self.state.disks if disk.target in found]

    def _disk_facts(self, target: str) -> dict[str, t.Any]:
        """One disk as it is, or in check mode would be."""
        chain = self.chains.get(target, ())
        images = self.survey.images(chain)
        top = images[0] if images and images[0].path == chain[0].path else None
        return {
            "domain": self.state.name,
            "target": target,
            "path": chain[0].path if chain else None,
            "format": chain[0].format if chain else None,
            "backing_file": chain[1].path if len(chain) > 1 else None,
            "backing_format": chain[1].format if len(chain) > 1 else None,
            "virtual_size": top.virtual_size if top else None,
            "actual_size": top.actual_size if top else None,
            "backing_chain": [image.facts() for image in images],
        }


def _overlay_facts(
    target: str, overlay: str | None, image_format: str | None, below: str | None, below_format: str | None
) -> dict[str, t.Any]:
    return {
        "target": target,
        "overlay": overlay,
        "format": image_format,
        "backing_file": below,
        "backing_format": below_format,
    }


def run(module: AnsibleModule) -> dict[str, t.Any]:
    """One run of the module."""
    task = VmSnapshotTask(module, wish_from(module.params))
    plan = carry_out(task.decide, DISK_SNAPSHOT, task.paths, module)
    return task.result(plan)
