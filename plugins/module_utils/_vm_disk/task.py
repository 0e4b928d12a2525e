# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The disks of domains as a task wants them: the walk of vm_disk from its parameters to its result."""

from __future__ import annotations

import os
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass, field
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.connection import Hypervisor
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan
from ansible_collections.kvmops.disk.plugins.module_utils._qemu import door as _door
from ansible_collections.kvmops.disk.plugins.module_utils._task.carry_out import decide_after_others
from ansible_collections.kvmops.disk.plugins.module_utils._task.items import Item, report
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk.task_disk import Around, Disk
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk.wish import DiskWish, wishes_from

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation

#: The verbs of the records beside images, as those of qcow2_image: they are made, and grow, or may go.
_HAVE, _LOSE = "reconcile", "remove"


@dataclass
class DiskItem(Item):
    """A disk of the list."""

    disk: Disk | None = None
    plan: Plan = field(default_factory=lambda: Plan({}, {}))

    @property
    def own(self) -> Disk:
        return t.cast(Disk, self.disk)

    @property
    def verb(self) -> str:
        return _HAVE if self.own.wish.present else _LOSE


class DisksTask:
    """The task at hand: decides on each disk, does what is to be done, and says what became of them."""

    def __init__(self, module: AnsibleModule, wishes: t.Sequence[DiskWish]) -> None:
        self.module = module
        qemu_img = _door.find(limited=not module.params["trusted"])
        self.around = Around(module, Hypervisor.connect(module.params["uri"]), qemu_img)
        self.items = [DiskItem(str(wish), {}, disk=self._disk(wish)) for wish in wishes]

    def run(self) -> dict[str, t.Any]:
        for item in self.items:
            self._look(item)
        plans = [item.plan for item in self.items if item.plan]
        if not self.module.check_mode and any(item.open for item in self.items):
            self._carry_out()
            self.around.refresh_pools([path for item in self.items for path in item.paths])
        for item in self.items:
            self._tell(item)
        return report(self.items, "disks", {"diff": _diff(plans)})

    def _disk(self, wish: DiskWish) -> Disk:
        if wish.present:
            from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk.task_present import PresentDisk

            return PresentDisk(self.around, wish)
        from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk.task_absent import AbsentDisk

        return AbsentDisk(self.around, wish)

    def _look(self, item: DiskItem) -> None:
        """What is to be done for one disk; why it cannot be is noted in it."""
        own = item.own
        try:
            item.plan = decide_after_others(lambda: own.decide(None), item.verb, lambda: own.paths, self.module)
            item.paths = own.paths if item.plan else ()
            item.actions = tuple(item.plan.report()["actions"])
        except DiskError as error:
            item.error = error

    def _carry_out(self) -> None:
        """Does what is open; one disk of each domain at a time, as the next one takes the target that is free then."""
        from ansible_collections.kvmops.disk.plugins.module_utils._files import turns as _turns
        from ansible_collections.kvmops.disk.plugins.module_utils._task.batch import Several

        rounds: list[list[DiskItem]] = []
        for item in self.items:
            if item.open:
                name = item.own.wish.name
                later = (one for one in rounds if all(other.own.wish.name != name for other in one))
                place = next(later, None)
                if place is None:
                    rounds.append(place := [])
                place.append(item)
        domains = {item.own.uuid: item.own.wish.name for item in self.items if item.open}
        counted = sorted({os.path.dirname(os.path.realpath(path)) for item in self.items for path in item.paths})
        with _turns.alone_with(domains, "plug"):
            for items in rounds:
                self.around.look_again()
                for verb in (_LOSE, _HAVE):
                    same = [item for item in items if item.verb == verb]
                    Several(self.module, verb, counted=counted).carry_out(same, self._decided)

    def _decided(self, item: DiskItem, operation: Operation) -> Plan:
        """What is to be done for the disk, whose record is held: the world may have moved."""
        item.plan = item.own.decide(operation)
        if item.plan and not {*item.own.paths} <= {*operation.paths}:
            raise DiskError(f"{item.name}: is another image by now: nothing was changed: run again")
        return item.plan

    def _tell(self, item: DiskItem) -> None:
        if item.error is None:
            try:
                item.facts = item.own.facts(item.plan)
            except DiskError as error:
                item.error = error


def _diff(plans: t.Sequence[Plan]) -> list[dict[str, t.Any]]:
    """What changes of each disk, and of the definition of its domain."""
    found: list[dict[str, t.Any]] = []
    for plan in plans:
        found += [{"before": plan.before, "after": plan.after}, *plan.diff]
    return found


def run(module: AnsibleModule) -> dict[str, t.Any]:
    """One run of the module."""
    return DisksTask(module, wishes_from(module.params)).run()
