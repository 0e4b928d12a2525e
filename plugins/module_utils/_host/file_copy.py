# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A copy of a file, byte for byte, whose holes stay holes; on a file system with reflinks it shares the blocks.

Where the file system may not tell holes truly (HAZARDS P6), all is read, and what is zero becomes a hole.
"""

from __future__ import annotations

import errno
import fcntl
import os
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError
from ansible_collections.kvmops.disk.plugins.module_utils._host.holes import are_told_truly
from ansible_collections.kvmops.disk.plugins.module_utils._host.inode import prepare_file

_FICLONE = 0x40049409  # _IOW(0x94, 9, int) in linux/fs.h
_CHUNK = 16 << 20
_PIECE = 1 << 20
#: What copy_file_range(2) says where it cannot copy between the two.
_NOT_BETWEEN_THESE = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


def copy_file(source: str, target: str, report: t.Callable[[float], None] | None = None) -> None:
    """Makes *target*, which must not exist, the same as *source*. Not synced.

    *report* is told how much has been copied, in percent. Raises DiskError where the file system is full, say.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        with open(source, "rb", buffering=0) as old, os.fdopen(os.open(target, flags, 0o600), "r+b", 0) as new:
            if not _shares_blocks(old.fileno(), new.fileno()):
                copy = _copy_data if are_told_truly(source) else _copy_all
                copy(old.fileno(), new.fileno(), report or (lambda _percent: None))
    except OSError as error:
        raise DiskError(f"{source}: cannot be copied to {target}: {error.strerror}", path=source) from error


def _shares_blocks(old: int, new: int) -> bool:
    try:
        fcntl.ioctl(new, _FICLONE, old)
    except OSError:
        return False
    return True


def _copy_data(old: int, new: int, report: t.Callable[[float], None]) -> None:
    length = os.fstat(old).st_size
    os.ftruncate(new, length)
    for start, end in _data(old, length):
        at = start
        while at < end:
            copied = _copy_range(old, new, at, min(end - at, _CHUNK))
            if not copied:  # the file has become shorter: whoever asked finds that out
                return
            at += copied
            report(100 * at / length)


def _copy_all(old: int, new: int, report: t.Callable[[float], None]) -> None:
    length = os.fstat(old).st_size
    os.ftruncate(new, length)
    for at in range(0, length, _PIECE):
        piece = os.pread(old, _PIECE, at)
        if piece.strip(b"\0"):
            _write_all(new, piece, at)
        report(100 * at / length)


def _write_all(descriptor: int, piece: bytes, at: int) -> None:
    left = memoryview(piece)
    while left:
        written = os.pwrite(descriptor, left, at)
        left, at = left[written:], at + written


def _data(descriptor: int, length: int) -> t.Iterator[tuple[int, int]]:
    """The ranges of a file that are no holes."""
    end = 0
    while end < length:
        try:
            start = os.lseek(descriptor, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole is left
                return
            raise
        end = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start, end


def _copy_range(old: int, new: int, at: int, length: int) -> int:
    try:
        return os.copy_file_range(old, new, length, at, at)
    except OSError as error:
        if error.errno not in _NOT_BETWEEN_THESE:
            raise
    return os.pwrite(new, os.pread(old, length, at), at)


#: _IOW(0x94, 9, int), linux/fs.h: gives one file the extents of another.
_FICLONE = 0x40049409


def reflink(source: int, target: int) -> None:
    """Has the file open as *target* share the blocks of the one open as *source*. Raises OSError where it cannot."""
    fcntl.ioctl(target, _FICLONE, source)


def can_reflink(path: str, directory: str) -> bool:
    """Whether a file in *directory* can share the blocks of *path*: tried with a file that has no name."""
    try:
        with open(path, "rb") as source:
            target = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
            try:
                prepare_file(target, source.fileno())
                reflink(source.fileno(), target)
            finally:
                os.close(target)
    except OSError:
        return False
    return True
