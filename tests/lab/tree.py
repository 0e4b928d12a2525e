# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The state of a directory tree, to prove that nothing was written."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import NamedTuple


class Entry(NamedTuple):
    """One file, directory or link; `content` is the SHA-256 of a file, or a link's target."""

    content: str
    mode: int
    uid: int
    gid: int
    size: int
    inode: int
    mtime_ns: int
    xattrs: tuple[tuple[str, bytes], ...]


def tree_state(directory: Path) -> dict[str, Entry]:
    """Every path below DIRECTORY, relative to it ("." is DIRECTORY itself), with its state."""
    paths = [directory, *directory.rglob("*")]
    return {str(path.relative_to(directory)): _entry(path) for path in paths}


def _entry(path: Path) -> Entry:
    status = path.lstat()
    content = ""
    if stat.S_ISREG(status.st_mode):
        with open(path, "rb") as handle:
            content = hashlib.file_digest(handle, "sha256").hexdigest()
    elif stat.S_ISLNK(status.st_mode):
        content = os.readlink(path)
    names = sorted(os.listxattr(path, follow_symlinks=False))
    xattrs = tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in names)
    size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
    return Entry(content, status.st_mode, status.st_uid, status.st_gid, size, status.st_ino, status.st_mtime_ns, xattrs)
