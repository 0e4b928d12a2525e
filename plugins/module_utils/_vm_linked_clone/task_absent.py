# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The walk of vm_linked_clone with state=absent. What a run has no use for it does not load."""

from __future__ import annotations

import os
import typing as t
from functools import partial

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError
from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.connection import Hypervisor
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan, Step
from ansible_collections.kvmops.disk.plugins.module_utils._task import pools as _pools
from ansible_collections.kvmops.disk.plugins.module_utils._task.held import readers
from ansible_collections.kvmops.disk.plugins.module_utils._task.items import Item, report
from ansible_collections.kvmops.disk.plugins.module_utils._usage import noted_bases as _noted_bases
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import decision_remove as _decision_remove
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import leftovers as _leftovers
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import result as _result
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import survey_absent as _survey_absent
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_remove import Removal
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_together import Together
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.leftovers import REMOVE
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.wish_absent import RemovalWish, wish_from

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_existing import Neighbour
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.survey_absent import Survey


@dataclass
class RemovalItem(Item):
    """A clone of the list, and what goes with it; None where there is no such."""

    plan: Removal | None = None

    @property
    def removal(self) -> Removal | None:
        """What goes, unless it cannot."""
        return self.plan if self.error is None else None


class RemovalTask:
    """The task at hand: decides on each clone, removes those that may go, and says what became of them."""

    def __init__(self, module: AnsibleModule, wish: RemovalWish, survey: Survey) -> None:
        self.module = module
        self.wish = wish
        self.survey = survey
        self.together = Together(())

    def absent(self) -> dict[str, t.Any]:
        """Removes the clones that are there; in check mode says so."""
        items = [self._item(name) for name in self.wish.names]
        self._refuse_shared(items)
        paths = [path for item in items for path in item.paths]
        released = self._unused(items)
        if not self.module.check_mode and (released or any(item.open for item in items)):
            self._carry_out(items)
            for base in released:  # its last clone may have gone before
                _noted_bases.forget(base, paths, readers(self.module))
            _pools.refresh([self.survey.hypervisor], {os.path.dirname(path) for path in paths}, self.module.warn)
        self._warn(items)
        told = {"before": {"clones": [item.name for item in items if item.plan]}, "after": {"clones": []}}
        return report(items, "clones", {"diff": [told]}, last=[f"release {base}" for base in released])

    def _item(self, name: str) -> RemovalItem:
        """What is to be done for one clone; why it cannot be is noted in it."""
        item = RemovalItem(name, _result.facts_of_none(name))
        found = self.survey.known.get(name)
        try:
            if found is not None:
                self._plan(item, found)
                item.actions = tuple(step.summary for step in self._removing(item, Operation(REMOVE)) if step.summary)
            else:
                left = [one.path for one in self.survey.left.get(name, ())]
                item.actions = tuple(step.summary for step in self._clearing(left, Operation(REMOVE)))
                item.paths = tuple(left)
        except DiskError as error:
            item.error = error
        return item

    def _plan(self, item: RemovalItem, found: Neighbour) -> None:
        """What is to go. Raises DiskError where it is no clone that may go now."""
        mark = _decision_remove.require_clone(found, self.wish.source, self.survey.marks)
        plan = _decision_remove.removal(found, mark, _survey_absent.files_of(found, mark))
        _decision_remove.require_stoppable(found, self.wish.force)
        item.plan, item.paths = plan, plan.files
        item.facts = _result.facts_of_removed(found, mark, plan.kept)

    def _refuse_shared(self, items: t.Sequence[RemovalItem]) -> None:
        """Notes in each item why it must stay."""
        plans = [item.removal for item in items if item.removal is not None]
        locks = not any(plan.stop for plan in plans)
        self.together = Together(self.survey.going(plan, locks=locks) for plan in plans)
        refused = self.together.refusals()
        for item in items:
            item.error = item.error or refused.get(item.name)

    def _unused(self, items: t.Sequence[RemovalItem]) -> list[str]:
        """The bases in use that nothing reads when the clones have gone."""
        made_from = [base for item in items if item.plan for base in item.plan.bases]
        going = {path for item in items if item.removal is not None for path in item.removal.files}
        return self.survey.unused(going, made_from)

    def _carry_out(self, items: t.Sequence[RemovalItem]) -> None:
        """Removes the clones, those of clones first."""
        from ansible_collections.kvmops.disk.plugins.module_utils._task.batch import Several

        names = {item.name: item for item in items}
        gone = [item for item in items if item.plan is None]
        waves = [[names[name] for name in wave] for wave in self.together.waves()]
        for wave in [[*gone, *(waves[0] if waves else ())], *waves[1:]]:
            Several(self.module, REMOVE).carry_out(wave, self._decided)
            self.together = self.together.without([item.name for item in wave if item.error])

    def _decided(self, item: RemovalItem, operation: Operation) -> Plan:
        """What is to be done for the clone, whose files are held: another run may have removed it meanwhile."""
        found = self.survey.found_now(item.name)
        if found is None:
            left = [one.path for one in _leftovers.still_left(operation)]
            return Plan({}, {}, self._clearing(left, operation))
        self._plan(item, found)
        plan = t.cast(Removal, item.plan)
        self.together.require_unshared(self.survey.going(plan, locks=not found.active))
        return Plan({}, {}, self._removing(item, operation))

    def _removing(self, item: RemovalItem, operation: Operation) -> tuple[Step, ...]:
        """How a clone goes."""
        from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.work_remove import Work

        plan = t.cast(Removal, item.plan)
        return _decision_remove.steps(plan, Work(self.survey.hypervisor, operation, plan))

    def _clearing(self, left: t.Sequence[str], operation: Operation) -> tuple[Step, ...]:
        """How that goes which dead runs left of a clone that is not there."""
        if not left:
            return ()
        from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.work_make import clear

        return _decision_remove.clearing(left, partial(clear, operation))

    def _warn(self, items: t.Iterable[RemovalItem]) -> None:
        for item in items:
            if item.removal is not None and item.removal.kept:
                self.module.warn(f"{item.name}: was not made with {', '.join(item.removal.kept)}: left where it is")


def run(module: AnsibleModule) -> dict[str, t.Any]:
    """One run of the module."""
    wish = wish_from(module.params)
    survey = _survey_absent.look(Hypervisor.connect(module.params["uri"]), wish, module.warn)
    return RemovalTask(module, wish, survey).absent()
