# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The disks of a domain as a task wants them: the walk of vm_disk_convert from its parameters to its result.

A run that finds everything as wanted, and no trace of a dead one, loads neither the survey nor the work, nor what dead
runs left.
"""

from __future__ import annotations

import os
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._files import beside as _beside
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan
from ansible_collections.kvmops.disk.plugins.module_utils._recovery.traces import is_untouched
from ansible_collections.kvmops.disk.plugins.module_utils._task.domain_task import DomainTask
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert import decision as _decision
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert import result as _result
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert.wish import ConvertWish, wish_from
from ansible_collections.kvmops.disk.plugins.module_utils._xml import records as _records

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainDisk
    from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation
    from ansible_collections.kvmops.disk.plugins.module_utils._plan import Step
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert.decision import Conversion
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert.leftovers import Unfinished
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert.task_conversion import Converting


class ConvertTask(DomainTask):
    """The disks of a domain as *wish* wants them."""

    verb = "convert"

    def __init__(self, module: AnsibleModule, wish: ConvertWish) -> None:
        super().__init__(module)
        self.wish = wish
        self.meant: list[DomainDisk] = []
        self.unfinished: Unfinished | None = None
        self.converting: Converting | None = None

    def paths(self) -> set[str]:
        """The images whose records are to be held."""
        left = self.unfinished.paths if self.unfinished else set()
        return left | (self.converting.paths() if self.converting else set())

    def counted(self) -> set[str]:
        """Where the new images lie."""
        items = self.converting.conversions if self.converting else []
        return {os.path.dirname(os.path.realpath(item.dest)) for item in items}

    def result(self, plan: Plan) -> dict[str, t.Any]:
        """What the module returns, read from the world again after a change."""
        targets = [disk.target for disk in self.meant]
        now = {disk.target: disk for disk in self.state_after(plan).disks}
        return {
            **plan.report(),
            "diff": [{"before": plan.before, "after": plan.after}, *plan.diff],
            "disks": [self._facts(now[target]) for target in targets if target in now],
        }

    def _plan(self, operation: Operation | None) -> Plan:
        self.converting = None
        self.unfinished = self._find_unfinished([], operation)
        self.meant, wanted = _decision.select(self.state, self.wish)
        pivoted = self.unfinished.pivoted if self.unfinished else ()
        wanted = _decision.without_pivoted(wanted, pivoted, self.wish)
        return self._conversion(wanted, operation) if wanted else self._settling(operation)

    def _conversion(self, wanted: list[Conversion], operation: Operation | None) -> Plan:
        """The plan that converts disks. Raises DiskError where they must not be converted, or cannot be."""
        from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert.task_conversion import Converting

        self.converting = Converting(self, self.wish, self._find_unfinished, self.unfinished)
        return self.converting.plan(wanted, operation)

    def _settling(self, operation: Operation | None) -> Plan:
        """The plan where each disk is as wanted: only a dead run may have left things."""
        self.unfinished = left = self._find_unfinished([disk.path for disk in self.meant if disk.path], operation)
        if left is None:
            return Plan({}, {})
        from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert import (
            task_conversion as _task_conversion,
        )

        _task_conversion.warn_of_shutdown(self, left, operation)
        restart = self.wish.restart
        steps = _task_conversion.settlement(self, self.wish, left, operation, restart=restart) if left else ()
        return Plan({}, {}, steps)

    def _given_up(self, operation: Operation | None) -> tuple[Step, ...]:
        left = self.converting.left if self.converting else self.unfinished
        if not left:
            return ()
        from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert.task_conversion import settlement

        self.unfinished, self.converting = left, None
        return settlement(self, self.wish, left, operation, restart=True)

    def _find_unfinished(self, images: t.Collection[str], operation: Operation | None) -> Unfinished | None:
        """What a dead run left of the domain and beside *images*; None where there is no trace of one."""
        note_of, asked = _beside.notes(operation), _records.shutdown_in(self.state.definition)
        if asked is None and is_untouched(self.state.record, images, self.verb, note_of):
            return None
        from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert import leftovers as _leftovers

        run = self.domain.run_number() if asked else None
        return _leftovers.find(self.state, images, note_of, asked, run)

    def _facts(self, disk: DomainDisk) -> dict[str, t.Any]:
        """One disk as the module returns it; in check mode as it would be."""
        if self.converting is not None:
            return self.converting.facts(disk)
        return _result.facts(self.state.name, disk, self.images_now(disk), _result.UNCHANGED)


def run(module: AnsibleModule) -> dict[str, t.Any]:
    """One run of the module."""
    return ConvertTask(module, wish_from(module.params)).walk()
