# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The work on one image: it is made, amended, given another size."""

from __future__ import annotations

import os
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass, field
from ansible_collections.kvmops.disk.plugins.module_utils._files.staging import NewFile
from ansible_collections.kvmops.disk.plugins.module_utils._image import key_slots as _key_slots
from ansible_collections.kvmops.disk.plugins.module_utils._image.creation import creation_options
from ansible_collections.kvmops.disk.plugins.module_utils._qemu.secrets import Layer

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._image.encryption import Key
    from ansible_collections.kvmops.disk.plugins.module_utils._provision.wish import ImageWish
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg


@dataclass
class Work:
    """One method for each step. *keys* are the further ones of a new encrypted image; *dress* gives its file the owner,
    group, mode and attributes of the task."""

    wish: ImageWish
    qemu_img: QemuImg
    keys: t.Sequence[Key]
    dress: t.Callable[[str], None]
    _new_file: NewFile = field(init=False)

    def __post_init__(self) -> None:
        self._new_file = NewFile(self.wish.path, nocow=self.wish.nocow)

    def create(self, size: int, backing: tuple[str, str] | None) -> None:
        new, wish, encryption = self._new_file, self.wish, self.wish.encryption
        image_format = wish.layout.format
        new.begin()
        qemu_img = self.qemu_img.knowing(encryption.secret) if encryption else self.qemu_img
        qemu_img.create(new.name, image_format, size, creation_options(wish.layout, encryption), backing)
        if encryption:
            opener = Layer(new.name, image_format, encryption.secret)
            _key_slots.add_keys(self.qemu_img, opener, self.keys, encryption.iter_time)
        os.chmod(new.name, 0o666 & ~_umask())
        self.dress(new.name)
        new.publish()

    def withdraw(self) -> None:
        self._new_file.withdraw()

    def amend(self, options: dict[str, str]) -> None:
        self.qemu_img.amend(self.wish.path, self.wish.layout.format, options)

    def resize(self, size: int, *, shrink: bool, preallocation: str | None) -> None:
        path, image_format = self.wish.path, self.wish.layout.format
        self.qemu_img.resize(path, image_format, size, shrink=shrink, preallocation=preallocation)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
