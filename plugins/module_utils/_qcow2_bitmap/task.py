# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A dirty bitmap of one image: the walk of the module qcow2_bitmap from its parameters to its result."""

from __future__ import annotations

import os
import typing as t
from dataclasses import replace

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._capacity import space as _space
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError
from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation
from ansible_collections.kvmops.disk.plugins.module_utils._formats import bitmaps as _bitmaps
from ansible_collections.kvmops.disk.plugins.module_utils._formats import headers as _headers
from ansible_collections.kvmops.disk.plugins.module_utils._formats import qcow2 as _qcow2
from ansible_collections.kvmops.disk.plugins.module_utils._formats.bitmaps import Bits
from ansible_collections.kvmops.disk.plugins.module_utils._image import encryption as _encryption
from ansible_collections.kvmops.disk.plugins.module_utils._image import image as _image
from ansible_collections.kvmops.disk.plugins.module_utils._image import key_slots as _key_slots
from ansible_collections.kvmops.disk.plugins.module_utils._image.trust import require_writable_alone
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan, Step
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_bitmap import decision as _decision
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_bitmap.decision import Observed
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_bitmap.wish import BitmapWish, wish_from
from ansible_collections.kvmops.disk.plugins.module_utils._recovery import leftovers as _leftovers
from ansible_collections.kvmops.disk.plugins.module_utils._recovery.settle import recorded
from ansible_collections.kvmops.disk.plugins.module_utils._task.carry_out import carry_out
from ansible_collections.kvmops.disk.plugins.module_utils._task.image_task import InPlaceTask
from ansible_collections.kvmops.disk.plugins.module_utils._usage import users as _users

_WORK = "work on its bitmaps"


class BitmapTask(InPlaceTask):
    """The task at hand: looks at the world, decides by the pure functions, and says what became of it."""

    def __init__(self, module: AnsibleModule, wish: BitmapWish) -> None:
        super().__init__(module)
        self.qemu_img = self.qemu_img.limiting()  # whoever wrote the image
        self.openers = _key_slots.openers_from(module.params, "encryption")
        self._source_openers = _key_slots.openers_from(module.params, "merge_from_encryption")
        self._source: _image.Image | None = None
        self.wish = wish
        self._observed: Observed

    def decide(self, operation: Operation | None) -> Plan:
        """The plan for the bitmap."""
        for path in self._files():
            if _users.is_locked(path, against_readers=True):
                self._require_unused()  # the bitmaps of an image that is open are in the memory of whoever has it open
        observed = self._observed = self._observe()
        self._unlock(observed.image)
        first = self.settling("qcow2", operation)
        plan = _decision.plan_bitmap(self.wish, observed, lambda *actions: self._do(operation, *actions))
        if first or plan:
            self.require_secret(_WORK, observed.image)
            self._require_secret_of_source()
        if plan:
            # What a dead run did not close is closed by the steps that settle it.
            self._require_possible(replace(observed, image=replace(observed.image, dirty=False)) if first else observed)
            steps = (replace(step, do=self.kept(operation, step.do)) for step in plan.steps)
            plan = replace(plan, steps=(*steps, Step("", self._verify)))
        elif first:
            self._require_unused()
        return recorded(first, plan, self.path, operation)

    def result(self, plan: Plan) -> dict[str, t.Any]:
        """What the module returns; in check mode what it would."""
        observed = self._observed if self.module.check_mode else self._observe()
        facts = [observed.facts(one) for one in observed.bitmaps]
        if self.module.check_mode and plan:
            after = plan.after["bitmap"]
            there = observed.find(self.wish.name)
            if there is None or after is None:
                facts = [one for one in facts if one["name"] != self.wish.name] + ([after] if after else [])
            else:
                facts = [after if one["name"] == there.text else one for one in facts]
        return {
            **plan.full_report(),
            "bitmaps": facts,
            "image": observed.image.facts(),
        }

    def _unlock(self, image: _image.Image) -> None:
        """Has the image, and the one that bitmaps are merged from, opened with the secrets of the task."""
        self.unlock(image)
        if self.wish.file is not None:
            self._source = _image.inspect(self.qemu_img, self.wish.file, "qcow2", by_header=True)
            if self._source_openers is not None:
                self.qemu_img = _key_slots.unlocked(self.qemu_img, [self._source], self._source_openers)

    def _require_secret_of_source(self) -> None:
        if self._source is not None:
            _encryption.require_secret([self._source], self._source_openers, _WORK, "merge_from_encryption")

    def _files(self) -> list[str]:
        return [self.path, *([self.wish.file] if self.wish.file else [])]

    def _observe(self) -> Observed:
        image = _image.inspect(self.qemu_img, self.path, "qcow2", by_header=True)
        with _headers.open_image(self.path) as stream:
            header = _qcow2.read_header(stream, self.path)
            bitmaps = _bitmaps.read_bitmaps(stream, header, self.path)
            dirty = {
                one.name: None if one.in_use else Bits(stream, header, one, self.path).count() * one.granularity
                for one in bitmaps
            }
            observed = Observed(image, bitmaps, dirty)
            target = observed.find(self.wish.name)
            if target is None or target.in_use or self.wish.state != "merged":
                return observed
            bits = Bits(stream, header, target, self.path)
            return replace(observed, missing=tuple(name for name in self.wish.sources if not self._has(bits, name)))

    def _has(self, bits: Bits, name: str) -> bool:
        """Whether all that the bitmap *name* has is in *bits*. Raises DiskError where it cannot be merged into it."""
        path = self.wish.file or self.path
        _image.first_look(path, "qcow2")
        with _headers.open_image(path) as stream:
            header = _qcow2.read_header(stream, path)
            known = _bitmaps.read_bitmaps(stream, header, path)
            source = next((one for one in known if one.name == name.encode()), None)
            _decision.require_valid_source(path, name, source, known)
            if header.virtual_size != bits.disk:
                raise DiskError(
                    f"{path}: has {header.virtual_size} bytes, {self.path} has {bits.disk}: bitmaps are only merged "
                    "between disks of the same size: resize one of them",
                    virtual_size=header.virtual_size,
                )
            return bits.covers(Bits(stream, header, t.cast("_bitmaps.Bitmap", source), path))

    def _do(self, operation: Operation | None, *actions: str) -> None:
        wish = self.wish
        self.door(operation).bitmap(
            self.path, wish.name.encode(), *actions, granularity=wish.granularity, source=wish.file
        )

    def _require_possible(self, observed: Observed) -> None:
        """Raises where the image cannot be written, or where somebody has it open."""
        require_writable_alone(observed.image)
        _decision.require_bitmaps(observed.image)
        self._require_unused()
        if self.wish.state in ("present", "merged") and os.path.isfile(self.path):
            _space.require_space([(os.path.realpath(self.path), _decision.bytes_needed(self.wish, observed))])

    def _require_unused(self) -> None:
        running = [user for user in self.users() if user.running]
        for path in self._files():
            _users.require_unused(path, running, _WORK)

    def _verify(self) -> None:
        """Raises DiskError where the bitmap is not what qemu-img said that it made."""
        if _decision.plan_bitmap(self.wish, self._observe(), lambda *_actions: None):
            raise DiskError(
                f"{self.path}: qemu-img reported success, but its bitmap {self.wish.name!r} is not as it should be: "
                "check the image",
                path=self.path,
            )


def run(module: AnsibleModule) -> dict[str, t.Any]:
    """One run of the module."""
    task = BitmapTask(module, wish_from(module.params))
    plan = carry_out(task.decide, _leftovers.BITMAP, lambda: [task.path], module)
    return task.result(plan)
