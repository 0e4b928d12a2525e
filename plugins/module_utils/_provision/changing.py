# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An image that is not as a task wants it: made, or changed where it is."""

from __future__ import annotations

import os
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._capacity import space as _space
from ansible_collections.kvmops.disk.plugins.module_utils._capacity.space import NewImage
from ansible_collections.kvmops.disk.plugins.module_utils._content.rebase_wish import is_wanted
from ansible_collections.kvmops.disk.plugins.module_utils._content.rebase_work import plan_rebase
from ansible_collections.kvmops.disk.plugins.module_utils._files import staging as _staging
from ansible_collections.kvmops.disk.plugins.module_utils._host import access as _access
from ansible_collections.kvmops.disk.plugins.module_utils._image import doubts as _doubts
from ansible_collections.kvmops.disk.plugins.module_utils._image import image as _image
from ansible_collections.kvmops.disk.plugins.module_utils._image.alignment import warn_of_misfit
from ansible_collections.kvmops.disk.plugins.module_utils._image.creation import file_length
from ansible_collections.kvmops.disk.plugins.module_utils._image.encryption import Key, KeyChanges, keys_to_add
from ansible_collections.kvmops.disk.plugins.module_utils._image.key_slots import plan_keys
from ansible_collections.kvmops.disk.plugins.module_utils._image.whole import require_whole
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan
from ansible_collections.kvmops.disk.plugins.module_utils._provision import chain as _chain
from ansible_collections.kvmops.disk.plugins.module_utils._provision import change as _change
from ansible_collections.kvmops.disk.plugins.module_utils._provision import plan_change as _plan_change
from ansible_collections.kvmops.disk.plugins.module_utils._provision import plan_create as _plan_create
from ansible_collections.kvmops.disk.plugins.module_utils._provision.work import Work
from ansible_collections.kvmops.disk.plugins.module_utils._usage.counting import running

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._content.rebase import Rebase
    from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation
    from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
    from ansible_collections.kvmops.disk.plugins.module_utils._provision.change import Change
    from ansible_collections.kvmops.disk.plugins.module_utils._provision.survey import Found
    from ansible_collections.kvmops.disk.plugins.module_utils._provision.wish import ImageWish
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg
    from ansible_collections.kvmops.disk.plugins.module_utils._task.image_task import InPlaceTask


class Changing:
    """What *task* does to have the image as *wish* says."""

    def __init__(self, task: InPlaceTask, wish: ImageWish) -> None:
        self.task = task
        self.wish = wish

    def plan(self, found: Found, operation: Operation | None, *, settles: bool) -> Plan:
        """The plan for the image as it is *found*. *settles*: what a dead run left on it is brought in order before.

        Raises DiskError where something is in the way.
        """
        image = found.image
        if image is None:
            return self._creation(operation)
        plan = self._change(image, found.keys, operation)
        if (settles or plan) and not is_wanted(self.wish.rebase_wish, image):
            _plan_change.require_no_cut(self.wish, image, _image.chain(self.task.qemu_img, image)[1:])
        return plan

    def _creation(self, operation: Operation | None) -> Plan:
        wish, qemu_img = self.wish, self.task.qemu_img
        _staging.require_directory(wish.path, "path")
        _chain.require_nocow_possible(wish)
        below = _chain.wanted_below(qemu_img, wish, "make an overlay of it")
        base = below[0] if below else None
        size = _plan_create.new_size(wish, base)
        _space.require_length(wish.path, file_length(wish.layout, size))
        if operation is None:
            warn_of_misfit(wish.path, wish.layout.format, size, self.task.warn)
            _doubts.warn_of_name(wish.path, wish.layout.format, self.task.warn)
            for image in below[:1]:
                _doubts.warn_of_compressed(image.path, image.format, self.task.warn)
        _space.require_space([(wish.path, _chain.bytes_to_create(qemu_img, wish, size))])
        self._require_promise(size, wish.backing_file)
        encryption = wish.encryption
        keys = keys_to_add(wish.path, encryption, (encryption.secret,), (0,)) if encryption else ()
        return _plan_create.plan_create(wish, base, self._work(self.task.holding(operation), keys))

    def _change(self, image: Image, changes: KeyChanges | None, operation: Operation | None) -> Plan:
        rebase = _chain.wanted_rebase(self.task.qemu_img, self.wish, image)
        wanted = _change.change(self.wish, image)
        if not (rebase or changes or wanted):
            return Plan({}, {})
        plan = self._planned(wanted, changes, rebase, operation)  # before what the image reads is looked at
        require_whole(_chain.read_by(self.task.qemu_img, image, rebase))
        self.task.surroundings.require_unused(self.wish.path, "change it", running)
        self.task.require_no_dependents("change it")
        _access.require_writable(self.wish.path, "change it")
        self._require_room(wanted, rebase)
        if operation is None:
            self._warn_of_doubts(wanted, rebase)
        return plan

    def _warn_of_doubts(self, wanted: Change, rebase: Rebase | None) -> None:
        """Says what the task may not know of the sizes that it asks for, and of what it has the image read."""
        image = wanted.image
        if wanted.size is not None:
            warn_of_misfit(image.path, image.format, wanted.size, self.task.warn)
            _doubts.warn_of_partial_sector(image.path, image.format, self.task.warn)
        if rebase is not None and rebase.wanted is not None:
            _doubts.warn_of_compressed(*rebase.wanted, self.task.warn)

    def _planned(
        self, wanted: Change, changes: KeyChanges | None, rebase: Rebase | None, operation: Operation | None
    ) -> Plan:
        """The plan for what is to be otherwise. After the keys, the secret of the task opens the image."""
        qemu_img, keys = self.task.holding(operation), None
        encryption = self.wish.encryption
        if encryption is not None and changes is not None:
            keys = plan_keys(wanted.image, encryption, changes, qemu_img)
            images = _chain.read_by(self.task.qemu_img, wanted.image, rebase)
            self.task.qemu_img = self.task.qemu_img.unlocking(encryption.layers(images, changes.opener))
            qemu_img = qemu_img.unlocking(encryption.layers(images))
        moved = plan_rebase(rebase, qemu_img, encryption) if rebase is not None else None
        return _plan_change.plan_change(self.wish, wanted, self._work(qemu_img), keys=keys, rebase=moved)

    def _require_room(self, wanted: Change, rebase: Rebase | None) -> None:
        """Raises NotEnoughSpace where the file system cannot take the change, or would promise too much with it."""
        needed = _plan_change.growth_in_bytes(self.wish, wanted.image)
        if rebase is not None:
            surroundings = self.task.surroundings
            surroundings.require_no_saved_state(self.wish.path, str(rebase))
            _plan_change.require_undescribed(rebase, _chain.described(self.wish.path, surroundings))
            needed += _chain.bytes_to_rebase(self.task.qemu_img, rebase, needed)
        _space.require_space([(os.path.realpath(self.wish.path), needed)])
        if wanted.size is not None and wanted.image.format == "raw":
            _space.require_length(self.wish.path, wanted.size)
        if wanted.grows and wanted.size is not None:
            self._require_promise(max(wanted.size, wanted.image.actual_size))

    def _require_promise(self, size: int, backing_file: str | None = None) -> None:
        """Raises NotEnoughSpace where *size* bytes for the image are more than its file system may promise."""
        new = NewImage(self.wish.path, size, backing_file)
        self.task.surroundings.require_promises([new], self.wish.max_overcommit, self.task.qemu_img)

    def _work(self, qemu_img: QemuImg, keys: t.Sequence[Key] = ()) -> Work:
        return Work(self.wish, qemu_img, keys, self.task.dress)
