# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The walk of vm_disk_restore."""

from __future__ import annotations

import functools
import os
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._backup import facts as _facts
from ansible_collections.kvmops.disk.plugins.module_utils._files import beside as _beside
from ansible_collections.kvmops.disk.plugins.module_utils._image import image as _image
from ansible_collections.kvmops.disk.plugins.module_utils._progress import Progress
from ansible_collections.kvmops.disk.plugins.module_utils._qemu import door as _door
from ansible_collections.kvmops.disk.plugins.module_utils._task.task import Task
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_restore import decision as _decision
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_restore.survey import Survey
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_restore.wish import RestoreWish, wish_from

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._backup.chains import Backup
    from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation
    from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan
    from ansible_collections.kvmops.disk.plugins.module_utils._task.libvirts import Libvirts
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_restore.decision import Restoring


class RestoreTask(Task):
    """The images that *wish* names. *items* and their *backup* are looked at again for each decision."""

    verb = "restore"

    def __init__(self, module: AnsibleModule, wish: RestoreWish) -> None:
        super().__init__(module, _door.find(), functools.lru_cache(None)(self._find_libvirts))
        self.wish = wish
        self.survey = Survey(self.qemu_img, wish)
        self.progress = Progress.wanted()
        self.items: tuple[Restoring, ...] = ()
        self.backup: Backup

    def _find_libvirts(self) -> Libvirts:
        from ansible_collections.kvmops.disk.plugins.module_utils._task.libvirts import ask

        return ask(self.module.params["uri"])

    def paths(self) -> list[str]:
        """The images, whose records are held."""
        return [item.dest for item in self.items]

    def _plan(self, operation: Operation | None) -> Plan:
        self.backup, backups = _decision.chosen(self.wish, self.survey.backups())
        self.items = _decision.restorings(self.wish, self.backup, backups)
        missing = self.survey.missing(self.items)
        self.survey.require_room(missing)
        there = [item.dest for item in self.items if item not in missing]
        first = _decision.clearing(path for path in there if _is_left(path, operation))
        from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_restore.work import Work

        work = Work(self.wish, self.holding(operation), self.progress)
        return _decision.plan(self.backup, self.items, missing, first, work)

    def result(self, plan: Plan) -> dict[str, t.Any]:
        """What the module returns, read from the world again after a change."""
        if plan and not self.check_mode:
            self.surroundings.refresh_pools(self.paths())
        report = plan.full_report()
        disks = [self._facts(item) for item in self.items]
        return {**report, "diff": [report["diff"]], "backup": _facts.facts(self.backup), "disks": disks}

    def _facts(self, item: Restoring) -> dict[str, t.Any]:
        is_there = os.path.isfile(item.dest)
        found = _image.inspect(self.qemu_img, item.dest, self.wish.format) if is_there else None
        return {
            "target": item.disk.target,
            "path": item.dest,
            "format": self.wish.format,
            "virtual_size": item.disk.virtual_size,
            "actual_size": found.actual_size if found is not None else None,
        }


def _is_left(path: str, operation: Operation | None) -> bool:
    """Whether a run that died has left anything beside the image: new files, or, seen while no record is held, its
    record alone, which goes as soon as it is."""
    if operation is not None:
        return _beside.left_over(path)
    return _beside.has_traces(path) and not (_beside.look(path) or {}).get("alive")


def run(module: AnsibleModule) -> dict[str, t.Any]:
    """One run of the module."""
    return RestoreTask(module, wish_from(module.params)).walk()
