# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where the bytes of a file lie on its file system, to count those once that several files share (reflinks).

Asked by the ioctl FS_IOC_FIEMAP (the kernel's Documentation/filesystems/fiemap.rst), which reads metadata only.
"""

from __future__ import annotations

import fcntl
import os
import struct
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass

#: The file systems that let files share extents and tell which; the others need not be asked.
SHARING = frozenset({"bcachefs", "btrfs", "ocfs2", "xfs"})

_FIEMAP = 0xC020660B
_HEAD = struct.Struct("=QQLLLL")
_EXTENT = struct.Struct("=QQQ16xL12x")
_AT_ONCE = 1024
_LAST, _UNKNOWN, _INLINE, _SHARED = 0x1, 0x2, 0x200, 0x2000


@dataclass(frozen=True)
class Extent:
    """A run of bytes of a file: where it begins in the file and on the device, and whether another file has it too."""

    start: int
    place: int
    length: int
    shared: bool


def extents(path: str) -> list[Extent] | None:
    """The extents of the file at *path* that have a place; None where its file system does not tell, or it is gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        return list(_extents(descriptor))
    except OSError:
        return None
    finally:
        os.close(descriptor)


def shared_bytes(found: t.Iterable[Extent]) -> int:
    """How many of the bytes other files have too."""
    return sum(extent.length for extent in found if extent.shared)


class Places:
    """The places on a file system that are counted already."""

    def __init__(self) -> None:
        self._taken: list[tuple[int, int]] = []

    def add(self, found: t.Iterable[Extent]) -> int:
        """Takes the shared extents of a file; returns how many of their bytes had been taken before.

        Extents that no other file has cannot have been.
        """
        new = sorted((extent.place, extent.place + extent.length) for extent in found if extent.shared)
        before = sum(end - begin for begin, end in self._taken)
        self._taken = _united(sorted([*self._taken, *new]))
        added = sum(end - begin for begin, end in self._taken) - before
        return sum(end - begin for begin, end in new) - added


def _united(sorted_ranges: t.Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    united: list[tuple[int, int]] = []
    for begin, end in sorted_ranges:
        if united and begin <= united[-1][1]:
            united[-1] = (united[-1][0], max(united[-1][1], end))
        else:
            united.append((begin, end))
    return united


def _extents(descriptor: int) -> t.Iterator[Extent]:
    start = 0
    while True:
        buffer = bytearray(_HEAD.size + _AT_ONCE * _EXTENT.size)
        _HEAD.pack_into(buffer, 0, start, 0xFFFFFFFFFFFFFFFF - start, 0, 0, _AT_ONCE, 0)
        fcntl.ioctl(descriptor, _FIEMAP, buffer)
        count = _HEAD.unpack_from(buffer)[3]
        for number in range(count):
            logical, place, length, flags = _EXTENT.unpack_from(buffer, _HEAD.size + number * _EXTENT.size)
            if not flags & (_UNKNOWN | _INLINE):
                yield Extent(logical, place, length, bool(flags & _SHARED))
            start = logical + length
            if flags & _LAST:
                return
        if not count:
            return
