# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where somebody else than root and the user of this run decides what a path leads to: by a link on it, or because he
may exchange the files of a directory."""

from __future__ import annotations

import errno
import os
import stat
import typing as t

#: Links in a row that the kernel follows (path_resolution(7)).
_MOST_LINKS = 40


class ForeignLink(t.NamedTuple):
    """A link on a path: its own *path*, where it leads, and the *owner* (a user's number) of it or of its directory."""

    path: str
    target: str
    owner: int


def foreign_link(path: str) -> ForeignLink | None:
    """The first link on the absolute *path* that somebody else could have put there; None where there is none.

    What does not exist, or cannot be looked at, leads nowhere.
    """
    left, place, followed = _parts(path), "/", 0
    while left:
        part = left.pop()
        if part == "..":
            place = os.path.dirname(place)
            continue
        found = os.path.join(place, part)
        try:
            status = os.lstat(found)
            target = os.readlink(found) if stat.S_ISLNK(status.st_mode) else None
        except OSError:
            return None
        if target is None:
            place = found
            continue
        owner = _stranger(status, os.lstat(place))
        if owner is not None:
            return ForeignLink(found, target, owner)
        followed += 1
        if followed > _MOST_LINKS:
            return None
        place = "/" if target.startswith("/") else place
        left += _parts(target)
    return None


def open_directory(path: str) -> str | None:
    """The uppermost directory above *path* in which somebody else may exchange names; None where there is
    none. A sticky one is none: there he may exchange his own names only."""
    place = ""
    for part in os.path.realpath(os.path.dirname(path)).split("/"):
        place = f"{place.rstrip('/')}/{part}"
        try:
            status = os.lstat(place)
        except OSError:
            return None
        if stat.S_ISDIR(status.st_mode) and _owner_of_names(status) is not None:
            return place
    return None


def _parts(path: str) -> list[str]:
    """The names in *path*, the last one first."""
    return [part for part in path.split("/") if part not in ("", ".")][::-1]


def _stranger(link: os.stat_result, directory: os.stat_result) -> int | None:
    """Who else could have put the *link* into its *directory*; None for nobody."""
    return link.st_uid if link.st_uid not in (0, os.geteuid()) else _owner_of_names(directory)


def _owner_of_names(directory: os.stat_result) -> int | None:
    """The owner of a directory in which others may exchange names; None where they may not."""
    writable = directory.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not directory.st_mode & stat.S_ISVTX
    return directory.st_uid if writable or directory.st_uid not in (0, os.geteuid()) else None


def place_of(path: str) -> str:
    """Where the file at *path* lies, as the kernel goes there: over no link that it was told to refuse (shield).

    realpath(3) reads each link, and so follows what the kernel would not. Raises OSError where no file is found, or
    where it has left its place by then: the kernel gives such a file a name that another one may have.
    """
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        place = os.readlink(f"/proc/self/fd/{descriptor}")
        if not os.path.samestat(os.fstat(descriptor), os.lstat(place)):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return place
    finally:
        os.close(descriptor)
