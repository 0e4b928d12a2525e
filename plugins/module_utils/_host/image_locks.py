# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""QEMU's locks on an image: whether somebody has it open."""

from __future__ import annotations

import fcntl
import os
import struct

# QEMU's locks on an image are OFD locks on single bytes: 100+i for a permission that somebody has, 200+i for one that
# somebody does not let others have (block/file-posix.c).
_HAS, _UNSHARES = 100, 200
_WRITE, _RESIZE = 1, 3
_FLOCK = struct.Struct("hhqqi4x")
_F_OFD_GETLK = getattr(fcntl, "F_OFD_GETLK", 36)


def is_locked(path: str, *, against_readers: bool = False) -> bool:
    """Whether a process has the image open for writing, or reads it in a way that forbids writing (HAZARDS B5).

    *against_readers* leaves the latter out: such an image may be read beside them.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        bytes_of_writers = (_HAS + _WRITE, _HAS + _RESIZE)
        asked = bytes_of_writers if against_readers else (*bytes_of_writers, _UNSHARES + _WRITE)
        return any(_is_byte_locked(descriptor, byte) for byte in asked)
    finally:
        os.close(descriptor)


def can_be_asked(path: str) -> bool:
    """Whether is_locked() can tell: not of a file that is there and may not be read."""
    return os.access(path, os.R_OK, effective_ids=True) or not os.path.exists(path)


def _is_byte_locked(descriptor: int, byte: int) -> bool:
    asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
    return bool(_FLOCK.unpack(fcntl.fcntl(descriptor, _F_OFD_GETLK, asked))[0] != fcntl.F_UNLCK)
