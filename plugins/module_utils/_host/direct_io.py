# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Of how many bytes the size of a raw image has to be a multiple for QEMU to open it past the page cache (HAZARDS P7).

QEMU (find_request_alignment in block/file-posix.c) reads at the beginning of the file in longer and longer steps, and
takes the first that the kernel grants. Where the kernel grants one byte, as it does where a file begins with a hole,
QEMU takes a whole page. Every image may come to begin so, by a discard of its guest.
"""

from __future__ import annotations

import mmap
import os

from ansible_collections.kvmops.disk.plugins.module_utils._size import SECTOR

_STEPS = (1, 512, 1024, 2048, 4096)
_LEAST_PAGE = 4096


def alignment(directory: str) -> int:
    """The bytes of a step in *directory*; a sector where nothing past the page cache is possible, or nobody can tell.

    It is tried with a file that has no name, and no content.
    """
    flags = os.O_TMPFILE | os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC
    try:
        descriptor = os.open(directory, flags, 0o600)
    except OSError:
        return SECTOR
    try:
        os.ftruncate(descriptor, 2 * _STEPS[-1])
        return _smallest_step(descriptor)
    finally:
        os.close(descriptor)


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
