# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A look at the disk that a task is about: its image, and the size that it has."""

from __future__ import annotations

import os
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass, replace
from ansible_collections.kvmops.disk.plugins.module_utils._domain import ready as _ready
from ansible_collections.kvmops.disk.plugins.module_utils._image import image as _image
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_resize import decision as _decision
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_resize.decision import Resizing

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainDisk, DomainState
    from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.domain import Domain
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_resize.wish import ResizeWish


@dataclass(frozen=True)
class Survey:
    """One look at the disk of *state* that *wish* means."""

    domain: Domain
    qemu_img: QemuImg
    state: DomainState
    wish: ResizeWish

    def observed(self, disk: DomainDisk) -> Resizing:
        """The disk with its size now, and the one that it is to have. Raises DiskError where no image file is behind
        it, or that has no such size."""
        _decision.require_image_file(self.state, disk)
        what = f"{self.state.name}: {disk.target}"
        path = t.cast(str, disk.path)
        if os.path.exists(path) and not os.path.isfile(path):
            raise _decision.refused_device(what, path)
        _decision.require_valid_policy(self.wish, disk.format)
        _ready.require_plugged_in(self.state, disk)
        live = self.state.active
        image = self.image(disk)
        before = self.domain.capacity(disk.target) if live else image.virtual_size
        return Resizing(disk, image, before, self.wish.target(what, before, self._step(disk, path)), live)

    def _step(self, disk: DomainDisk, path: str) -> int:
        """Of how many bytes the new size is to be a multiple, where the task wants that."""
        if not self.wish.align_size or disk.format != "raw":
            return 1
        from ansible_collections.kvmops.disk.plugins.module_utils._host.direct_io import alignment

        return alignment(os.path.realpath(path))

    def image(self, disk: DomainDisk) -> _image.Image:
        """The facts of a disk's image. An encrypted raw disk is shorter than its file, by the header with its keys."""
        path, is_luks = t.cast(str, disk.path), disk.element.encrypted and disk.format == "raw"
        image = _image.inspect(self.qemu_img, path, "luks" if is_luks else disk.format)
        return replace(image, format=disk.format, encrypted=image.encrypted or disk.element.encrypted)
