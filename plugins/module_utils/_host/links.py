# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Symbolic links that somebody else may have put in the way of a path: to follow one does to his choice of a file what
was meant for another."""

from __future__ import annotations

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
    """The first link on the absolute *path* that others than root and the user of this run could have put there.

    None where there is none; what does not exist, or cannot be looked at, leads nowhere.
    """
    left = [part for part in path.split("/") if part not in ("", ".")][::-1]
    place, followed = "/", 0
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
        left += [part for part in target.split("/") if part not in ("", ".")][::-1]
    return None


def _stranger(link: os.stat_result, directory: os.stat_result) -> int | None:
    """Who else than root and this user could have put the *link* into its *directory*; None for nobody."""
    ours = (0, os.geteuid())
    if link.st_uid not in ours:
        return link.st_uid
    if directory.st_uid not in ours:
        return directory.st_uid
    writable = directory.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return directory.st_uid if writable and not directory.st_mode & stat.S_ISVTX else None
