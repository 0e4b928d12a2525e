# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether QEMU's user gets to a directory: otherwise it says so only when the domain is to start (HAZARDS G22)."""

from __future__ import annotations

import grp
import os
import pwd
import stat
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._errors import InvalidRequest


def require(directory: str, user: t.Callable[[], tuple[int, int] | None], what: str) -> None:
    """Raises InvalidRequest where QEMU's *user* and group cannot get to *directory*, which the parameter *what* means.

    *user* is only asked for where not everybody may pass; None where it is not known. Only root can tell.
    """
    closed = [one for one in _ancestors(directory) if not os.stat(one).st_mode & stat.S_IXOTH]
    who = user() if closed and os.geteuid() == 0 else None
    if who is None or who[0] == 0:
        return
    for one in closed:
        if not _may_pass(one, *who):
            raise InvalidRequest(
                f"{what}: QEMU runs as the user {who[0]}, which may not enter {one} (mode "
                f"{stat.S_IMODE(os.stat(one).st_mode):04o}) to reach {directory}: give it execute permission, or "
                "choose another directory",
                path=one,
            )


def _ancestors(directory: str) -> list[str]:
    """*directory* and all directories on the way to it."""
    found = [os.path.realpath(directory)]
    while found[-1] != "/":
        found.append(os.path.dirname(found[-1]))
    return found


def _may_pass(directory: str, user: int, group: int) -> bool:
    """Whether that user may pass *directory*, which not everybody may; an ACL may let it, which nobody can tell here
    without being that user."""
    if "system.posix_acl_access" in os.listxattr(directory):
        return True
    status = os.stat(directory)
    if status.st_uid == user:
        return bool(status.st_mode & stat.S_IXUSR)
    groups = {group, *(one.gr_gid for one in grp.getgrall() if _name_of(user) in one.gr_mem)}
    return status.st_gid in groups and bool(status.st_mode & stat.S_IXGRP)


def _name_of(user: int) -> str | None:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return None
