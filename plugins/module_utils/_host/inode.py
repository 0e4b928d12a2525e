# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What an inode has beside owner, mode and extended attributes: flags, as chattr(1) shows them, and a project (quotas).

Whether data is copied on write (NOCOW), or compressed, can only be said of an empty file. So a directory says it for
the files that are made in it.
"""

from __future__ import annotations

import fcntl
import os
import struct
import typing as t
from contextlib import contextmanager, suppress

# linux/fs.h; the numbers of the first two calls contain the size of a long, their argument is an int all the same.
_LONG = struct.calcsize("l")
_GET_FLAGS = 0x80006601 | _LONG << 16
_SET_FLAGS = 0x40006602 | _LONG << 16
_GET_ATTRIBUTES, _SET_ATTRIBUTES = 0x801C581F, 0x401C5820
_ATTRIBUTES = struct.Struct("5I8x")  # struct fsxattr: the flags come first, the project fourth
_PROJECT = 3
_INHERITS_PROJECT = 0x200

_NOCOW = 0x800000
_COMPRESSED, _UNCOMPRESSED = 0x4, 0x400
_SYNCHRONOUS, _NOT_DUMPED, _NO_ACCESS_TIMES = 0x8, 0x40, 0x80
_AT_BIRTH = _NOCOW | _COMPRESSED | _UNCOMPRESSED
_AT_ANY_TIME = _SYNCHRONOUS | _NOT_DUMPED | _NO_ACCESS_TIMES


def prepare(directory: str, model: str | None, *, nocow: bool = False) -> None:
    """Has *directory*, which is new, give its files the flags of the file *model*, and NOCOW, that only a new one gets.

    What its file system does not know is left.
    """
    with _opened(directory) as descriptor:
        wanted = _NOCOW if nocow else 0
        if model is not None and os.path.exists(model):
            with _opened(model) as source:
                wanted |= (_flags(source) or 0) & _AT_BIRTH
        _add(descriptor, wanted)


def prepare_file(descriptor: int, model: int) -> None:
    """Gives an empty file the flags of *model*, both open, that only an empty one gets."""
    _add(descriptor, (_flags(model) or 0) & _AT_BIRTH)


def resemble(path: str, model: str) -> None:
    """Gives the file at *path* the other flags of *model*, and, on the same file system, its project."""
    with _opened(path) as descriptor, _opened(model) as source:
        _add(descriptor, (_flags(source) or 0) & _AT_ANY_TIME)
        if os.fstat(descriptor).st_dev == os.fstat(source).st_dev:
            _copy_project(descriptor, source, os.path.dirname(path))


def can_be_nocow(directory: str) -> bool:
    """Whether files in *directory* can be NOCOW: tried with one that has no name."""
    try:
        descriptor = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:
        return False
    try:
        _add(descriptor, _NOCOW)
        return bool((_flags(descriptor) or 0) & _NOCOW)
    finally:
        os.close(descriptor)


def is_nocow(path: str) -> bool:
    """Whether the file at *path* is NOCOW."""
    with _opened(path) as descriptor:
        return bool((_flags(descriptor) or 0) & _NOCOW)


@contextmanager
def _opened(path: str) -> t.Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _flags(descriptor: int) -> int | None:
    """None where the file system knows no flags."""
    try:
        return t.cast(int, struct.unpack("i4x", fcntl.ioctl(descriptor, _GET_FLAGS, bytes(8)))[0])
    except OSError:
        return None


def _add(descriptor: int, wanted: int) -> None:
    found = _flags(descriptor)
    if found is not None and wanted & ~found:
        with suppress(OSError):
            fcntl.ioctl(descriptor, _SET_FLAGS, struct.pack("i4x", found | wanted))


def _copy_project(descriptor: int, source: int, directory: str) -> None:
    """The project of *source*, unless the *directory* has all files in it be of its own."""
    own, wanted = _attributes(descriptor), _attributes(source)
    if own is None or wanted is None or own[_PROJECT] == wanted[_PROJECT]:
        return
    with _opened(directory) as above:
        around = _attributes(above)
    if around is not None and around[0] & _INHERITS_PROJECT and around[_PROJECT] != wanted[_PROJECT]:
        return
    own[_PROJECT] = wanted[_PROJECT]
    with suppress(OSError):
        fcntl.ioctl(descriptor, _SET_ATTRIBUTES, _ATTRIBUTES.pack(*own))


def _attributes(descriptor: int) -> list[int] | None:
    try:
        return list(_ATTRIBUTES.unpack(fcntl.ioctl(descriptor, _GET_ATTRIBUTES, bytes(_ATTRIBUTES.size))))
    except OSError:
        return None
