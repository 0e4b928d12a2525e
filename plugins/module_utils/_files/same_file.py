# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which file stands at a path, and whether it is still the one, and as it was, that was looked at."""

from __future__ import annotations

import os

from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError
from ansible_collections.kvmops.disk.plugins.module_utils._host import block_device as _block_device


def file_identity(path: str) -> list[int]:
    """Device and inode, in a shape that a record can hold."""
    status = os.stat(path, follow_symlinks=False)
    return [status.st_dev, status.st_ino]


def is_file(path: str, identity: object) -> bool:
    """Whether the file at *path* is the one that had *identity*."""
    try:
        return bool(file_identity(path) == identity)
    except (FileNotFoundError, NotADirectoryError):
        return False


def last_write(path: str) -> tuple[int, int]:
    """When the file at *path* was last written to (ns), and its length, or what has been written to the block device
    there: equal as long as nobody writes."""
    if _block_device.is_block_device(path):
        return _block_device.last_write(path)
    status = os.stat(path)
    return status.st_mtime_ns, status.st_size


def replaced_meanwhile(path: str) -> DiskError:
    """What to say where another file stands at *path* than the one that was looked at."""
    return DiskError(
        f"{path}: is no longer the file that was looked at: what stands there now is left alone: run again",
        path=path,
    )
