# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the file system of the new images still has for them."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._capacity import file_systems as _file_systems
from ansible_collections.kvmops.disk.plugins.module_utils._capacity import space as _space
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass, field
from ansible_collections.kvmops.disk.plugins.module_utils._formats.references import identity
from ansible_collections.kvmops.disk.plugins.module_utils._image import alignment as _alignment
from ansible_collections.kvmops.disk.plugins.module_utils._image.creation import Estimate, bytes_needed
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.wish import LINKED, REFLINK, CloneWish

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import Measure, QemuImg
    from ansible_collections.kvmops.disk.plugins.module_utils._task.surroundings import Surroundings
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_blueprint import (
        NewImage,
        Setting,
    )
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_source import Source, SourceDisk


@dataclass
class Room:
    """What the file system of the new images still has for each further clone, in the order of the list."""

    surroundings: Surroundings
    qemu_img: QemuImg
    wish: CloneWish
    source: Source
    setting: Setting
    _available: int | None = None
    _taken_bytes: int = 0
    _system: _file_systems.FileSystem | None = None
    _taken: list[_space.NewImage] = field(default_factory=list)
    _measured: dict[str, Measure] = field(default_factory=dict)

    def take(self, images: t.Sequence[NewImage]) -> None:
        """Counts the *images* of a clone. Raises NotEnoughSpace where they do not fit."""
        for image in images:
            self._require_openable(image)
        if not self._taken_bytes:
            self._available = _space.available_bytes(self.setting.directory)
        for image in images:
            if self.setting.mode != LINKED and image.format == "raw":
                _space.require_length(image.path, image.size)
        needed = sum(self._needed(image) for image in images)
        left = self._available - self._taken_bytes if self._available is not None else None
        _space.require_bytes([image.path for image in images], needed, left)
        if self.wish.max_overcommit is not None:
            self._system = self._system or self._promises()
            new = [_space.NewImage(image.path, image.size) for image in images]
            self._system.require_room([*self._taken, *new], self.wish.max_overcommit)
            self._taken += new
        self._taken_bytes += needed

    def _require_openable(self, image: NewImage) -> None:
        """Raises DiskError where the clone could not open the image in the cache mode of the source's disk."""
        disk = self.source.state.disk(image.disk.target)
        cache = disk.element.cache if disk is not None else None
        what = f"{self.source.state.name}: {image.disk.target}"
        _alignment.require_openable(image.path, image.format, image.size, cache, what, "ask for it in disk_sizes")

    def _needed(self, image: NewImage) -> int:
        if self.setting.mode == LINKED:
            return self.wish.layout("qcow2").bytes_of_empty(image.size)
        if self.setting.mode == REFLINK:
            return 0
        measured = self._content(image.disk)
        estimate = Estimate(measured.required, measured.data(image.disk.size))
        return bytes_needed(self.wish.layout(image.disk.format), image.size, estimate)

    def _content(self, disk: SourceDisk) -> Measure:
        """What a copy of a disk of the source needs, measured once."""
        if disk.path not in self._measured:
            self._measured[disk.path] = self.qemu_img.measure(disk.path, disk.format, "qcow2", {})
        return self._measured[disk.path]

    def _promises(self) -> _file_systems.FileSystem:
        """What the images on the file system of the new ones may come to need: the base, from now on, nothing more."""
        bases = {identity(disk.path) for disk in self.source.disks} if self.setting.mode == LINKED else set()
        place, around = [self.setting.directory], self.surroundings
        return _file_systems.file_systems(place, around.directories(), around.users, self.qemu_img, bases=bases)[0]
