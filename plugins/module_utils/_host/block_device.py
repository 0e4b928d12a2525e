# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Block devices as the place of a disk: never made, never removed; read, and only filled where a task says so."""

from __future__ import annotations

import errno
import os
import stat

from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, ImageInUse


def is_block_device(path: str) -> bool:
    """Whether a block device is at *path*, by whatever link."""
    try:
        return stat.S_ISBLK(os.stat(path).st_mode)
    except OSError:
        return False


def free_bytes(path: str) -> int:
    """The size of the device in bytes. Raises ImageInUse where it is mounted, or part of another device."""
    descriptor = _alone(path, os.O_RDWR)
    try:
        return os.lseek(descriptor, 0, os.SEEK_END)
    finally:
        os.close(descriptor)


def require_idle(path: str) -> None:
    """Raises ImageInUse where the device is mounted, or part of another one, so that what is read of it is no disk."""
    os.close(_alone(path, os.O_RDONLY))


def last_write(path: str) -> tuple[int, int]:
    """How many sectors the kernel has written to the device, and discarded: equal as long as nobody writes.

    Its node says nothing of that (HAZARDS G26). What others wrote before this call counts, and is flushed for that,
    which is no write itself (admin-guide/iostats of the kernel).
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
        number = os.fstat(descriptor).st_rdev
    finally:
        os.close(descriptor)
    with open(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/stat", encoding="ascii") as stream:
        figures = stream.read().split()
    return int(figures[6]), int(figures[13])


def _alone(path: str, access: int) -> int:
    """The device open, for nobody else to mount or take."""
    try:
        return os.open(path, access | os.O_EXCL | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise ImageInUse(
                f"{path}: is in use: mounted, or part of another device (LVM, RAID, ...): give another one",
                path=path,
                in_use_by=[],
            ) from error
        raise DiskError(f"{path}: cannot be opened: {error.strerror}", path=path) from error
