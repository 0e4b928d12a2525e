# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a directory can still take, and what new images take of it."""

from __future__ import annotations

import os
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._errors import NotEnoughSpace
from ansible_collections.kvmops.disk.plugins.module_utils._host import file_systems as _file_systems
from ansible_collections.kvmops.disk.plugins.module_utils._size import format_size

#: A file may be so long on any file system.
_ANYWHERE = (1 << 31) - 1
#: With less than this left on a file system, what failed there has most likely filled it.
FULL = 1 << 20


def available_bytes(directory: str) -> int | None:
    """Bytes that may still be written in *directory*; None where its file system does not tell."""
    room = _file_systems.room(directory)
    return room.available if room is not None else None


def require_space(demands: t.Iterable[tuple[str, int]]) -> None:
    """Raises NotEnoughSpace where the file systems cannot take all *demands*: pairs of a new file and its bytes."""
    needed: dict[int, int] = {}
    files: dict[int, list[str]] = {}
    for path, required in demands:
        device = os.stat(os.path.dirname(path)).st_dev
        needed[device] = needed.get(device, 0) + required
        files.setdefault(device, []).append(path)
        require_length(path, required)
    for device, required in needed.items():
        require_bytes(files[device], required, available_bytes(os.path.dirname(files[device][0])))


def require_length(path: str, length: int) -> None:
    """Raises NotEnoughSpace where a file at *path* cannot have *length* bytes, however few of them it occupies."""
    if length <= _ANYWHERE:
        return
    directory = os.path.dirname(os.path.realpath(path))
    longest = _file_systems.longest_file(directory)
    if longest is not None and length > longest:
        raise NotEnoughSpace(
            f"{path}: would be a file of {format_size(length)} ({length} bytes), and the longest that the file system "
            f"of {directory} can have is {format_size(longest)} ({longest} bytes): choose another place, or a format "
            "whose file is only as long as what is in it, such as qcow2",
            required_bytes=length,
            available_bytes=longest,
        )


def require_bytes(paths: t.Sequence[str], required: int, available: int | None) -> None:
    """Raises NotEnoughSpace where new files at *paths*, of one directory, need more bytes than are *available*; None
    where nobody knows how many are."""
    if available is not None and required > available:
        raise NotEnoughSpace(
            f"{', '.join(paths)}: not enough space in {os.path.dirname(paths[0])}: "
            f"needed {format_size(required)} ({required} bytes), "
            f"available {format_size(available)} ({available} bytes): free some, or choose another place",
            required_bytes=required,
            available_bytes=available,
        )


@dataclass(frozen=True)
class NewImage:
    """An image that is to be made, or to grow: the bytes of its disk, and the file that it is to read, if any."""

    path: str
    size: int
    backing_file: str | None = None
