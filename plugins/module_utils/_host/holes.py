# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a file system tells truly where the holes of its files are (HAZARDS P6).

QEMU asks it by lseek(2), takes what it calls a hole for zeros, and reads nothing there. A comparison by QEMU asks the
same, so that it proves nothing where the answer is wrong.
"""

from __future__ import annotations

import os
import stat

from ansible_collections.kvmops.disk.plugins.module_utils._host.mounts import Mounts

#: The types, as the kernel names them, that answer from the tables that lead to the data itself. Others were wrong at
#: times (zfs), or pass on what a file system that nobody sees says (nfs, fuse, overlay).
_TRUE = frozenset(("btrfs", "ext2", "ext3", "ext4", "ramfs", "tmpfs", "xfs"))


def are_told_truly(path: str) -> bool:
    """Whether what is said of the holes of the file at *path* can be believed. A device has none; nothing does, too."""
    try:
        status = os.stat(path)
    except OSError:
        return True
    if not stat.S_ISREG(status.st_mode):
        return True
    mount = Mounts.now().of(path, status.st_dev)
    return mount is not None and mount.type in _TRUE
