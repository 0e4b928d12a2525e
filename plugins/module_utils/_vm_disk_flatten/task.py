# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The disks of a domain independent of their backing files: the walk of vm_disk_flatten from its parameters to its
result.

A run that finds everything as wanted does not load the work, nor what dead runs left unless there is a trace of one.
"""

from __future__ import annotations

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._domain import domain as _domain
from ansible_collections.kvmops.disk.plugins.module_utils._files import beside as _beside
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan, Step
from ansible_collections.kvmops.disk.plugins.module_utils._recovery.traces import is_untouched
from ansible_collections.kvmops.disk.plugins.module_utils._task.domain_task import DomainTask
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten import decision as _decision
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten import result as _result
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten.survey import Survey
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten.wish import FlattenWish, wish_from

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainDisk
    from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten.decision import Flattening
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten.leftovers import Left
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten.work import Work
    from ansible_collections.kvmops.disk.plugins.module_utils._xml.records import RecordedDisk


class FlattenTask(DomainTask):
    """The disks of a domain independent, as *wish* wants them.

    *lost* are those whose image lost a part of what a dead run pulled into it: with them, all is to begin anew.
    """

    verb = "flatten"

    def __init__(self, module: AnsibleModule, wish: FlattenWish) -> None:
        super().__init__(module)
        self.wish = wish
        self.survey: Survey
        self.meant: list[Flattening] = []
        self.items: list[Flattening] = []
        self.left: Left | None = None
        self.lost: tuple[RecordedDisk, ...] = ()

    def paths(self) -> set[str]:
        """The images whose records are to be held."""
        return (self.left.paths if self.left else set()) | {item.path for item in self.items}

    def carried_out(self) -> Plan:
        """The plan of the task, which has been carried out; where an image had lost something, all began anew then."""
        plan = super().carried_out()
        if not self.lost or self.check_mode:
            return plan
        after = super().carried_out()
        return Plan(after.before, after.after, (*plan.steps, *after.steps), after.diff)

    def result(self, plan: Plan) -> dict[str, t.Any]:
        """What the module returns, read from the world again after a change."""
        changed = bool(plan) and not self.check_mode
        now = {disk.target: disk for disk in self.state_after(plan).disks}
        return {
            **plan.report(),
            "diff": [{"before": plan.before, "after": plan.after}, *plan.diff],
            "disks": [self._facts(item, now.get(item.target, item.disk), changed) for item in self.meant],
        }

    def _plan(self, operation: Operation | None) -> Plan:
        self.meant, self.items = [], []
        self.survey = Survey(self.qemu_img, self.state, self.wish)
        self.left = self._find_left([], operation)
        self.lost = self._find_lost()
        return self._repair(operation) if self.lost else self._flattening(operation)

    def _given_up(self, operation: Operation | None) -> tuple[Step, ...]:
        if self.lost or not self.left:
            return ()
        self.items = []
        return self._settlement(operation)

    def _flattening(self, operation: Operation | None) -> Plan:
        """The plan that flattens disks, where there is something to do."""
        self.meant = [self.survey.observed(disk) for disk in _decision.select(self.state, self.wish)]
        self.left = self._find_left([item.path for item in self.meant], operation)
        items = [item for item in self.meant if not _decision.is_granted(item)]
        stale = [item for item in self.meant if item not in items and self.survey.is_misnamed(item)]
        naming = self._naming(stale, operation) if stale else ()
        if not items:
            return Plan({}, {}, (*naming, *self._settlement(operation)), self.survey.definition_diff(stale))
        return self._flattening_of(items, stale, naming, operation)

    def _flattening_of(
        self,
        items: list[Flattening],
        stale: list[Flattening],
        naming: tuple[Step, ...],
        operation: Operation | None,
    ) -> Plan:
        """The plan that flattens *items*, beside the *naming* of *stale* ones. Raises DiskError where that must not, or
        cannot, be."""
        from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten import (
            decision_obstacles as _obstacles,
        )

        self.mode = _obstacles.way(self.state, self.wish)
        adopted = self._adopted(items)
        _obstacles.require_flattenable(self.state, items, self._foreign_jobs())
        self.items = items
        self._require_possible(items, adopted)
        steps = (
            *self._settled(adopted, operation),
            *naming,
            *(self._live(adopted, operation) if self.mode == "live" else self._offline(operation)),
        )
        return _decision.plan(items, steps, self.survey.definition_diff([*stale, *items]))

    def _require_possible(self, items: t.Sequence[Flattening], adopted: t.Container[str]) -> None:
        """Raises DiskError where the world around the disks is in the way."""
        from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten.survey_change import ChangeSurvey

        survey = ChangeSurvey(self.surroundings, self.qemu_img, self.state)
        survey.require_unused(items)
        if self.mode == "offline":
            survey.require_no_bitmaps(items)
        else:
            self._require_survivable([item for item in items if item.target not in adopted])
        survey.require_space([item for item in items if item.target not in adopted])

    def _require_survivable(self, items: t.Sequence[Flattening]) -> None:
        """Raises DiskError where the QEMU of the domain would abort in a pull; it is only asked where it might."""
        from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.acting import acting
        from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten import (
            decision_obstacles as _obstacles,
        )

        for item in items:
            if item.image.extended_l2:
                _obstacles.require_survivable(self.state, item, acting(self.domain).qemu_version())

    def _settled(self, adopted: t.Container[str], operation: Operation | None) -> tuple[Step, ...]:
        """The steps that bring order to what dead runs left, before disks are flattened."""
        from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten import leftovers as _leftovers

        clean_up: tuple[Step, ...] = ()
        if self.left is not None:
            self.left = _leftovers.without(self.left, adopted)
            work = self._work(operation)
            clean_up = _leftovers.settle(self.left, work.end_pull, work.write_out)
        return (*_leftovers.settled_images(self.state, self.items, operation, self.qemu_img), *clean_up)

    def _live(self, adopted: t.Container[str], operation: Operation | None) -> tuple[Step, ...]:
        from ansible_collections.kvmops.disk.plugins.module_utils._image.doubts import warn_of_untold_holes
        from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten import (
            decision_live as _decision_live,
        )
        from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten import work_live as _work_live

        for item in self.items if operation is None else ():
            warn_of_untold_holes(item.files, "a pull", self.warn)
        owners = self.left.owners if self.left is not None else {}
        work = _work_live.Work(**self.tools(operation), wish=self.wish, owners=owners, adopted=adopted)
        return _decision_live.steps(self.state, self.items, self.domain.run_number(), adopted, work)

    def _offline(self, operation: Operation | None) -> tuple[Step, ...]:
        from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten import (
            decision_offline as _decision_offline,
        )
        from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten import work_offline as _work_offline

        work = _work_offline.Work(**self.tools(operation), wish=self.wish)
        return _decision_offline.steps(self.state, self.items, work)

    def _naming(self, stale: t.Sequence[Flattening], operation: Operation | None) -> tuple[Step, ...]:
        """The step that names in the definition what a dead run left of the backing files of *stale* disks."""
        from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten import (
            decision_obstacles as _obstacles,
        )

        _obstacles.require_explained(self.state, stale, self.left.targets if self.left else ())
        return _decision.naming(self.state, stale, self._work(operation))

    def _repair(self, operation: Operation | None) -> Plan:
        """The plan that gives images back what their QEMU took along when it was killed; then all begins anew."""
        from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten import leftovers as _leftovers

        _leftovers.require_off(self.state, self.lost)
        named = _leftovers.with_old_chains(self.state.definition, self.lost, self.qemu_img)
        work = self._work(operation)
        return Plan({}, {}, _leftovers.repair(self.state, t.cast("Left", self.left), self.lost, named, work))

    def _settlement(self, operation: Operation | None) -> tuple[Step, ...]:
        """The steps that end what a dead run left, where there is nothing else to do."""
        if not self.left:
            return ()
        from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten import leftovers as _leftovers

        return _leftovers.settlement(self.state, self.left, self._work(operation))

    def _find_left(self, images: t.Collection[str], operation: Operation | None) -> Left | None:
        """What a dead run left of the domain and beside *images*; None where there is no trace of one."""
        note_of = _beside.notes(operation)
        if is_untouched(self.state.record, images, self.verb, note_of):
            return None
        from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten import leftovers as _leftovers

        return _leftovers.find(self.state, self.domain.run_number(), images, note_of, self.domain.is_pulled)

    def _find_lost(self) -> tuple[RecordedDisk, ...]:
        if self.left is None:
            return ()
        from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten import leftovers as _leftovers

        return _leftovers.lost(self.left, self.qemu_img)

    def _adopted(self, items: t.Sequence[Flattening]) -> frozenset[str]:
        """The targets whose pull a dead run began, and goes on with."""
        if self.left is None or self.mode != "live":
            return frozenset()
        from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten import leftovers as _leftovers

        return _leftovers.adoptable(self.left, items)

    def _foreign_jobs(self) -> list[str]:
        """The disks with block jobs, without those that a dead run of ours began."""
        ours = {disk.target for disk in self.left.pulled} if self.left is not None else set()
        jobs = _domain.block_jobs(self.domain, self.state) if self.state.active else []
        return [target for target in jobs if target not in ours]

    def _work(self, operation: Operation | None) -> Work:
        from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten.work import Work

        return Work(**self.tools(operation))

    def _facts(self, item: Flattening, disk: DomainDisk, changed: bool) -> dict[str, t.Any]:
        """One disk as the module returns it; in check mode as it would be."""
        became, images = _result.UNCHANGED, item.images
        if item in self.items:
            verified = self.mode == "offline" and self.wish.verify and not self.check_mode
            became, images = _result.flattened(item, self.mode, verified=verified), _decision.predicted(item)
        now = self.images_of(disk) if changed else images
        return _result.facts(self.state.name, item.target, now, became)


def run(module: AnsibleModule) -> dict[str, t.Any]:
    """One run of the module."""
    return FlattenTask(module, wish_from(module.params)).walk()
