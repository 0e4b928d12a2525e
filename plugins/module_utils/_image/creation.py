# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The decision to make a new image."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from ansible_collections.kvmops.disk.plugins.module_utils._errors import InvalidRequest, UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._files.staging import NewFile
from ansible_collections.kvmops.disk.plugins.module_utils._image import encryption as _encryption
from ansible_collections.kvmops.disk.plugins.module_utils._image.encryption import EncryptionWish
from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
from ansible_collections.kvmops.disk.plugins.module_utils._image.layout import Layout
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan, Step
from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg
from ansible_collections.kvmops.disk.plugins.module_utils._size import exact_size


@dataclass(frozen=True)
class ImageWish:
    """The image that a task wants at *path*; *size* in bytes, None for that of the backing file, or as it is.

    *backing_file* is empty where it is to have none, None where the task leaves that open. *rebase* (safe, unsafe) is
    how an image gets another one; *trusted* images may be read with what they refer to.
    """

    path: str
    layout: Layout
    size: int | None = None
    backing_file: str | None = None
    backing_format: str | None = None
    shrink: bool = False
    rebase: str = "safe"
    trusted: bool = False
    encryption: EncryptionWish | None = None

    def require_valid(self) -> None:
        """Raises InvalidRequest where no world could grant the wish."""
        self.layout.require_valid(size=self.size, overlay=bool(self.backing_file))
        _encryption.require_valid(self.encryption, self.layout.format)
        if self.backing_file == "" and self.rebase == "unsafe":
            raise InvalidRequest(
                "rebase: unsafe with an empty backing_file would throw away all that is read from the present one: "
                "leave rebase out to flatten the image"
            )
        if bool(self.backing_file) != (self.backing_format is not None):
            raise InvalidRequest(
                "backing_file: needs backing_format beside it, and the other way round: the format of a backing file "
                "is never guessed from its content"
            )
        if self.backing_file == self.path:
            raise InvalidRequest(f"backing_file: {self.path} cannot be its own backing file")


def new_size(wish: ImageWish, base: Image | None) -> int:
    """The virtual size of the image to make. Raises InvalidRequest without any, or with one that cuts off the base."""
    if base is None:
        if wish.size is None:
            raise InvalidRequest(f"{wish.path}: does not exist: give the size to create it with")
        return wish.size
    if wish.size is not None and wish.size < base.virtual_size:
        raise InvalidRequest(
            f"{wish.path}: asked for {exact_size(wish.size)}, but its backing file {base.path} has "
            f"{exact_size(base.virtual_size)}: a smaller overlay cuts off the end of the disk: leave size out, "
            "or ask for as much or more",
            virtual_size=base.virtual_size,
        )
    return wish.size or base.virtual_size


def require_usable_base(base: Image, *, encrypted: bool = False) -> None:
    """Raises UnsafeImage where an overlay on *base*, or on what reads it, would not be what it seems.

    *encrypted*: the overlay is.
    """
    if base.data_file is not None:
        raise UnsafeImage(
            f"{base.path}: keeps its data in another file, {base.data_file}, which the task does not name: "
            "not followed",
            path=base.path,
        )
    if base.encrypted and not encrypted:
        raise UnsafeImage(
            f"{base.path}: is encrypted: an overlay on it would hold its changes in the clear: not made: encrypt the "
            "overlay, too, where that is offered",
            path=base.path,
        )
    if base.corrupt:
        raise UnsafeImage(f"{base.path}: is marked corrupt: check and repair it first", path=base.path)


def plan_create(
    wish: ImageWish, base: Image | None, qemu_img: QemuImg, new_file: NewFile, dress: t.Callable[[str], None]
) -> Plan:
    """The plan that makes the image. *dress* gives a file the owner, group, mode and attributes of the task."""
    size = new_size(wish, base)
    image_format = wish.layout.format
    backing = (base.path, base.format) if base else None

    options = creation_options(wish.layout, wish.encryption)

    def create() -> None:
        new_file.begin()
        qemu_img.create(new_file.name, image_format, size, options, backing)
        dress(new_file.name)
        new_file.publish()

    kind = f"encrypted {image_format}" if wish.encryption else image_format
    over = f" over {base.path}" if base else ""
    policy = f", preallocation {wish.layout.preallocation}" if wish.layout.preallocation else ""
    return Plan(
        before={"path": wish.path, "state": "absent"},
        after={
            "path": wish.path,
            "state": "present",
            "format": image_format,
            "virtual_size": size,
            **({"backing_file": base.path, "backing_format": base.format} if base else {}),
            **wish.layout.choices(),
            **({"encrypted": True} if wish.encryption else {}),
        },
        steps=(
            Step(
                f"create {kind} image {wish.path} of {exact_size(size)}{over}{policy}",
                create,
                new_file.withdraw,
            ),
        ),
    )


def creation_options(layout: Layout, encryption: EncryptionWish | None = None) -> dict[str, str]:
    """The options for qemu-img; a VHD keeps the size asked for instead of the next one with whole cylinders."""
    encrypted = encryption.creation_options(layout.format) if encryption else {}
    return {**layout.options(), **({"force_size": "on"} if layout.format == "vpc" else {}), **encrypted}


def bytes_needed(layout: Layout, size: int, estimate: int) -> int:
    """What the file system must take at once for a disk of *size* bytes.

    *estimate* is what qcow2 would need for its data and metadata; qemu-img measures a raw image at its full length,
    holes included (raw_measure in block/raw-format.c).
    """
    if layout.is_fixed:
        return size
    if layout.is_plain:
        return size if layout.preallocation in ("falloc", "full") else min(size, estimate)
    return estimate
