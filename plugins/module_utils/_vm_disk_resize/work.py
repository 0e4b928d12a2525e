# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is done to grow or shrink a disk."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ansible_collections.kvmops.disk.plugins.module_utils._capacity import space as _space
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass, field
from ansible_collections.kvmops.disk.plugins.module_utils._domain.work import DomainWork
from ansible_collections.kvmops.disk.plugins.module_utils._errors import (
    DiskError,
    ImageInUse,
    LibvirtFailed,
    NotEnoughSpace,
)
from ansible_collections.kvmops.disk.plugins.module_utils._image import image as _image
from ansible_collections.kvmops.disk.plugins.module_utils._recovery import settle as _settle
from ansible_collections.kvmops.disk.plugins.module_utils._size import exact_size
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_resize import decision as _decision
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_resize import decision_obstacles as _obstacles

if TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_resize.decision import Resizing


@dataclass
class Work(DomainWork):
    """One method for each step of a resize; *policy* is the preallocation of what is added offline."""

    item: Resizing
    policy: str | None
    _begun: bool = field(default=False, init=False)

    def grow_live(self) -> None:
        """One call of libvirt; before it a last look, since libvirt would shrink the disk as readily."""
        item = self.item
        found = self.domain.capacity(item.target)
        if found != item.before:
            raise DiskError(
                f"{self.domain.name}: {item.target}: was resized to {exact_size(found)} in the meantime: nothing was "
                "changed: run again",
                virtual_size=found,
            )
        try:
            self.domain.resize_disk(item.target, item.after)
        except LibvirtFailed as error:
            left = _space.available_bytes(os.path.dirname(os.path.realpath(item.path)))
            if left is None or left >= _space.FULL:
                raise
            raise NotEnoughSpace(
                f"{error}: the file system of {item.path} is full: the disk has {exact_size(item.before)} as before: "
                "free some space, then run again",
                available_bytes=left,
            ) from error
        _obstacles.require_size_reached(item, self.domain.capacity(item.target))

    def resize(self) -> None:
        """Gives the image its new size. Raises ImageInUse where somebody has started the domain."""
        item = self.item
        self.require_off()
        self._begun = True
        try:
            self.qemu_img.resize(
                item.path, item.image.format, item.after, shrink=item.growth < 0, preallocation=self.policy
            )
        except ImageInUse:  # QEMU's lock kept us out
            self._begun = False
            raise
        _obstacles.require_size_reached(item, self._size())

    def revert(self) -> None:
        """The image as it was: what was added are zeros that nobody has seen. If it fails, the record stays."""
        if not self._begun:
            return
        item, operation = self.item, self.records.operation
        operation.keep(item.path)
        _settle.check(item.path, item.image.format, self.qemu_img)
        if _decision.can_shrink(item.image.format) and self._size() > item.before:
            self.qemu_img.resize(item.path, item.image.format, item.before, shrink=True)
        operation.settled(item.path)

    def _size(self) -> int:
        return _image.inspect(self.qemu_img, self.item.path, self.item.image.format).virtual_size
