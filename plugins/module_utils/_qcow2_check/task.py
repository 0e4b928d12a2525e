# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One image, checked and repaired: the walk of the module qcow2_check from its parameters to its result."""

from __future__ import annotations

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._host import access as _access
from ansible_collections.kvmops.disk.plugins.module_utils._host import image_locks as _image_locks
from ansible_collections.kvmops.disk.plugins.module_utils._image import image as _image
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_check import decision as _decision
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_check import survey as _survey
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_check.decision_repair import plan_repair
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_check.wish import CheckWish, wish_from
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_check.work import Work
from ansible_collections.kvmops.disk.plugins.module_utils._recovery import leftovers as _leftovers
from ansible_collections.kvmops.disk.plugins.module_utils._recovery import verbs as _verbs
from ansible_collections.kvmops.disk.plugins.module_utils._recovery.noting import recorded
from ansible_collections.kvmops.disk.plugins.module_utils._recovery.repair import CHECKED_FORMATS, Finding
from ansible_collections.kvmops.disk.plugins.module_utils._task.image_task import InPlaceTask
from ansible_collections.kvmops.disk.plugins.module_utils._usage.counting import running

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation


class CheckTask(InPlaceTask):
    """The image is to be in order, as far as *wish* allows to repair it."""

    verb = _verbs.REPAIR

    def __init__(self, module: AnsibleModule, wish: CheckWish) -> None:
        super().__init__(module, wish.path, wish.openers)
        self.wish = wish
        self._work: Work

    @property
    def only_reads(self) -> bool:
        return self.wish.repair == "none"

    def result(self, plan: Plan) -> dict[str, t.Any]:
        """What the module returns; in check mode, what was found."""
        if self._work.content_unchanged is False:
            self.warn(
                f"{self.path}: was repaired, but its tables do not prove that its content is unchanged: compare it "
                "with a backup"
            )
        return {
            **plan.full_report(),
            "check": self._work.found.facts(),
            "content_unchanged": self._work.content_unchanged,
        }

    def _plan(self, operation: Operation | None) -> Plan:
        header = _survey.header(self.wish)
        if header is not None and header.encrypted:
            self._open()
        if self.wish.format in CHECKED_FORMATS:
            self._require_unused()
        found = _survey.check(self.qemu_img, self.wish, header)
        work = self._work = self._working(found, operation)
        plan = plan_repair(self.path, self.wish.repair, found, work)
        return plan if self.wish.repair == "none" else self._settled(plan, work, operation)

    def _open(self) -> None:
        """Has the image opened with the secret of the task. Raises DiskError where there is none, or a wrong one."""
        image = _image.inspect(self.qemu_img, self.path, self.wish.format)
        self.require_secret("check it", image)
        self.unlock(image)

    def _require_unused(self) -> None:
        """A check needs an image that nobody writes; a repair one that nobody uses at all."""
        if self.wish.repair != "none" or _image_locks.is_locked(self.path, against_readers=True):
            self.surroundings.require_unused(self.path, self.wish.to_do, running)

    def _settled(self, plan: Plan, work: Work, operation: Operation | None) -> Plan:
        """*plan* after what is to be done first where a run died on the image."""
        if plan:
            self.require_no_dependents("repair it")
            _access.require_writable(self.path, "repair it")
        left = _leftovers.left_on(self.path, self.wish.format, operation)
        first = _decision.settling(left, plan, work.discard)
        if not left.is_whole:
            return Plan(plan.before, plan.after, (*first, *plan.steps))
        return recorded(first, plan, self.path, operation)

    def _working(self, found: Finding, operation: Operation | None) -> Work:
        return Work(self.wish, self.holding(operation), operation, found)


def run(module: AnsibleModule) -> dict[str, t.Any]:
    """One run of the module."""
    return CheckTask(module, wish_from(module.params)).walk()
