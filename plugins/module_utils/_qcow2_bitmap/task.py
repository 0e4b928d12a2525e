# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A dirty bitmap of one image: the walk of the module qcow2_bitmap from its parameters to its result."""

from __future__ import annotations

import os
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import replace
from ansible_collections.kvmops.disk.plugins.module_utils._host import access as _access
from ansible_collections.kvmops.disk.plugins.module_utils._host import image_locks as _image_locks
from ansible_collections.kvmops.disk.plugins.module_utils._image import encryption as _encryption
from ansible_collections.kvmops.disk.plugins.module_utils._image import image as _image
from ansible_collections.kvmops.disk.plugins.module_utils._image import key_slots as _key_slots
from ansible_collections.kvmops.disk.plugins.module_utils._image.trust import require_writable_alone
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_bitmap import decision as _decision
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_bitmap import result as _result
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_bitmap.survey import observe
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_bitmap.wish import BitmapWish, wish_from
from ansible_collections.kvmops.disk.plugins.module_utils._recovery import verbs as _verbs
from ansible_collections.kvmops.disk.plugins.module_utils._recovery.noting import recorded
from ansible_collections.kvmops.disk.plugins.module_utils._task.image_task import InPlaceTask
from ansible_collections.kvmops.disk.plugins.module_utils._usage.counting import running

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation
    from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan
    from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_bitmap.decision import Observed
    from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_bitmap.work import Work

_TO_DO = "work on its bitmaps"


class BitmapTask(InPlaceTask):
    """The bitmap is to be as *wish* says. What only a change needs is loaded for one."""

    verb = _verbs.BITMAP

    def __init__(self, module: AnsibleModule, wish: BitmapWish) -> None:
        super().__init__(module, wish.path, wish.openers)
        self.wish = wish
        self._observed: Observed

    def result(self, plan: Plan) -> dict[str, t.Any]:
        if self.check_mode:
            return _result.predicted(plan, self.wish, self._observed)
        return _result.facts(plan, observe(self.qemu_img, self.wish) if plan else self._observed)

    def _plan(self, operation: Operation | None) -> Plan:
        if any(_image_locks.is_locked(path, against_readers=True) for path in self.wish.files):
            self._require_unused()  # the bitmaps of an image that is open are in the memory of whoever has it open
        observed = self._observed = observe(self.qemu_img, self.wish)
        self.unlock(observed.image)
        source = self._unlocked_source()
        first = self.settling("qcow2", operation)
        plan = _decision.plan_bitmap(self.wish, observed, lambda: self._work(operation))
        if first or plan:
            self.require_secret(_TO_DO, observed.image)
            _encryption.require_secret(source, self.wish.source_openers, _TO_DO, "merge_from_encryption")
        if plan:
            # What a dead run did not close is closed by the steps that settle it.
            self._require_possible(replace(observed, image=replace(observed.image, dirty=False)) if first else observed)
        elif first:
            self._require_unused()
        return recorded(first, plan, self.path, operation)

    def _unlocked_source(self) -> tuple[_image.Image, ...]:
        """The image that bitmaps are merged from, if it is another one, which its secret opens from now on."""
        if self.wish.file is None:
            return ()
        source = _image.inspect(self.qemu_img, self.wish.file, "qcow2")
        if self.wish.source_openers is not None:
            self.qemu_img = _key_slots.unlocked(self.qemu_img, [source], self.wish.source_openers)
        return (source,)

    def _require_possible(self, observed: Observed) -> None:
        """Raises where the image cannot be written, or where somebody has it open."""
        require_writable_alone(observed.image)
        _decision.require_bitmaps(observed.image)
        self._require_unused()
        _access.require_writable(self.path, _TO_DO)
        if self.wish.state in ("present", "merged") and os.path.isfile(self.path):
            from ansible_collections.kvmops.disk.plugins.module_utils._capacity import space as _space

            _space.require_space([(os.path.realpath(self.path), _decision.bytes_needed(self.wish, observed))])

    def _require_unused(self) -> None:
        for path in self.wish.files:
            self.surroundings.require_unused(path, _TO_DO, running)

    def _work(self, operation: Operation | None) -> Work:
        from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_bitmap.work import Work

        return Work(self.wish, self.holding(operation), operation)


def run(module: AnsibleModule) -> dict[str, t.Any]:
    """One run of the module."""
    return BitmapTask(module, wish_from(module.params)).walk()
