# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The internal snapshots of one image: the walk of the module qcow2_snapshot from its parameters to its result."""

from __future__ import annotations

import functools
import os
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import replace
from ansible_collections.kvmops.disk.plugins.module_utils._host import access as _access
from ansible_collections.kvmops.disk.plugins.module_utils._host import image_locks as _image_locks
from ansible_collections.kvmops.disk.plugins.module_utils._image import image as _image
from ansible_collections.kvmops.disk.plugins.module_utils._image.whole import require_whole
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_snapshot import decision as _decision
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_snapshot import result as _result
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_snapshot import survey as _survey
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_snapshot.wish import SnapshotWish, wish_from
from ansible_collections.kvmops.disk.plugins.module_utils._recovery import verbs as _verbs
from ansible_collections.kvmops.disk.plugins.module_utils._recovery.noting import recorded
from ansible_collections.kvmops.disk.plugins.module_utils._task.image_task import InPlaceTask
from ansible_collections.kvmops.disk.plugins.module_utils._usage.counting import running

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation
    from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan
    from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_snapshot.decision import Observed
    from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_snapshot.work import Work

_VERBS = {"present": _verbs.CREATE, "absent": _verbs.DELETE, "reverted": _verbs.REVERT}
_TO_DO = {"present": "take or delete a snapshot", "absent": "delete a snapshot", "reverted": "revert it"}


class SnapshotTask(InPlaceTask):
    """The snapshots of an image, or its disk, are to be as *wish* says. What only a change needs is loaded for one."""

    def __init__(self, module: AnsibleModule, wish: SnapshotWish) -> None:
        super().__init__(module, wish.path, wish.openers)
        self.wish = wish
        self.verb = _VERBS[wish.state]
        self._reverting = wish.state == "reverted"
        self._to_do = _TO_DO[wish.state]
        self._observed: Observed
        self._removed: list[str] = []

    def result(self, plan: Plan) -> dict[str, t.Any]:
        if plan and not self.check_mode:
            image = _image.inspect(self.qemu_img, self.path, "qcow2")
        else:
            image = _result.predicted(plan, self.wish, self._observed)
        return _result.facts(plan, image, self._removed)

    def _plan(self, operation: Operation | None) -> Plan:
        if self._reverting and _image_locks.is_locked(self.path, against_readers=True):
            self._require_unused()  # what is read while somebody writes it proves nothing
        observed = self._observed = _survey.observe(self.qemu_img, self.wish)
        self.unlock(observed.image)
        first = self.settling("qcow2", operation, finishing=_verbs.REVERT if self._reverting else None)
        if not self._reverting:
            self._removed = [entry.snapshot.name for entry in _decision.removals(self.wish, observed)]
        plan = _decision.plan_snapshots(self.wish, observed, lambda: self._work(operation))
        if first or plan:
            self.require_secret(self._to_do, observed.image)
        if plan:
            if not first:
                require_whole([observed.image])
            # What a dead run did not close is closed by the steps that settle it.
            self._require_possible(replace(observed, image=replace(observed.image, dirty=False)) if first else observed)
        elif first:
            self._require_unused()
        noted = functools.partial(_survey.facts_of_revert, self.wish, observed) if self._reverting else dict
        return recorded(first, plan, self.path, operation, facts=noted)

    def _require_possible(self, observed: Observed) -> None:
        """Raises where the image cannot be written, or where writing it would hurt somebody."""
        _decision.require_changeable(observed.image)
        self._require_unused()
        _access.require_writable(self.path, self._to_do)
        if self._reverting:
            self.surroundings.require_no_saved_state(self.path, self._to_do)
        elif self._removed:
            recorded_there = _survey.recorded_by_libvirt(self.path, self.surroundings)
            _decision.require_not_libvirts(self.path, self._removed, recorded_there)
        self.require_no_dependents(self._to_do)
        writes_tables = self._reverting or _decision.addition(self.wish, observed) is not None
        if writes_tables and os.path.isfile(self.path):
            from ansible_collections.kvmops.disk.plugins.module_utils._capacity import space as _space

            _space.require_space([(os.path.realpath(self.path), _decision.bytes_needed(observed))])

    def _require_unused(self) -> None:
        self.surroundings.require_unused(self.path, self._to_do, running)

    def _work(self, operation: Operation | None) -> Work:
        from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_snapshot.work import Work

        return Work(self.wish, self.holding(operation), operation)


def run(module: AnsibleModule) -> dict[str, t.Any]:
    """One run of the module."""
    return SnapshotTask(module, wish_from(module.params)).walk()
