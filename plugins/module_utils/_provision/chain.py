# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The files that an image reads, and those that it is to read: what has to be true of them, and what they take."""

from __future__ import annotations

import os
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._content import rebase as _rebase
from ansible_collections.kvmops.disk.plugins.module_utils._content import rebase_wish as _rebase_wish
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import replace
from ansible_collections.kvmops.disk.plugins.module_utils._errors import (
    ImageInUse,
    InvalidRequest,
    MissingImage,
    UnsafeImage,
)
from ansible_collections.kvmops.disk.plugins.module_utils._host import image_locks as _image_locks
from ansible_collections.kvmops.disk.plugins.module_utils._host.inode import can_be_nocow
from ansible_collections.kvmops.disk.plugins.module_utils._image import encryption as _encryption
from ansible_collections.kvmops.disk.plugins.module_utils._image import image as _image
from ansible_collections.kvmops.disk.plugins.module_utils._image import key_slots as _key_slots
from ansible_collections.kvmops.disk.plugins.module_utils._image.creation import (
    Estimate,
    bytes_needed,
    require_usable_base,
)
from ansible_collections.kvmops.disk.plugins.module_utils._image.whole import require_whole
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disks as _disks

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._provision.wish import ImageWish
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg
    from ansible_collections.kvmops.disk.plugins.module_utils._task.surroundings import Surroundings
    from ansible_collections.kvmops.disk.plugins.module_utils._usage.users import User


def require_nocow_possible(wish: ImageWish) -> None:
    """Raises InvalidRequest where the task wants data written in place, and the file system knows no such files."""
    directory = os.path.dirname(wish.path)
    if wish.nocow and not can_be_nocow(directory):
        raise InvalidRequest(
            f"nocow: {wish.path}: the file system of {directory} cannot be told to write the data of a file in place: "
            "leave it out, as it is for file systems that copy on write (btrfs)",
            path=wish.path,
        )


def wanted_below(qemu_img: QemuImg, wish: ImageWish, to_do: str) -> tuple[_image.Image, ...]:
    """The wanted backing file and what that reads. Raises DiskError where an overlay on it would not be right."""
    if not wish.backing_file:
        return ()
    _image.require_format(wish.backing_file, t.cast(str, wish.backing_format))
    base = _image.inspect(qemu_img, wish.backing_file, wish.backing_format)
    below = _image.chain(qemu_img, base)
    for link in below:
        require_usable_base(link, encrypted=wish.encryption is not None)
    require_whole(below)
    _require_unwritten(base.path, to_do)
    if wish.encryption is not None:
        _key_slots.require_opens(qemu_img, wish.encryption.layers(below, wish.encryption.below))
    return below


def wanted_rebase(qemu_img: QemuImg, wish: ImageWish, image: _image.Image) -> _rebase.Rebase | None:
    """The image between the files that it reads and those that it is to read; None where they are the same."""
    if not _rebase_wish.is_wanted(wish.rebase_wish, image):
        return None
    base = wanted_below(qemu_img, wish, f"have {image.path} read it")
    found = _rebase.Rebase(image, base, rewrites=_rebase.rewrites(wish.rebase_wish, image))
    if not found.rewrites:
        _rebase.require_vouched(wish.rebase_wish, image)
        found = replace(found, below=_read_now(qemu_img, image))
    _rebase.require_possible(wish.rebase_wish, found)
    if not os.path.isfile(image.path):
        raise UnsafeImage(
            f"{image.path}: is a block device, which a new file cannot replace: convert it into a new image "
            "(kvmops.disk.qcow2_convert)",
            path=image.path,
        )
    return found


def read_by(qemu_img: QemuImg, image: _image.Image, found: _rebase.Rebase | None) -> tuple[_image.Image, ...]:
    """The image and what is opened with it where it is changed."""
    if found is not None:
        return (image, *(found.base if found.rewrites else found.below))
    return _image.chain(qemu_img, image) if image.backing_file is not None else (image,)


def described(path: str, surroundings: Surroundings) -> t.Iterator[User]:
    """The users of the image whose definitions say what it reads."""
    for user, domain in surroundings.domains_with(path):
        disks = _disks.disks(domain.xml(inactive=True))
        if any(disk.target == user.target and disk.chain is not None for disk in disks):
            yield user


def bytes_to_create(qemu_img: QemuImg, wish: ImageWish, size: int) -> int:
    """What the file system must take at once for a new image of *size* bytes."""
    estimate = Estimate()
    if wish.layout.is_thin_qcow2:
        estimate = Estimate(wish.layout.bytes_of_empty(size))
    elif wish.layout.format == "qcow2":
        estimate = Estimate(qemu_img.measure_empty(size, "qcow2", wish.layout.options()).required)
    header = _encryption.HEADER_BYTES if wish.encryption else 0
    return bytes_needed(wish.layout, size, estimate) + header


def bytes_to_rebase(qemu_img: QemuImg, found: _rebase.Rebase, growth: int) -> int:
    """What a file system must take for a rebase of the image, which is to grow by *growth* bytes before that."""
    image = found.image
    if found.rewrites:
        return 0
    measured = 0
    if found.merged:
        options = {"cluster_size": str(image.cluster_size)} if image.format == "qcow2" else {}
        measured = qemu_img.measure(image.path, image.format, "qcow2", options).required
    return _rebase.bytes_needed(found, measured) + growth


def _read_now(qemu_img: QemuImg, image: _image.Image) -> tuple[_image.Image, ...]:
    """The images that *image* reads, which nobody writes. Raises MissingImage where one is gone."""
    try:
        below = _image.chain(qemu_img, image)[1:]
    except MissingImage as error:
        raise MissingImage(
            f"{error}: asked to give {image.path}, which reads it, another backing file: bring it back, or set "
            "rebase=unsafe if the new one holds the same",
            **error.facts,
        ) from error
    for one in below:
        _require_unwritten(one.path, f"copy from it into {image.path}")
    return below


def _require_unwritten(path: str, to_do: str) -> None:
    if _image_locks.is_locked(path, against_readers=True):
        raise ImageInUse(
            f"{path}: is open for writing, asked to {to_do}: what its user writes would change what is read of it: "
            "stop that first",
            path=path,
            in_use_by=[],
        )
