# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Block devices as the place of a disk: never made, never removed, only filled where a task says so."""

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
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise ImageInUse(
                f"{path}: is in use: mounted, or part of another device (LVM, RAID, ...): give another one",
                path=path,
                in_use_by=[],
            ) from error
        raise DiskError(f"{path}: cannot be opened: {error.strerror}", path=path) from error
    try:
        return os.lseek(descriptor, 0, os.SEEK_END)
    finally:
        os.close(descriptor)
