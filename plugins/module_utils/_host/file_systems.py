# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a file system has, what is left of it, and how long a file on it may be. What it does not tell is None."""

from __future__ import annotations

import os
import stat

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass

_LONGEST = (1 << 63) - 1


@dataclass(frozen=True)
class Room:
    """The bytes that a file system has, that are used, and that a user without rights may still write: QEMU's user has
    no part in what ext4 reserves for root, and root does better without."""

    size: int
    used: int
    available: int


def room(directory: str) -> Room | None:
    """The room on the file system of *directory*; None where it does not tell, as ramfs, which says that it has 0."""
    status = os.statvfs(directory)
    if not status.f_blocks:
        return None
    used = status.f_blocks - status.f_bfree
    return Room(*(blocks * status.f_frsize for blocks in (status.f_blocks, used, status.f_bavail)))


def longest_file(directory: str) -> int | None:
    """The bytes that a file in *directory* may have at most; None where there is no file to ask.

    The kernel has no call for that, but refuses to seek beyond it (generic_file_llseek in fs/read_write.c). Nothing is
    written: the file has no name, or is one that is there.
    """
    descriptor = _some_file(directory)
    if descriptor is None:
        return None
    try:
        fits, beyond = 0, _LONGEST + 1
        while beyond - fits > 1:
            position = (fits + beyond) // 2
            if _can_seek(descriptor, position):
                fits = position
            else:
                beyond = position
        return fits
    finally:
        os.close(descriptor)


def _some_file(directory: str) -> int | None:
    """A descriptor of a file in *directory*: a new one without a name where the file system has such, or any."""
    try:
        return os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:
        pass
    try:
        with os.scandir(directory) as entries:
            names = [entry.path for entry in entries if entry.is_file(follow_symlinks=False)]
    except OSError:
        return None
    for name in names:
        try:
            descriptor = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor
        os.close(descriptor)
    return None


def _can_seek(descriptor: int, position: int) -> bool:
    try:
        os.lseek(descriptor, position, os.SEEK_SET)
    except OSError:
        return False
    return True
