# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether QEMU's user gets to a directory, and may write an image, and whether this process may.

Otherwise it is only said when the domain is to start (HAZARDS G22), or in the middle of the work.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, InvalidRequest, NotPermitted

_WRITABLE = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH
_ACL = "system.posix_acl_access"


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


def require_writable(path: str, to_do: str) -> None:
    """Raises DiskError where this process may not write the file at *path*: by its mode, or as its file system is
    read-only, which even root may not."""
    if os.access(path, os.W_OK, effective_ids=True):
        return
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        raise DiskError(f"{path}: its file system is mounted read-only, asked to {to_do}: mount it writable", path=path)
    raise NotPermitted(f"{path}: no permission to write to it, asked to {to_do}", path=path)


def require_writable_by_qemu(
    path: str, user: t.Callable[[], tuple[int, int] | None], to_do: str, later: int | None = None
) -> None:
    """Raises DiskError where QEMU may not write the file at *path*; by then its permission bits are *later*, if given.

    libvirt gives QEMU's *user* the images of a domain, and leaves their mode, so that the owner's permission counts;
    where it does not, that of the others may, too. *user* is only asked for where somebody may not write; None where
    QEMU runs as whoever asks. QEMU as root may have the rights of root, or not.
    """
    require_writable(path, to_do)
    status = os.stat(path)
    mode = stat.S_IMODE(status.st_mode) if later is None else later
    if mode & stat.S_IWUSR or _ACL in os.listxattr(path):
        return
    who = user()
    if who is None or who[0] == 0:
        return
    if not mode & _WRITABLE or status.st_uid == who[0]:
        raise DiskError(
            f"{path}: its mode {mode:04o} does not let QEMU (user {who[0]}) write to it, asked "
            f"to {to_do}: chmod u+w it first, if nothing else needs it as it is",
            path=path,
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
    if _ACL in os.listxattr(directory):
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
