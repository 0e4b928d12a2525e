# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A dirty bitmap of one image: the walk of the module qcow2_bitmap from its parameters to its result."""

from __future__ import annotations

import os
import typing as t
from dataclasses import replace

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils import (
    _bitmaps,
    _capacity,
    _encrypting,
    _encryption,
    _formats,
    _image,
    _leftovers,
    _qcow2,
    _qcow2_bitmaps,
    _usage,
)
from ansible_collections.kvmops.disk.plugins.module_utils._bitmaps import BitmapWish, Observed
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError
from ansible_collections.kvmops.disk.plugins.module_utils._in_place import InPlaceTask
from ansible_collections.kvmops.disk.plugins.module_utils._lock import Operation
from ansible_collections.kvmops.disk.plugins.module_utils._module import absolute, carry_out
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan, Step
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_bitmaps import Bits
from ansible_collections.kvmops.disk.plugins.module_utils._recover import recorded
from ansible_collections.kvmops.disk.plugins.module_utils._size import parse_size
from ansible_collections.kvmops.disk.plugins.module_utils._trust import require_writable_alone

_WORK = "work on its bitmaps"


class BitmapTask(InPlaceTask):
    """The task at hand: looks at the world, decides by the pure functions, and says what became of it."""

    def __init__(self, module: AnsibleModule, wish: BitmapWish) -> None:
        super().__init__(module)
        self.qemu_img = self.qemu_img.limiting()  # whoever wrote the image
        self.openers = _encrypting.openers_from(module.params, "encryption")
        self._source_openers = _encrypting.openers_from(module.params, "merge_from_encryption")
        self._source: _image.Image | None = None
        self.wish = wish
        self._observed: Observed

    def decide(self, operation: Operation | None) -> Plan:
        """The plan for the bitmap."""
        for path in self._files():
            if _usage.is_locked(path, against_readers=True):
                self._require_unused()  # the bitmaps of an image that is open are in the memory of whoever has it open
        observed = self._observed = self._observe()
        self._unlock(observed.image)
        first = self.settling("qcow2", operation)
        plan = _bitmaps.plan_bitmap(self.wish, observed, lambda *actions: self._do(operation, *actions))
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
                self.qemu_img = _encrypting.unlocked(self.qemu_img, [self._source], self._source_openers)

    def _require_secret_of_source(self) -> None:
        if self._source is not None:
            _encryption.require_secret([self._source], self._source_openers, _WORK, "merge_from_encryption")

    def _files(self) -> list[str]:
        return [self.path, *([self.wish.file] if self.wish.file else [])]

    def _observe(self) -> Observed:
        image = _image.inspect(self.qemu_img, self.path, "qcow2", by_header=True)
        with _formats.open_image(self.path) as stream:
            header = _qcow2.read_header(stream, self.path)
            bitmaps = _qcow2_bitmaps.read_bitmaps(stream, header, self.path)
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
        with _formats.open_image(path) as stream:
            header = _qcow2.read_header(stream, path)
            known = _qcow2_bitmaps.read_bitmaps(stream, header, path)
            source = next((one for one in known if one.name == name.encode()), None)
            _bitmaps.require_valid_source(path, name, source, known)
            if header.virtual_size != bits.disk:
                raise DiskError(
                    f"{path}: has {header.virtual_size} bytes, {self.path} has {bits.disk}: bitmaps of disks that are "
                    "not of one size are not merged: resize one of them",
                    virtual_size=header.virtual_size,
                )
            return bits.covers(Bits(stream, header, t.cast("_qcow2_bitmaps.Bitmap", source), path))

    def _do(self, operation: Operation | None, *actions: str) -> None:
        wish = self.wish
        self.door(operation).bitmap(
            self.path, wish.name.encode(), *actions, granularity=wish.granularity, source=wish.file
        )

    def _require_possible(self, observed: Observed) -> None:
        """Raises where the image cannot be written, or where somebody has it open."""
        require_writable_alone(observed.image)
        _bitmaps.require_bitmaps(observed.image)
        self._require_unused()
        if self.wish.state in ("present", "merged") and os.path.isfile(self.path):
            _capacity.require_space([(os.path.realpath(self.path), _bitmaps.bytes_needed(self.wish, observed))])

    def _require_unused(self) -> None:
        running = [user for user in self.users() if user.running]
        for path in self._files():
            _usage.require_unused(path, running, _WORK)

    def _verify(self) -> None:
        """Raises DiskError where the bitmap is not what qemu-img said that it made."""
        if _bitmaps.plan_bitmap(self.wish, self._observe(), lambda *_actions: None):
            raise DiskError(
                f"{self.path}: qemu-img reported success, but its bitmap {self.wish.name!r} is not as it should be: "
                "check the image",
                path=self.path,
            )


def wish_from(params: dict[str, t.Any]) -> BitmapWish:
    """The wish that the parameters say. Raises InvalidRequest where they contradict each other."""
    granularity, other = params["granularity"], params["merge_from_path"]
    wish = BitmapWish(
        path=params["path"],
        name=params["bitmap"],
        state=params["state"],
        granularity=parse_size(granularity, "granularity") if granularity is not None else None,
        sources=tuple(params["merge_from"] or ()),
        file=absolute(other, "merge_from_path") if other is not None else None,
    )
    wish.require_valid()
    return wish


def manage(module: AnsibleModule) -> dict[str, t.Any]:
    """One run of the module."""
    task = BitmapTask(module, wish_from(module.params))
    plan = carry_out(task.decide, _leftovers.BITMAP, lambda: [task.path], module)
    return task.result(plan)
