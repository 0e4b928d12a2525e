# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A directory that stays the one that was opened, whatever somebody else puts at its name.

Its files have names below ``/proc/PID/fd``, by which the kernel, for this process and those that it starts, goes to the
directory itself and looks at no other name. No person knows them: told() says what they were called.
"""

from __future__ import annotations

import os
import re
import typing as t
from contextlib import contextmanager

#: What the directories that were opened were called, by their names below /proc.
_CALLED: dict[str, str] = {}
_BY_DESCRIPTOR = r"/proc/(?:\d+|self)/fd/\d+"


class Directory:
    """The directory at *path*, which is open until close(). *path*: its own name, which holds as long as it is open.

    *follow*: it may be a link. Raises OSError where it cannot be opened.
    """

    def __init__(self, path: str, *, follow: bool = False) -> None:
        found = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
        self._descriptor = os.open(path, found if follow else found | os.O_NOFOLLOW)
        self.path = f"/proc/{os.getpid()}/fd/{self._descriptor}"
        _CALLED[self.path] = told(path)

    def status(self) -> os.stat_result:
        return os.fstat(self._descriptor)

    def join(self, name: str) -> str:
        """The name of a file in it."""
        return f"{self.path}/{name}"

    def close(self) -> None:
        """Gives its names back; nothing to do where that is done."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


@contextmanager
def opened(path: str, *, follow: bool = False) -> t.Iterator[Directory]:
    """The directory at *path*, open for the length of the block."""
    directory = Directory(path, follow=follow)
    try:
        yield directory
    finally:
        directory.close()


@contextmanager
def opened_file(path: str) -> t.Iterator[int]:
    """A descriptor of the file at *path*, by which it is found, no more, for the length of the block."""
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    _CALLED[own_name(descriptor)] = told(path)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def own_name(descriptor: int) -> str:
    """What this process, or one that has inherited it, calls the file behind *descriptor*."""
    return f"/proc/self/fd/{descriptor}"


def is_within(path: str) -> bool:
    """Whether *path* leads to a file by a directory that was opened."""
    return re.match(_BY_DESCRIPTOR, path) is not None


def told(text: str) -> str:
    """*text* with the names that a person knows in the place of those below an open directory."""
    if not _CALLED or "/proc/" not in text:
        return text
    return re.sub(_BY_DESCRIPTOR, lambda found: _CALLED.get(found[0], found[0]), text)
