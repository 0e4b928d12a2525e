# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The space of disks given back: the walk of vm_disk_reclaim from its parameters to its result.

A run that finds nothing worth the work does not load what does it.
"""

from __future__ import annotations

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import replace
from ansible_collections.kvmops.disk.plugins.module_utils._files import beside as _beside
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan, Step
from ansible_collections.kvmops.disk.plugins.module_utils._recovery import noting as _noting
from ansible_collections.kvmops.disk.plugins.module_utils._recovery import settle as _settle
from ansible_collections.kvmops.disk.plugins.module_utils._recovery import traces as _traces
from ansible_collections.kvmops.disk.plugins.module_utils._task.domain_task import DomainTask
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_reclaim import decision as _decision
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_reclaim import decision_obstacles as _obstacles
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_reclaim import result as _result
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_reclaim.survey import Survey
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_reclaim.wish import ReclaimWish, wish_from

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_reclaim.decision import Reclaiming
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_reclaim.survey import Read
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_reclaim.survey_change import ChangeSurvey
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_reclaim.work import Work


class ReclaimTask(DomainTask):
    """The space of a domain's disks, as *wish* wants it back."""

    verb = "reclaim"

    def __init__(self, module: AnsibleModule, wish: ReclaimWish) -> None:
        super().__init__(module)
        self.wish = wish
        self.meant: list[Reclaiming] = []
        self.items: list[Reclaiming] = []
        self._read: Read = {}
        self._settled = False
        self._work: Work | None = None

    def paths(self) -> list[str]:
        """The images whose records are to be held."""
        return [item.path for item in self.meant]

    def result(self, plan: Plan) -> dict[str, t.Any]:
        """What the module returns. Whether something was trimmed is known by what came back."""
        disks = [self._facts(item) for item in self.meant]
        self.state_after(plan)
        changed = bool(plan)
        if self.mode == "live" and not self.check_mode:
            changed = self._settled or any(disk["gained"] for disk in disks)
        report = {**plan.report(), "changed": changed}
        return {**report, "diff": {"before": plan.before, "after": plan.after}, "disks": disks}

    def _plan(self, operation: Operation | None) -> Plan:
        self.mode = "live" if self.state.active else "offline"
        survey = Survey(self.domain, self.qemu_img, self.state, self.wish, self.progress, self._read)
        self.meant = [survey.observed(disk) for disk in _decision.select(self.state, self.wish)]
        note_of = _beside.notes(operation)
        if self.state.record is not None:
            _traces.require_own(self.state.name, self.state.uuid, self.state.record, self.verb, note_of)
        first = self._settling(operation)
        candidates = [item for item in self.meant if _decision.why_left_alone(item, self.wish) is None]
        looked = self._foretold_live(survey, candidates) if self.state.active else self._foretold(survey, candidates)
        self.meant = [looked.get(item.target, item) for item in self.meant]
        self.items = [item for item in looked.values() if _decision.why_left_alone(item, self.wish) is None]
        if not self.items:
            return _noting.noting(first, Plan({}, {}), operation, dict)
        return _noting.noting(first, _decision.plan(self.items, self._steps(operation)), operation, dict)

    def _given_up(self, operation: Operation | None) -> tuple[Step, ...]:
        """Nothing: what a dead run left of an image waits for a wish that is granted."""
        return ()

    def _settling(self, operation: Operation | None) -> tuple[Step, ...]:
        """The steps that settle first what dead runs left of the images. Raises DiskError where a guest forbids it."""
        note_of, qemu_img = _beside.notes(operation), self.holding(operation)
        found: list[Step] = []
        for item in self.meant:
            if self.state.active:
                _settle.require_checkable(self.state.name, self.state.state, item.path, note_of(item.path))
            found += _settle.interrupted(item.path, item.image.format, operation, qemu_img)
        self._settled = bool(found)
        return tuple(found)

    def _foretold_live(self, survey: Survey, items: list[Reclaiming]) -> dict[str, Reclaiming]:
        for item in items:
            _obstacles.require_trimmable(self.state, item)
        return {item.target: item for item in survey.foretold_live(items)} if items else {}

    def _foretold(self, survey: Survey, items: list[Reclaiming]) -> dict[str, Reclaiming]:
        for item in items:
            _obstacles.require_rewritable(self.state, item)
            self._around().require_unused(item)
        return {item.target: survey.foretold_offline(item) for item in items}

    def _steps(self, operation: Operation | None) -> tuple[Step, ...]:
        """The steps that give the space back. Raises DiskError where the world around the images is in the way."""
        from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_reclaim.work import Work

        self._work = work = Work(**self.tools(operation), state=self.state, wish=self.wish)
        if self.state.active:
            return _decision.live_steps(self.state, self.items, work)
        around = self._around()
        around.require_no_dependents(self.items)
        around.require_space(self.items)
        self._tell_of_bitmaps()
        return _decision.offline_steps(self.state, self.items, work)

    def _tell_of_bitmaps(self) -> None:
        """Says which dirty bitmaps get lost: those that nobody wrote back."""
        from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_reclaim.survey_change import carried_bitmaps

        for item in self.items:
            warning = carried_bitmaps(item).warning
            if warning is not None:
                self.warn(warning)

    def _around(self) -> ChangeSurvey:
        from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_reclaim.survey_change import ChangeSurvey

        return ChangeSurvey(self.surroundings, self.state)

    def _facts(self, item: Reclaiming) -> dict[str, t.Any]:
        """One disk as the module returns it; in check mode as far as it is foretold."""
        done = any(one.target == item.target for one in self.items)
        after: int | None = item.image.actual_size
        if done:
            after = self._work.after.get(item.target) if self._work else None
        images = (replace(item.image, actual_size=item.image.actual_size if after is None else after), *item.images[1:])
        return _result.facts(
            *(self.state.name, item, images, after),
            foretold=item.foretold,
            mode=self.mode if done else None,
            verified=done and self.mode == "offline" and not self.check_mode,
            left_alone=None if done else _decision.why_left_alone(item, self.wish),
        )


def run(module: AnsibleModule) -> dict[str, t.Any]:
    """One run of the module."""
    return ReclaimTask(module, wish_from(module.params)).walk()
