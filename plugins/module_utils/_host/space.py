# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The blocks of a file: whether it has all of them, and how it gets them."""

from __future__ import annotations

import os

from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError


def has_no_holes(path: str) -> bool:
    """Whether the file at *path* occupies all of its length."""
    status = os.stat(path)
    return status.st_blocks * 512 >= status.st_size > 0


def reserve(path: str) -> None:
    """Reserves the blocks of all holes in *path*; what anybody reads there, or writes meanwhile, stays.

    Not by posix_fallocate, which writes where a file system cannot reserve: that would cross a guest's own writes.
    """
    import ctypes

    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        length = os.fstat(descriptor).st_size
        if libc.fallocate64(descriptor, 0, ctypes.c_int64(0), ctypes.c_int64(length)):
            code = ctypes.get_errno()
            raise DiskError(f"{path}: its space cannot be reserved: {os.strerror(code)}", path=path)
    finally:
        os.close(descriptor)
