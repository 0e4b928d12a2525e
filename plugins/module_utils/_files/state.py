# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The door to state files: what runs write beside images, for the runs that come later.

Whoever may write in a directory can put a file at such a name. So one counts only if it is a regular file with one name
that belongs to root or to the user of this run, and that no other user may write. It is opened without following a link
and without waiting for anybody. What is not believed is named, and left where it is.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._errors import NotBelieved

#: Bytes that a state file has at most: records of a thousand clones have a tenth of it.
LONGEST = 1 << 20
_TO_LOOK = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
_TO_HOLD = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
_KINDS = (
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISREG, "a file"),
)
#: What open(2) says of a link, a directory that is to be written, a socket.
_NO_REGULAR_FILE = (errno.ELOOP, errno.EISDIR, errno.ENXIO)


def look(name: str) -> int:
    """The state file at *name*, open to be read.

    Raises FileNotFoundError where there is none, another OSError where this user may not read it, NotBelieved.
    """
    return _opened(name, _TO_LOOK, 0)


def hold(name: str, mode: int, *, make: bool) -> int:
    """The state file at *name*, open to be written. Where there is none, *make* has it made, with the permission bits
    *mode*.

    Raises OSError where that cannot be, NotBelieved.
    """
    return _opened(name, _TO_HOLD | (os.O_CREAT if make else 0), mode)


def content(descriptor: int, name: str) -> bytes:
    """All that stands in an open state file. Raises NotBelieved where that is more than any run writes."""
    written = os.pread(descriptor, LONGEST + 1, 0)
    if len(written) > LONGEST:
        raise not_believed(name, f"it is longer than {LONGEST} bytes")
    return written


def has_directory(name: str) -> bool:
    """Whether the directory at *name*, in which files are made, is there. Raises NotBelieved where it is not ours."""
    try:
        status = os.lstat(name)
    except FileNotFoundError:
        return False
    require_own_directory(status, name)
    return True


def require_own_directory(status: os.stat_result, name: str) -> None:
    """Raises NotBelieved where what has that *status*, and stands at *name*, is no directory of ours."""
    if not stat.S_ISDIR(status.st_mode):
        raise not_believed(name, f"it is {_kind(status.st_mode)}")
    _require_owner(status, name)


def not_believed(name: str, reason: str) -> NotBelieved:
    """What to say of the state at *name* that counts for nothing, for that *reason*."""
    return NotBelieved(
        f"{name}: stands where kvmops.disk keeps what it notes of an image, and is not believed, because {reason}: "
        "it was left alone: find out who put it there, and remove it when no run is at work on that image",
        path=name,
    )


def parsed(written: bytes) -> t.Any:
    """What the JSON in a state file says. Raises ValueError where it is none, or nested deeper than any run writes."""
    try:
        return json.loads(written)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def is_name(value: object) -> bool:
    """Whether *value*, from a state file, could be the absolute path of a file."""
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
        return False
    try:
        os.fsencode(value)
    except UnicodeEncodeError:
        return False
    return True


def is_number(value: object) -> bool:
    """Whether *value*, from a state file, is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_identity(value: object) -> bool:
    """Whether *value*, from a state file, could be the identity of a file (same_file.file_identity)."""
    return isinstance(value, list) and len(value) == 2 and all(map(is_number, value))


def _opened(name: str, flags: int, mode: int) -> int:
    try:
        descriptor = os.open(name, flags, mode)
    except OSError as error:
        if error.errno in _NO_REGULAR_FILE:
            raise not_believed(name, _kind_at(name)) from error
        raise
    try:
        _require_ours(os.fstat(descriptor), name)
    except NotBelieved:
        os.close(descriptor)
        raise
    return descriptor


def _require_ours(status: os.stat_result, name: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise not_believed(name, f"it is {_kind(status.st_mode)}")
    _require_owner(status, name)
    if status.st_nlink > 1:
        raise not_believed(name, f"it has {status.st_nlink} names")


def _require_owner(status: os.stat_result, name: str) -> None:
    if status.st_uid not in (0, os.geteuid()):
        raise not_believed(name, f"it belongs to the user with the number {status.st_uid}")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise not_believed(name, f"others may write it (mode {stat.S_IMODE(status.st_mode):04o})")


def _kind_at(name: str) -> str:
    try:
        return f"it is {_kind(os.lstat(name).st_mode)}"
    except OSError:
        return "it is no regular file"


def _kind(mode: int) -> str:
    return next((words for is_one, words in _KINDS if is_one(mode)), "no regular file")
