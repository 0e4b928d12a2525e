# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The size of a domain's disk as a task wants it: the walk of vm_disk_resize from its parameters to its result.

A run that finds the size as wanted does not load what only a change needs.
"""

from __future__ import annotations

import os
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import replace
from ansible_collections.kvmops.disk.plugins.module_utils._files import beside as _beside
from ansible_collections.kvmops.disk.plugins.module_utils._image import image as _image
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan, Step
from ansible_collections.kvmops.disk.plugins.module_utils._recovery import noting as _noting
from ansible_collections.kvmops.disk.plugins.module_utils._recovery import settle as _settle
from ansible_collections.kvmops.disk.plugins.module_utils._recovery import traces as _traces
from ansible_collections.kvmops.disk.plugins.module_utils._task.domain_task import DomainTask
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_resize import decision as _decision
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_resize import result as _result
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_resize.decision import Resizing
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_resize.survey import Survey
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_resize.wish import ResizeWish, wish_from

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_resize.survey_change import ChangeSurvey


class ResizeTask(DomainTask):
    """The disk of a domain in the size that *wish* wants."""

    verb = "resize"

    def __init__(self, module: AnsibleModule, wish: ResizeWish) -> None:
        super().__init__(module)
        self.wish = wish
        self.survey: Survey
        self.item: Resizing | None = None

    def paths(self) -> list[str]:
        """The image whose record is to be held."""
        return [self.item.path] if self.item else []

    def counted(self) -> list[str]:
        """Where the image grows."""
        return [os.path.dirname(os.path.realpath(path)) for path in self.paths()]

    def result(self, plan: Plan) -> dict[str, t.Any]:
        """What the module returns, read from the world again after a change."""
        item = t.cast(Resizing, self.item)
        if plan and not self.check_mode:
            self.surroundings.refresh_pools([item.path])
            item = replace(item, image=self.survey.image(item.disk))
        images = _image.chain(self.qemu_img, item.image)
        if self.check_mode:
            images = (replace(images[0], virtual_size=item.after), *images[1:])
        return {
            **plan.report(),
            "diff": {"before": plan.before, "after": plan.after},
            "disks": [_result.facts(self.state.name, item, images)],
        }

    def _plan(self, operation: Operation | None) -> Plan:
        self.survey = Survey(self.domain, self.qemu_img, self.state, self.wish)
        disk = self.state.disk(self.wish.disk)
        if disk is None:
            raise self.state.no_such_disk(self.wish.disk)
        self.item = item = self.survey.observed(disk)
        if item.live:
            return self._resizing(item, operation) if item.growth else Plan({}, {})
        first = _settle.interrupted(item.path, item.image.format, operation, self.holding(operation))
        plan = self._resizing(item, operation) if item.growth else Plan({}, {})
        if first and not plan:
            self._around().require_unused(item)
        return _noting.recorded(first, plan, item.path, operation)

    def _given_up(self, operation: Operation | None) -> tuple[Step, ...]:
        """Nothing: what a dead run left of an image waits for a wish that is granted."""
        return ()

    def _resizing(self, item: Resizing, operation: Operation | None) -> Plan:
        """The plan for a disk that has not the size that it is to have. Raises DiskError where it must not get it."""
        from ansible_collections.kvmops.disk.plugins.module_utils._image.doubts import warn_of_partial_sector
        from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_resize import (
            decision_obstacles as _obstacles,
        )
        from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_resize.work import Work

        note_of, record, around = _beside.notes(operation), self.state.record, self._around()
        if record is not None and item.target in [disk.target for disk in record.disks]:
            _traces.require_own(self.state.name, self.state.uuid, record, self.verb, note_of)
        _obstacles.require_resizable(self.state, item, self.wish, around.jobs(item))
        if item.live:
            _obstacles.require_settled(self.state, item, note_of(item.path))
        around.require_openable(item)
        around.require_known_chain(item)
        around.require_unused(item)
        policy = None if item.live else around.policy(item)
        around.require_room(item, policy)
        if operation is None:
            warn_of_partial_sector(item.path, item.image.format, self.warn)
        if item.live and operation is None and around.policy(item):
            self._warn_of_room(item)
        work = Work(**self.tools(operation), item=item, policy=policy)
        return _decision.plan_resize(self.state, item, policy, work)

    def _warn_of_room(self, item: Resizing) -> None:
        self.warn(
            f"{item.path}: its space is reserved, but what is added while its guest runs is not: if the file system "
            "is full later, the guest gets an I/O error or is paused"
        )

    def _around(self) -> ChangeSurvey:
        from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_resize.survey_change import ChangeSurvey

        return ChangeSurvey(self.domain, self.surroundings, self.qemu_img, self.state, self.wish)


def run(module: AnsibleModule) -> dict[str, t.Any]:
    """One run of the module."""
    return ResizeTask(module, wish_from(module.params)).walk()
