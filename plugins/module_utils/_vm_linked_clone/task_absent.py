# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Clones that are not to be there any more: the walk of vm_linked_clone with state=absent."""

from __future__ import annotations

import os
import typing as t
from dataclasses import dataclass

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, InvalidRequest
from ansible_collections.kvmops.disk.plugins.module_utils._files import base_note as _base_note
from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.connection import Hypervisor
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.domain import Domain
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan, Step
from ansible_collections.kvmops.disk.plugins.module_utils._task.arguments import absolute, require_directories
from ansible_collections.kvmops.disk.plugins.module_utils._task.batch import Item, Several, report
from ansible_collections.kvmops.disk.plugins.module_utils._task.carry_out import readers
from ansible_collections.kvmops.disk.plugins.module_utils._task.hypervisor import refresh_pools
from ansible_collections.kvmops.disk.plugins.module_utils._usage import dependents as _dependents
from ansible_collections.kvmops.disk.plugins.module_utils._usage import noted_bases as _noted_bases
from ansible_collections.kvmops.disk.plugins.module_utils._usage import users as _users
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import (
    decision_blueprint as _decision_blueprint,
)
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import decision_remove as _decision_remove
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import survey as _survey
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import wish as _wish
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import work_make as _work_make
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import work_remove as _work_remove
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_existing import Neighbour
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_remove import Removal
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.survey import Left


@dataclass
class RemovalItem(Item):
    """A clone of the list: the domain that was *found*, None where there is no such, and what goes with it.

    *left* are the bases that a dead run had to do with.
    """

    found: Neighbour | None = None
    plan: Removal | None = None
    left: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[str, ...]:
        """What goes, unless it cannot."""
        return self.plan.files if self.plan is not None and self.error is None else ()


class RemovalTask:
    """The task at hand: looks at the world, decides by the pure functions, and says what became of it."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.params = module.params
        self.names = _names(module.params)
        require_directories(self.params["search_paths"])
        self.hypervisor = Hypervisor.connect(module.params["uri"])
        self.neighbours = _survey.look_around(self.hypervisor)
        self.known = {neighbour.looks.name: neighbour for neighbour in self.neighbours}
        self.listed = [self.known[name] for name in self.names if name in self.known]
        marked = [disk.path for one in self.listed if one.looks.mark for disk in one.looks.mark.disks]
        self.directories = _dependents.directories_to_search(
            [*marked, *self._places()], self.params["search_paths"], self.hypervisor
        )
        left = _survey.left_behind(self.directories, set(self.names))
        self.users = _users.domain_users(self.hypervisor) if marked or left else []
        self.readers = _dependents.Dependents(self.directories if marked or left else (), self.users)
        self.items = [self._item(name, left.get(name, [])) for name in self.names]
        self._refuse_shared()

    def absent(self) -> dict[str, t.Any]:
        """Removes the clones that are there; in check mode says so."""
        items = self.items
        paths = [path for item in items for path in item.paths]
        released = self._unused()
        if not self.module.check_mode and (released or any(item.open for item in items)):
            for wave in self._waves():
                Several(self.module, _decision_blueprint.REMOVE).carry_out(wave, self._decided)
            for base in released:  # its last clone may have gone before
                _noted_bases.forget(base, paths, readers(self.module))
            refresh_pools(self.hypervisor, {os.path.dirname(path) for path in paths})
        for item in items:
            if item.plan and item.plan.kept and item.error is None:
                self.module.warn(f"{item.name}: was not made with {', '.join(item.plan.kept)}: left where it is")
        told = {"before": {"clones": [item.name for item in items if item.plan]}, "after": {"clones": []}}
        return report(items, "clones", {"diff": [told]}, last=[f"release {base}" for base in released])

    def _item(self, name: str, left: t.Sequence[Left]) -> RemovalItem:
        item = RemovalItem(name, {"name": name, "uuid": None, "macs": [], "disks": [], "kept": []})
        item.left = tuple(base for one in left for base in one.bases)
        try:
            found = self.known.get(name)
            if found is not None:
                self._plan(item, found)
            else:
                item.actions = tuple(step.summary for step in _clearing(left, None))
                item.paths = tuple(one.path for one in left)
        except DiskError as error:
            item.error = error
        return item

    def _plan(self, item: RemovalItem, found: Neighbour) -> None:
        """What is to go. Raises DiskError where it is no clone that may go now."""
        mark = _decision_remove.require_clone(found, self.params["source"], self.listed)
        plan = _decision_remove.removal(found, mark)
        _decision_remove.require_stoppable(found, self.params["force"])
        item.found, item.plan, item.paths = found, plan, plan.files
        item.facts = {
            "name": item.name,
            "uuid": found.looks.uuid,
            "macs": list(found.looks.macs),
            "disks": [{"target": disk.target, "path": disk.path, "backing_file": disk.base} for disk in mark.disks],
            "kept": list(plan.kept),
        }
        item.actions = tuple(
            step.summary for step in _work_remove.steps(_nobody(plan), stop=found.active) if step.summary
        )

    def _refuse_shared(self) -> None:
        """Notes in each item why it must stay, as long as that makes others stay, which it reads."""
        runs = any(item.found is not None and item.found.active for item in self.items)
        refused = True
        while refused:
            refused = False
            for item in [item for item in self.items if item.files]:
                try:
                    self._require_unshared(item, locks=not runs)
                except DiskError as error:
                    item.error, refused = error, True

    def _require_unshared(self, item: RemovalItem, *, locks: bool) -> None:
        """Raises DiskError where something of the clone is used by others than itself and those that go, too.

        Whose *locks* there are nobody can tell while one of these runs.
        """
        going = [one for one in self.items if one.plan is not None and one.error is None]
        files = {os.path.realpath(path) for one in going for path in one.files}
        others = [user for user in self.users if user.uuid not in {one.facts["uuid"] for one in going}]
        for path in item.files:
            found = [reader for reader in self.readers.of(path) if os.path.realpath(reader) not in files]
            _dependents.require_none(
                path, found, "remove it with its clone", "remove them (snapshots, for example) first"
            )
            _users.require_unused(path, others, "remove it with its clone", locks=locks)

    def _waves(self) -> t.Iterator[list[RemovalItem]]:
        """The items in the order in which they go: clones of clones first."""
        left = [item for item in self.items if item.open]
        while left:
            files = {os.path.realpath(path): item for item in left for path in item.files}
            read = {
                id(item)
                for item in left
                for path in item.files
                for reader in map(os.path.realpath, self.readers.of(path))
                if files.get(reader, item) is not item
            }
            now = [item for item in left if id(item) not in read] or left
            left = [item for item in left if item not in now]
            yield now

    def _decided(self, item: RemovalItem, operation: Operation) -> Plan:
        """What is to be done for the clone, whose files are held: another run may have removed it meanwhile."""
        domain = self.hypervisor.find(item.name)
        if domain is None:
            left = [Left(path) for path in operation.paths if operation.left_behind(path)]
            return Plan({}, {}, _clearing(left, operation))
        found = _survey.look_at(self.hypervisor, domain)
        self._plan(item, found)
        self._require_unshared(item, locks=not found.active)
        removing = _work_remove.Removing(self.hypervisor, domain, operation, t.cast(Removal, item.plan))
        return Plan({}, {}, _work_remove.steps(removing, stop=found.active))

    def _unused(self) -> list[str]:
        """The bases in use that nothing reads when the clones have gone."""
        going = {path for item in self.items for path in item.files}
        bases = [base for base in self._bases() if base not in going and _base_note.is_in_use(base)]
        return [base for base in bases if not {*self.readers.of(base)} - going]

    def _bases(self) -> list[str]:
        """The images that the clones read, or have read: those of the source, too, where a run died before the end."""
        source = self.known.get(self.params["source"])
        own = [disk.path for disk in source.disks] if source is not None else []
        made = [base for item in self.items if item.plan for base in item.plan.bases]
        found = {os.path.realpath(base): base for base in (*(base for item in self.items for base in item.left), *made)}
        return sorted({**found, **{os.path.realpath(base): base for base in own}}.values())

    def _places(self) -> list[str]:
        """Where a dead run may have left something: by names in the directories that are meant, as far as known."""
        directory = self.params["disk_dir"]
        source = self.known.get(self.params["source"])
        found = [absolute(directory, "disk_dir") + "/."] if directory is not None else []
        if source is not None:
            found += [disk.path for disk in source.disks]
            found += [source.looks.nvram] if source.looks.nvram else []
        return found


def _names(params: dict[str, t.Any]) -> list[str]:
    names = [given["name"] for given in params["clones"]]
    for name in names:
        _wish.require_name(name)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InvalidRequest(f"clones: two of them have the same names: {', '.join(twice)}: name each once")
    if params["source"] in names:
        raise InvalidRequest(f"clones: {params['source']} is the source itself, which is never removed")
    return names


def _clearing(left: t.Sequence[Left], operation: Operation | None) -> tuple[Step, ...]:
    """The steps that end what dead runs left, of which no domain is there."""
    if not left:
        return ()
    paths = ", ".join(one.path for one in left)
    clear = Step("", lambda: _work_make.clear(t.cast(Operation, operation)))
    return (Step(f"remove what an interrupted run left of {paths}", lambda: None), clear)


def _nobody(plan: Removal) -> t.Any:
    """Hands for a plan that is only told of."""
    return _work_remove.Removing(
        t.cast(Hypervisor, None), t.cast(Domain, None), Operation(_decision_blueprint.REMOVE), plan
    )


def run(module: AnsibleModule) -> dict[str, t.Any]:
    """One run of the module."""
    return RemovalTask(module).absent()
