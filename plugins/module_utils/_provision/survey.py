# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A look at the image that a task is about: whether there is one, and what is to be done to its keys."""

from __future__ import annotations

import os
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass, replace
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, RelativeSize, UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._image import image as _image
from ansible_collections.kvmops.disk.plugins.module_utils._provision.wish import ImageWish, wish_from
from ansible_collections.kvmops.disk.plugins.module_utils._size import final_size

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._image.encryption import KeyChanges
    from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg


@dataclass(frozen=True)
class Found:
    """The *image*, None where there is none; what is to be done to the *keys* of an encrypted one. *qemu_img* opens it
    with one of those that it has."""

    image: Image | None
    keys: KeyChanges | None
    qemu_img: QemuImg


def look(qemu_img: QemuImg, wish: ImageWish) -> Found:
    """The image as it is found.

    Raises DiskError where something else is there, where the task has no key to it, or it is not encrypted as wanted.
    """
    image = _existing(qemu_img, wish)
    if image is None:
        return Found(None, None, qemu_img)
    if wish.encryption is None and not image.encrypted:
        return Found(image, None, qemu_img)
    from ansible_collections.kvmops.disk.plugins.module_utils._image import encryption as _encryption
    from ansible_collections.kvmops.disk.plugins.module_utils._image import key_slots as _key_slots
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.secrets import Layer

    _encryption.require_same_kind(wish.encryption, image)
    if wish.encryption is None:
        return Found(image, None, qemu_img)
    opening = _key_slots.opening(qemu_img, image, wish.encryption.secrets)
    changes = _encryption.key_changes(wish.encryption, image, opening)
    return Found(image, changes, qemu_img.unlocking([Layer(image.path, image.format, changes.opener)]))


def wished(qemu_img: QemuImg, params: t.Mapping[str, t.Any]) -> ImageWish:
    """The wish that the parameters say. Raises InvalidRequest where they contradict each other; where they give a
    growth for a size, with the size that is meant."""
    try:
        return wish_from(params)
    except RelativeSize as error:
        relative = error
    try:
        image = _image.inspect(qemu_img, params["path"], params["format"]) if relative.what == "size" else None
    except DiskError:
        image = None
    raise final_size(relative, image.path, image.virtual_size) if image is not None else relative


def fitting(wish: ImageWish) -> ImageWish:
    """The wish with the size that a raw image can have at its place, where the task leaves that open."""
    if not wish.align_size or wish.size is None or wish.layout.format != "raw":
        return wish
    from ansible_collections.kvmops.disk.plugins.module_utils._image.alignment import fitting_size

    return replace(wish, size=fitting_size(wish.path, "raw", wish.size))


def _existing(qemu_img: QemuImg, wish: ImageWish) -> Image | None:
    path = wish.path
    if os.path.islink(path) and not os.path.exists(path):
        raise UnsafeImage(
            f"{path}: is a symbolic link whose target is missing ({os.readlink(path)}): remove it, or make its "
            "target first"
        )
    if not os.path.lexists(path):
        return None
    _image.require_format(path, wish.layout.format)
    return _image.inspect(qemu_img, path, wish.layout.format)
