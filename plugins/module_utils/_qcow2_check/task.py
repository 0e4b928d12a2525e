# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One image, checked and repaired: the walk of the module qcow2_check from its parameters to its result."""

from __future__ import annotations

import os
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._files import staging as _staging
from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation
from ansible_collections.kvmops.disk.plugins.module_utils._formats import qcow2 as _qcow2
from ansible_collections.kvmops.disk.plugins.module_utils._image import image as _image
from ansible_collections.kvmops.disk.plugins.module_utils._image import key_slots as _key_slots
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan, Step
from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import CheckResult
from ansible_collections.kvmops.disk.plugins.module_utils._recovery import leftovers as _leftovers
from ansible_collections.kvmops.disk.plugins.module_utils._recovery.repair import (
    CHECKED_FORMATS,
    Finding,
    plan_repair,
    repair_and_compare,
    require_repaired,
)
from ansible_collections.kvmops.disk.plugins.module_utils._recovery.settle import recorded
from ansible_collections.kvmops.disk.plugins.module_utils._task.carry_out import carry_out
from ansible_collections.kvmops.disk.plugins.module_utils._task.image_task import InPlaceTask
from ansible_collections.kvmops.disk.plugins.module_utils._usage import users as _users


class CheckTask(InPlaceTask):
    """The task at hand: looks at the world, decides by the pure functions, and says what became of it."""

    def __init__(self, module: AnsibleModule) -> None:
        super().__init__(module)
        self.qemu_img = self.qemu_img.limiting()  # whoever wrote the image
        self.openers = _key_slots.openers_from(module.params, "encryption")
        self.format: str = module.params["format"]
        self.repair: str = module.params["repair"]
        self.found = Finding(CheckResult("unsupported"))
        self.content_unchanged: bool | None = None

    def decide(self, operation: Operation | None) -> Plan:
        """The plan that repairs the image, as far as that is wanted."""
        header = self._look()
        if self.format not in CHECKED_FORMATS:
            return Plan({"result": "unsupported"}, {"result": "unsupported"})
        self._require_unused()
        self.found = self._check(header)
        plan = plan_repair(self.path, self.repair, self.found, self.kept(operation, lambda: self._repair(operation)))
        if self.repair == "none":
            return plan
        if plan:
            self.require_no_dependents("repair it", self.users())
        left = _leftovers.left_on(self.path, self.format, operation)
        if left.record is None and not left.unfinished_file:
            return recorded((), plan, self.path, operation)
        return self._after_a_dead_run(left, plan, operation)

    def result(self, plan: Plan) -> dict[str, t.Any]:
        """What the module returns; in check mode, what was found."""
        if self.content_unchanged is False:
            self.module.warn(
                f"{self.path}: was repaired, but its tables do not prove that its content is unchanged: compare it "
                "with a backup"
            )
        return {
            **plan.full_report(),
            "check": self.found.facts(),
            "content_unchanged": self.content_unchanged,
        }

    def _look(self) -> _qcow2.Header | None:
        """The header of a qcow2 image. Raises DiskError for what is not of the format, or cannot be opened as it is."""
        _image.require_format(self.path, self.format)
        header = _image.first_look(self.path, self.format)[2]
        if header is not None and header.encrypted:
            image = _image.inspect(self.qemu_img, self.path, self.format)
            self.require_secret("check it", image)
            self.unlock(image)
        return header

    def _require_unused(self) -> None:
        """A check needs an image that nobody writes; a repair one that nobody uses at all."""
        to_do = "check it" if self.repair == "none" else "check and repair it"
        if self.repair != "none" or _users.is_locked(self.path, against_readers=True):
            _users.require_unused(self.path, [user for user in self.users() if user.running], to_do)

    def _check(self, header: _qcow2.Header | None) -> Finding:
        external_data = header is not None and header.external_data
        found = self.qemu_img.check(self.path, self.format, external_data=external_data)
        if header is None:
            return Finding(found, self.format)
        return Finding(found, self.format, header.corrupt, header.dirty, header.external_data)

    def _repair(self, operation: Operation | None) -> None:
        check, self.content_unchanged = repair_and_compare(
            self.path,
            self.format,
            self.repair,
            self.door(operation),
            external_data=self.found.external_data,
        )
        self.found = Finding(check, self.format)
        require_repaired(self.path, check)

    def _after_a_dead_run(self, left: _leftovers.Leftovers, plan: Plan, operation: Operation | None) -> Plan:
        """*plan* settles what a dead run left, since it verifies the image, but for a disk between two contents.

        That one's record stays as it is, and leads whoever writes the image next.
        """
        first = []
        if left.unfinished_file:
            first.append(
                Step(
                    f"remove the unfinished file that an interrupted run left for {self.path}",
                    lambda: _staging.discard(os.path.realpath(self.path)),
                )
            )
        if not left.is_whole:
            return Plan(plan.before, plan.after, (*first, *plan.steps))
        if left.record is not None and not plan:
            first.append(Step(f"forget the run that was interrupted on {self.path} at {left.started}", lambda: None))
        return recorded(tuple(first), plan, self.path, operation)


def run(module: AnsibleModule) -> dict[str, t.Any]:
    """One run of the module."""
    task = CheckTask(module)
    plan = carry_out(task.decide, _leftovers.REPAIR, lambda: [task.path], module)
    return task.result(plan)
