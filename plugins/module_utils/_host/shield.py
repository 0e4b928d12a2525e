# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A view of the files in which no link of another user is followed, by this process or by a program that it runs.

Whoever may exchange the names in a directory can put a link there between any look at a name and its use. So the
directory is mounted over itself with the flag ``nosymfollow`` (mount(2), Linux 5.10), in a mount namespace of this
process alone: the kernel then refuses every link below, whoever put it there and whenever. All names stay what they
are, and nobody else sees anything of it.
"""

from __future__ import annotations

import ctypes
import os
import struct

from ansible_collections.kvmops.disk.plugins.module_utils._host.mounts import OWN

_CLONE_NEWNS = 0x00020000
_MS_BIND, _MS_REC, _MS_SLAVE = 0x1000, 0x4000, 0x80000
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_MOUNT_ATTR_NOSYMFOLLOW = 0x00200000
_MOUNT_SETATTR = 442  # the same on all architectures
_ST_NOSYMFOLLOW = 0x2000


def shield(directory: str) -> bool:
    """Has no link below *directory*, a name without links, followed from now on, by this process and its children.

    False where this kernel, or this user, cannot do that. Call it before there are threads.
    """
    if any(directory == one or directory.startswith(f"{one}/") for one in OWN):
        return True
    libc = ctypes.CDLL(None, use_errno=True)
    place = os.fsencode(directory)
    if not OWN and (libc.unshare(_CLONE_NEWNS) or libc.mount(b"none", b"/", None, _MS_REC | _MS_SLAVE, None)):
        return False
    if libc.mount(place, place, None, _MS_BIND | _MS_REC, None):
        return False
    wanted = struct.pack("=QQQQ", _MOUNT_ATTR_NOSYMFOLLOW, 0, 0, 0)
    libc.syscall(_MOUNT_SETATTR, _AT_FDCWD, place, _AT_RECURSIVE, wanted, len(wanted))
    if not os.statvfs(directory).f_flag & _ST_NOSYMFOLLOW:
        return False
    OWN.append(directory)
    return True
