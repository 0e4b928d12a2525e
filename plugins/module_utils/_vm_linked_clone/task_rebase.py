# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Linked clones that are to have another base, a newer version of theirs: vm_linked_clone with rebase_to."""

from __future__ import annotations

import os
import typing as t
from dataclasses import dataclass, replace

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._capacity import space as _space
from ansible_collections.kvmops.disk.plugins.module_utils._content import rebase as _rebase
from ansible_collections.kvmops.disk.plugins.module_utils._content.rebase_work import Phases, plan_rebase
from ansible_collections.kvmops.disk.plugins.module_utils._domain import disk_chain as _disk_chain
from ansible_collections.kvmops.disk.plugins.module_utils._domain import domain as _domain
from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainDisk, DomainState
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, Interrupted, InvalidRequest
from ansible_collections.kvmops.disk.plugins.module_utils._files import base_note as _base_note
from ansible_collections.kvmops.disk.plugins.module_utils._files import staging as _staging
from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation
from ansible_collections.kvmops.disk.plugins.module_utils._image import image as _image
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.connection import Hypervisor
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan, Step
from ansible_collections.kvmops.disk.plugins.module_utils._progress import Progress
from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg
from ansible_collections.kvmops.disk.plugins.module_utils._recovery import leftovers as _leftovers
from ansible_collections.kvmops.disk.plugins.module_utils._task import surroundings as _surroundings
from ansible_collections.kvmops.disk.plugins.module_utils._task.batch import PATIENCE, Item, Several, report
from ansible_collections.kvmops.disk.plugins.module_utils._task.carry_out import decide_after_others, readers
from ansible_collections.kvmops.disk.plugins.module_utils._task.hypervisor import refresh_pools
from ansible_collections.kvmops.disk.plugins.module_utils._usage import dependents as _dependents
from ansible_collections.kvmops.disk.plugins.module_utils._usage import noted_bases as _noted_bases
from ansible_collections.kvmops.disk.plugins.module_utils._usage import users as _users
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import decision_rebase as _decision_rebase
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import survey as _survey
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_rebase import Move
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.wish import LINKED, CloneWish, wish_from
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disks as _disks
from ansible_collections.kvmops.disk.plugins.module_utils._xml import identity as _identity

#: The verb of the records of runs that move clones.
REBASE = "rebase-clone"
#: Each copies an image.
_AT_ONCE = 4


@dataclass
class RebaseItem(Item):
    """A clone of the list: as it is, what becomes of its disks, and the definition that it is to have."""

    state: DomainState | None = None
    moves: tuple[Move, ...] = ()
    definition: str = ""

    @property
    def changes(self) -> bool:
        return self.state is not None and (
            any(move.rebase for move in self.moves) or self.definition != self.state.definition
        )


class RebaseTask:
    """The task at hand: looks at the world, decides by the pure functions, and says what became of it."""

    def __init__(self, module: AnsibleModule, wish: CloneWish) -> None:
        self.module = module
        self.params = module.params
        for name, usual in (("mode", LINKED), ("state", "present")):
            if self.params[name] != usual:
                raise InvalidRequest(
                    f"rebase_to: moves existing linked clones, and {name} is {self.params[name]}: leave one of the "
                    "two out"
                )
        self.wish = wish
        self.progress = Progress.wanted()
        self.several = Several(module, REBASE, _AT_ONCE)
        self.names = [spec.name for spec in wish.clones]
        self.qemu_img = QemuImg.find().limiting(not wish.trusted)
        self.hypervisor = Hypervisor.connect(self.params["uri"])
        new = replace(wish, source=self.params["rebase_to"])
        new.require_valid()
        self.target = _survey.look_at_source(self.hypervisor, self.qemu_img, new)
        for disk in self.target.disks:
            for image in disk.images:
                _surroundings.require_unwritten(image)
        self.users = _users.domain_users(self.hypervisor)
        self.items = [self._item(name) for name in self.names]
        paths = [*(move.path for item in self.items for move in item.moves), *self._old_bases()]
        directories = _dependents.directories_to_search(paths, self.params["search_paths"], self.hypervisor)
        self.readers = _dependents.Dependents(directories, self.users)

    def rebased(self) -> dict[str, t.Any]:
        """Gives the clones their new base; in check mode says so."""
        for item in self.items:
            self._refuse_dependents(item)
        released = self._unused()
        right = [item for item in self.items if item.error is None]
        unprotected = _noted_bases.unprotected(item.bases for item in right) if self.wish.protect_base else []
        if not self.module.check_mode and (released or unprotected or any(item.open for item in self.items)):
            if self.wish.protect_base:
                self._protect([item for item in right if not item.open])
            self.several.carry_out(self.items, self._decided, self._protect)
            for path in released:  # the clones may have left it earlier
                _noted_bases.forget(
                    path, [move.path for item in self.items for move in item.moves], readers(self.module)
                )
            refresh_pools(self.hypervisor, {os.path.dirname(move.path) for item in self.items for move in item.moves})
        return report(
            self.items,
            "clones",
            {"diff": self._diff()},
            first=[f"protect {path}" for path in unprotected],
            last=[f"release {path}" for path in released],
        )

    def _item(self, name: str) -> RebaseItem:
        item = RebaseItem(name, {"name": name})
        try:
            decide_after_others(lambda: self._plan(item), REBASE, lambda: item.paths, self.module, PATIENCE)
            item.actions = tuple(step.summary for step in self._steps(item, None) if step.summary)
        except DiskError as error:
            item.error = error
        return item

    def _plan(self, item: RebaseItem) -> None:
        """What is to be done for one clone. Raises DiskError where it cannot be."""
        domain = self.hypervisor.find(item.name)
        if domain is None:
            raise DiskError(
                f"{item.name}: no domain of this name: rebase_to moves existing clones: make it as a clone of "
                f"{self.target.state.name} (source, without rebase_to)"
            )
        state = _domain.observe(self.hypervisor, domain)
        looks = _identity.looks(state.definition)
        sources = {self.wish.source, self.target.state.name, self.target.state.uuid}
        mark = _decision_rebase.require_clone(state, looks.mark, sources)
        item.moves = tuple(
            _decision_rebase.move(state, disk, self.target, lambda disk: self._chain(state, disk))
            for disk in mark.disks
        )
        item.state = state
        item.definition = _decision_rebase.definition(state, mark, item.moves, self.target)
        item.paths = tuple(move.path for move in item.moves)
        item.bases = {move.base.path: [move.path] for move in item.moves}
        item.facts = {
            "name": item.name,
            "uuid": state.uuid,
            "macs": list(looks.macs),
            "nvram": looks.nvram,
            "disks": [
                {
                    "target": move.disk.target,
                    "path": move.path,
                    "format": move.disk.format,
                    "backing_file": move.base.path,
                }
                for move in item.moves
            ],
            "identity": [],
            "shared": [],
        }
        if item.changes:
            _decision_rebase.require_at_rest(state)
            self._require_possible(item)

    def _chain(self, state: DomainState, disk: DomainDisk) -> tuple[_image.Image, ...]:
        """The images of a disk, as far as its definition names them."""
        path = t.cast(str, disk.path)
        image = _image.inspect(self.qemu_img, path, disk.format, by_header=True)
        target = next((one for one in self.target.disks if one.target == disk.target), None)
        if image.backing_file is None or (target and _users.is_same_file(image.backing_file, target.path)):
            return (image,)
        images = _disk_chain.followed(self.qemu_img, state, disk, image, trusted=self.wish.trusted)
        _disk_chain.require_same_chain(state, disk, images)
        return images

    def _require_possible(self, item: RebaseItem) -> None:
        """Raises ImageInUse or NotEnoughSpace where the images of a clone cannot be replaced."""
        demands = []
        for move in item.moves:
            others = [user for user in self.users if user.domain != item.name]
            _users.require_unused(move.path, others, "give it another base")
            if move.rebase:
                for below in move.rebase.below:
                    _surroundings.require_unwritten(below)
                options = {"cluster_size": str(move.rebase.image.cluster_size)}
                measured = self.qemu_img.measure(move.path, move.disk.format, "qcow2", options).required
                demands.append((os.path.realpath(move.path), _rebase.bytes_needed(move.rebase, measured)))
        _space.require_space(demands)

    def _refuse_dependents(self, item: RebaseItem) -> None:
        try:
            for move in item.moves if item.open else ():
                found = self.readers.of(move.path)
                _dependents.require_none(move.path, found, "give it another base", "leave it as it is")
        except DiskError as error:
            item.error = error

    def _decided(self, item: RebaseItem, operation: Operation) -> Plan:
        """What is to be done for the clone, whose images are held: another run may have moved it meanwhile."""
        self._plan(item)
        return Plan({}, {}, self._steps(item, operation))

    def _steps(self, item: RebaseItem, operation: Operation | None) -> tuple[Step, ...]:
        """First what a dead run left, then each image, then the definition."""
        found = []
        for move in item.moves:
            left = _leftovers.left_on(move.path, move.disk.format, operation)
            if left.unfinished_file or left.record is not None:
                found.append(
                    Step(f"remove what an interrupted run left of {move.path}", _cleared(move.path, operation))
                )
        if not item.changes:
            return tuple(found)
        door = self.qemu_img.holding(*operation.descriptors) if operation else self.qemu_img
        for move in item.moves:
            if move.rebase:
                found += plan_rebase(move.rebase, door, phases=self._phases(f"{item.name} {move.disk.target}")).steps
        state = t.cast(DomainState, item.state)
        if item.definition != state.definition:
            found.append(
                Step(
                    f"define {item.name} as a clone of {self.target.state.name}",
                    lambda: self._define(state, item.definition),
                )
            )
        return tuple(found)

    def _phases(self, subject: str) -> Phases:
        """The parts of the work on a disk, each of which ends where the task is told to end."""

        def look() -> None:
            if self.several.stopped():
                raise Interrupted(f"{subject}: was left as it was, because the task was stopped")

        return lambda verb, total: self.progress.phase(subject, verb, total, look)

    def _define(self, state: DomainState, xml: str) -> None:
        """Defines the clone anew. Raises DiskError where its definition is not the one that was looked at."""
        domain = self.hypervisor.domain(state.uuid)
        if domain.is_active() or domain.xml(inactive=True) != state.definition:
            raise DiskError(
                f"{state.name}: was started or changed in the meantime: its images read the new base, and its guest "
                "sees the same: run again",
            )
        self.hypervisor.define(xml)
        difference = _disks.unexpected_difference(xml, domain.xml(inactive=True))
        if difference is not None:
            self.hypervisor.define(state.definition)
            raise DiskError(f"{state.name}: libvirt took another definition than it was given: {difference}")

    def _protect(self, items: t.Iterable[RebaseItem]) -> None:
        """Notes what reads, or is to read, the new base, and keeps everybody from writing it."""
        _noted_bases.protect((item.bases for item in items), read_only=self.wish.protect_base, warn=self.module.warn)

    def _old_bases(self) -> set[str]:
        """The bases that clones were made from, and the images of their source, which they may have left earlier."""
        found = {move.before for item in self.items for move in item.moves}
        source = self.hypervisor.find(self.wish.source)
        if source is not None:
            found |= {disk.path for disk in _domain.observe(self.hypervisor, source).disks if disk.path is not None}
        return {path for path in found - {disk.path for disk in self.target.disks} if os.path.isfile(path)}

    def _unused(self) -> list[str]:
        """The protected bases that nothing reads when the clones have moved."""
        going = {move.path for item in self.items if item.error is None for move in item.moves}
        return [
            path
            for path in sorted(self._old_bases())
            if _base_note.is_in_use(path) and not {*self.readers.of(path)} - going
        ]

    def _diff(self) -> list[dict[str, t.Any]]:
        """The bases of the clones before and after; in diff mode the change of each definition."""
        right = [item for item in self.items if item.error is None]
        told: list[dict[str, t.Any]] = [
            {
                "before": {item.name: [move.before for move in item.moves] for item in right},
                "after": {item.name: [move.base.path for move in item.moves] for item in right},
            }
        ]
        if self.module._diff:
            told += [
                {"prepared": _disks.definition_diff(item.state.definition, item.definition)}
                for item in right
                if item.state is not None and item.changes
            ]
        return told


def run(module: AnsibleModule) -> dict[str, t.Any]:
    """One run of the module."""
    return RebaseTask(module, wish_from(module.params)).rebased()


def _cleared(path: str, operation: Operation | None) -> t.Callable[[], None]:
    def clear() -> None:
        _staging.discard(os.path.realpath(path))
        t.cast(Operation, operation).settled(path)

    return clear
