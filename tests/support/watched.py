# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a file was opened by anybody, told by the kernel (inotify)."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_IN_OPEN = 0x20
_EVENT = struct.Struct("iIII")


@contextmanager
def opened_files(*paths: Path) -> Iterator[set[Path]]:
    """The set has, after the block, those of PATHS that were opened meanwhile."""
    libc = ctypes.CDLL(None, use_errno=True)
    watch = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    numbers = {libc.inotify_add_watch(watch, os.fsencode(path), _IN_OPEN): path for path in paths}
    assert watch >= 0
    assert min(numbers) >= 0
    opened: set[Path] = set()
    try:
        yield opened
        opened.update(numbers[number] for number in _events(watch))
    finally:
        os.close(watch)


def _events(watch: int) -> Iterator[int]:
    while True:
        try:
            data = os.read(watch, 65536)
        except BlockingIOError:
            return
        at = 0
        while at < len(data):
            number, _mask, _cookie, length = _EVENT.unpack_from(data, at)
            yield number
            at += _EVENT.size + length
