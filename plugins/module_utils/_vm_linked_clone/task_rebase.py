# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The walk of vm_linked_clone with rebase_to: linked clones get another base, such as a newer version of theirs."""

from __future__ import annotations

import os
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainState
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError
from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.connection import Hypervisor
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan, Step
from ansible_collections.kvmops.disk.plugins.module_utils._progress import Progress
from ansible_collections.kvmops.disk.plugins.module_utils._qemu import door as _door
from ansible_collections.kvmops.disk.plugins.module_utils._task import pools as _pools
from ansible_collections.kvmops.disk.plugins.module_utils._task.batch import PATIENCE, Several
from ansible_collections.kvmops.disk.plugins.module_utils._task.carry_out import decide_after_others
from ansible_collections.kvmops.disk.plugins.module_utils._task.held import readers
from ansible_collections.kvmops.disk.plugins.module_utils._task.items import Item, report
from ansible_collections.kvmops.disk.plugins.module_utils._task.places import writing_safely
from ansible_collections.kvmops.disk.plugins.module_utils._usage import dependents as _dependents
from ansible_collections.kvmops.disk.plugins.module_utils._usage import noted_bases as _noted_bases
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import decision_rebase as _decision_rebase
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import leftovers as _leftovers
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import result as _result
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import survey_rebase as _survey_rebase
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.leftovers import REBASE
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.wish_rebase import MoveWish, wish_from
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disk_changes as _disk_changes
from ansible_collections.kvmops.disk.plugins.module_utils._xml import identity as _identity

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_rebase import Move
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.survey_rebase import Survey
    from ansible_collections.kvmops.disk.plugins.module_utils._xml.identity import MarkedDisk

#: Each copies an image.
_AT_ONCE = 4


@dataclass
class RebaseItem(Item):
    """A clone of the list: as it is, what becomes of its disks, and the definition that it is to have."""

    state: DomainState | None = None
    moves: tuple[Move, ...] = ()
    definition: str = ""

    @property
    def is_defined(self) -> bool:
        """Whether its definition says already what it is to say."""
        return self.state is None or self.definition == self.state.definition

    @property
    def changes(self) -> bool:
        return any(move.rebase for move in self.moves) or not self.is_defined


class RebaseTask:
    """The task at hand: decides on each clone, moves those that have another base, and says what became of them."""

    def __init__(self, module: AnsibleModule, wish: MoveWish, survey: Survey) -> None:
        self.module = module
        self.wish = wish
        self.survey = survey
        self.target = survey.target
        self.protects = wish.wish.protect_base
        self.progress = Progress.wanted()
        self.several = Several(module, REBASE, _AT_ONCE)

    def rebased(self) -> dict[str, t.Any]:
        """Gives the clones their new base; in check mode says so."""
        items = [self._item(name) for name in self.wish.names]
        moves = [move for item in items for move in item.moves]
        old = self.survey.old_bases(moves)
        found = self.survey.surroundings.readers([*(move.path for move in moves), *old])
        for item in items:
            _refuse_dependents(item, found)
        right = [item for item in items if item.error is None]
        released = self.survey.unused(old, found, {move.path for item in right for move in item.moves})
        unprotected = _noted_bases.unprotected(item.bases for item in right) if self.protects else []
        if not self.module.check_mode and (released or unprotected or any(item.open for item in items)):
            if self.protects:
                self._protect([item for item in right if not item.open])
            self.several.carry_out(items, self._decided, self._protect)
            paths = [move.path for item in items for move in item.moves]
            for path in released:  # the clones may have left it earlier
                _noted_bases.forget(path, paths, readers(self.module))
            _pools.refresh([self.survey.hypervisor], {os.path.dirname(path) for path in paths}, self.module.warn)
        return report(
            items,
            "clones",
            {"diff": self._diff(items)},
            first=[f"protect {path}" for path in unprotected],
            last=[f"release {path}" for path in released],
        )

    def _item(self, name: str) -> RebaseItem:
        """What is to be done for one clone; why it cannot be is noted in it."""
        item = RebaseItem(name, {"name": name})
        try:
            decide_after_others(lambda: self._plan(item), REBASE, lambda: item.paths, self.module, PATIENCE)
            item.actions = tuple(step.summary for step in self._steps(item, None) if step.summary)
        except DiskError as error:
            item.error = error
        return item

    def _plan(self, item: RebaseItem) -> None:
        """What is to be done for one clone. Raises DiskError where it cannot be."""
        state = self.survey.state(item.name)
        looks = _identity.looks(state.definition)
        sources = {self.wish.wish.source, self.target.state.name, self.target.state.uuid}
        mark = _decision_rebase.require_clone(state, looks.mark, sources)
        item.moves = tuple(self._move(state, disk) for disk in mark.disks)
        item.state = state
        item.definition = _decision_rebase.definition(state, mark, item.moves, self.target)
        item.paths = tuple(move.path for move in item.moves)
        item.bases = {move.base.path: [move.path] for move in item.moves}
        item.facts = _result.facts_of_moved(looks, item.moves)
        if item.changes:
            _decision_rebase.require_at_rest(state)
            self.survey.require_possible(item.name, item.moves)

    def _move(self, state: DomainState, marked: MarkedDisk) -> Move:
        """What becomes of one disk of a clone."""
        survey = self.survey
        disk, base = _decision_rebase.base_of(state, marked, self.target, survey.names(state, marked))
        images = survey.images(state, disk, base)
        names = survey.names(state, marked, images[0].backing_file)
        return _decision_rebase.move(state.name, disk, base, marked.base, images, names)

    def _decided(self, item: RebaseItem, operation: Operation) -> Plan:
        """What is to be done for the clone, whose images are held: another run may have moved it meanwhile."""
        self._plan(item)
        return Plan({}, {}, self._steps(item, operation))

    def _steps(self, item: RebaseItem, operation: Operation | None) -> tuple[Step, ...]:
        """How a clone gets its new base."""
        left = _leftovers.left_of_moves([(move.path, move.disk.format) for move in item.moves], operation)
        if not left and not item.changes:
            return ()
        from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.work_rebase import Work

        work = Work(
            self.survey.hypervisor,
            self.survey.qemu_img,
            operation or Operation(REBASE),
            self.progress,
            self.several.stopped,
            t.cast(DomainState, item.state),
            item.definition,
        )
        source = None if item.is_defined else self.target.state.name
        return _decision_rebase.steps(item.name, item.moves, left, source, work)

    def _protect(self, items: t.Iterable[RebaseItem]) -> None:
        """Notes what reads, or is to read, the new base, and keeps everybody from writing it."""
        _noted_bases.protect((item.bases for item in items), read_only=self.protects, warn=self.module.warn)

    def _diff(self, items: t.Iterable[RebaseItem]) -> list[dict[str, t.Any]]:
        """The bases of the clones before and after; in diff mode the change of each definition."""
        right = [item for item in items if item.error is None]
        told: list[dict[str, t.Any]] = [
            {
                "before": {item.name: [move.before for move in item.moves] for item in right},
                "after": {item.name: [move.base.path for move in item.moves] for item in right},
            }
        ]
        if self.module._diff:
            told += [
                {"prepared": _disk_changes.definition_diff(item.state.definition, item.definition)}
                for item in right
                if item.state is not None and item.changes
            ]
        return told


def _refuse_dependents(item: RebaseItem, found: _dependents.Dependents) -> None:
    """Notes in *item* where an image of it is read by others, as far as that is *found*."""
    try:
        for move in item.moves if item.open else ():
            _dependents.require_none(move.path, found.of(move.path), "give it another base", "leave it as it is")
    except DiskError as error:
        item.error = error


def run(module: AnsibleModule) -> dict[str, t.Any]:
    """One run of the module."""
    wish = wish_from(module.params)
    qemu_img = writing_safely(_door.find(limited=not wish.wish.trusted), module)
    survey = _survey_rebase.look(Hypervisor.connect(module.params["uri"]), qemu_img, wish, module.warn)
    return RebaseTask(module, wish, survey).rebased()
