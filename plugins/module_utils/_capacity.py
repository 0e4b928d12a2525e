# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a file system holds, what the images on it may come to need (its promises), and what it can still take."""

from __future__ import annotations

import math
import os
import typing as t
from dataclasses import dataclass

from ansible_collections.kvmops.disk.plugins.module_utils import _image
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, InvalidRequest, NotEnoughSpace
from ansible_collections.kvmops.disk.plugins.module_utils._lock import SUFFIX
from ansible_collections.kvmops.disk.plugins.module_utils._parallel import in_parallel
from ansible_collections.kvmops.disk.plugins.module_utils._qemu_img import QemuImg
from ansible_collections.kvmops.disk.plugins.module_utils._size import format_size
from ansible_collections.kvmops.disk.plugins.module_utils._usage import User

Identity = tuple[int, int]

#: With less than this left on a file system, what failed there has most likely filled it.
FULL = 1 << 20


def available_bytes(directory: str) -> int:
    """Bytes that this user may still write in *directory*: root has the reserve, others have not."""
    status = os.statvfs(directory)
    blocks = status.f_bfree if os.geteuid() == 0 else status.f_bavail
    return blocks * status.f_frsize


def require_space(demands: t.Iterable[tuple[str, int]]) -> None:
    """Raises NotEnoughSpace where the file systems cannot take all *demands*: pairs of a new file and its bytes."""
    needed: dict[int, int] = {}
    files: dict[int, list[str]] = {}
    for path, required in demands:
        device = os.stat(os.path.dirname(path)).st_dev
        needed[device] = needed.get(device, 0) + required
        files.setdefault(device, []).append(path)
    for device, required in needed.items():
        directory = os.path.dirname(files[device][0])
        available = available_bytes(directory)
        if required > available:
            raise NotEnoughSpace(
                f"{', '.join(files[device])}: not enough space in {directory}: "
                f"needed {format_size(required)} ({required} bytes), "
                f"available {format_size(available)} ({available} bytes): free some, or choose another place",
                required_bytes=required,
                available_bytes=available,
            )


@dataclass(frozen=True)
class Promise:
    """An image on a file system: the bytes that its disk has, and those that it occupies now."""

    path: str
    identity: Identity
    virtual_size: int
    actual_size: int

    @property
    def promised(self) -> int:
        """What it may come to occupy: its disk's size, or what it has already, where that is more (snapshots, say)."""
        return max(self.virtual_size, self.actual_size)


@dataclass(frozen=True)
class FileSystem:
    """The file system of *directory*, its size in bytes, and the images that are known to lie on it."""

    directory: str
    size: int
    promises: tuple[Promise, ...]

    @property
    def promised(self) -> int:
        return sum(promise.promised for promise in self.promises)

    def require_room(self, path: str, virtual_size: int, ratio: float) -> None:
        """Raises NotEnoughSpace where a disk of *virtual_size* at *path*, new or grown, promises too much.

        All promises together may be *ratio* times what the file system has.
        """
        others = [one for one in self.promises if one.identity != _identity(path)]
        taken = sum(one.promised for one in others)
        required, limit = taken + virtual_size, int(self.size * ratio)
        if required > limit:
            room = max(0, limit - taken)
            raise NotEnoughSpace(
                f"{path}: with {format_size(virtual_size)} for it, {len(others) + 1} image(s) on the file system of "
                f"{self.directory} may come to need {format_size(required)} ({required} bytes), which is "
                f"{required / max(1, self.size):.2f} times the {format_size(self.size)} ({self.size} bytes) that it "
                f"has, and max_overcommit is {ratio:g}: ask for {format_size(room)} or less, add space, or raise "
                "max_overcommit",
                required_bytes=virtual_size,
                available_bytes=room,
                promised_bytes=self.promised,
                filesystem_bytes=self.size,
                max_overcommit=ratio,
            )


def require_ratio(ratio: float | None) -> None:
    """Raises InvalidRequest where *ratio* is no limit of promises."""
    if ratio is not None and not (math.isfinite(ratio) and ratio > 0):
        raise InvalidRequest(
            f"max_overcommit: {ratio:g} is no ratio: give how many times its own size a file system may promise, "
            "such as 1.2"
        )


def file_system(
    directory: str, directories: t.Iterable[str], users: t.Collection[User], qemu_img: QemuImg
) -> FileSystem:
    """The file system of *directory* with the images on it: the files of *users*, and all beside them, in *directory*
    and in *directories*.

    What a domain says that it reads a file as holds; what a guest may have written is believed only where nobody says
    anything. Every regular file counts, once by device and inode, whatever names lead to it: one that is no image as
    what it is, a raw one as its length.
    """
    device = os.stat(directory).st_dev
    named = [(user.path, user.format) for user in users if os.path.isfile(user.path)]
    said = {_identity(path): image_format for path, image_format in named if image_format}
    places = sorted({directory, *directories, *(os.path.dirname(path) for path, _format in named)})
    found: dict[Identity, str] = {}
    for path in (*(path for path, _format in named), *(path for place in places for path in _files(place))):
        identity = _identity(path)
        if identity and identity[0] == device:
            found.setdefault(identity, path)
    looked = sorted((path, identity, said.get(identity)) for identity, path in found.items())
    status = os.statvfs(directory)
    promises = in_parallel(lambda item: _promise(*item, qemu_img), looked)
    return FileSystem(directory, status.f_blocks * status.f_frsize, tuple(promises))


def _promise(path: str, identity: Identity, image_format: str | None, qemu_img: QemuImg) -> Promise:
    """What the image at *path* may need; where it cannot be read as one, what the file is; nothing where it is gone."""
    try:
        image = _image.inspect(qemu_img, path, image_format, by_header=True)
    except DiskError:
        try:
            status = os.stat(path)
        except OSError:
            return Promise(path, identity, 0, 0)
        return Promise(path, identity, status.st_size, status.st_blocks * 512)
    return Promise(path, identity, image.virtual_size, image.actual_size)


def _files(directory: str) -> list[str]:
    """The files of a directory, without our records."""
    try:
        with os.scandir(directory) as entries:
            return [entry.path for entry in entries if entry.is_file() and not entry.name.endswith(SUFFIX)]
    except OSError:
        return []


def _identity(path: str) -> Identity | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
