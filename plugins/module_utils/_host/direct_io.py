# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Of how many bytes the size of a raw image has to be a multiple for QEMU to open it past the page cache (HAZARDS P7).

QEMU (find_request_alignment in block/file-posix.c) reads at the beginning of the file in longer and longer steps, and
takes the first that the kernel grants. Where the kernel grants one byte, as it does where a file begins with a hole,
QEMU takes a whole page. So qemu-img has no image begin with a hole.
"""

from __future__ import annotations

import mmap
import os

from ansible_collections.kvmops.disk.plugins.module_utils._size import SECTOR

_STEPS = (1, 512, 1024, 2048, 4096)
_LEAST_PAGE = 4096


def alignment(path: str) -> int:
    """The bytes of a step for the image at *path*, which may not be there yet.

    A new one is tried with a file that has no name. A sector where nothing is possible past the page cache, or nobody
    can tell.
    """
    try:
        descriptor = _opened(path) if os.path.exists(path) else _new_file(os.path.dirname(path))
    except OSError:
        return SECTOR
    try:
        return _smallest_step(descriptor)
    finally:
        os.close(descriptor)


def _opened(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC | os.O_NONBLOCK)


def _new_file(directory: str) -> int:
    """A file in *directory* that begins with data, as one of qemu-img's does."""
    descriptor = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC, 0o600)
    try:
        with mmap.mmap(-1, _STEPS[-1]) as zeros:
            os.pwrite(descriptor, zeros, 0)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _smallest_step(descriptor: int) -> int:
    page = max(mmap.PAGESIZE, _LEAST_PAGE)
    with mmap.mmap(-1, _STEPS[-1]) as buffer:
        for step in _STEPS:
            with memoryview(buffer) as whole, whole[:step] as piece:
                try:
                    os.preadv(descriptor, [piece], 0)
                except OSError:
                    continue
                return step if step > 1 else page
    return page
