# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The state of a directory tree, to prove that nothing was written."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

BLOCK = 1 << 16


class Entry(NamedTuple):
    """One file, directory or link; `content` is the digest of a file, or a link's target."""

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


def file_digest(path: Path, length: int | None = None) -> str:
    """The digest of the first LENGTH bytes of a file; holes are not read, however large they are."""
    with open(path, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        length = size if length is None else min(length, size)
        return content_digest(_blocks_with_data(file.fileno(), length), length)


def content_digest(blocks: Iterable[tuple[int, bytes]], size: int) -> str:
    """The SHA-256 of those BLOCKs of a content of SIZE bytes, with their offsets, that are not zeros."""
    digest = hashlib.sha256()
    for offset, block in blocks:
        if block.count(0) != len(block):
            digest.update(b"%d:" % offset + block)
    digest.update(b"%d" % size)
    return digest.hexdigest()


def _blocks_with_data(descriptor: int, length: int) -> Iterator[tuple[int, bytes]]:
    end = 0
    while end < length and (begin := _next_data(descriptor, end)) is not None:
        end = os.lseek(descriptor, begin, os.SEEK_HOLE)
        end += -end % BLOCK
        for offset in range(begin - begin % BLOCK, min(end, length), BLOCK):
            yield offset, os.pread(descriptor, min(BLOCK, length - offset), offset)


def _next_data(descriptor: int, offset: int) -> int | None:
    try:
        return os.lseek(descriptor, offset, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        raise


def _entry(path: Path) -> Entry:
    status = path.lstat()
    content = ""
    if stat.S_ISREG(status.st_mode):
        content = file_digest(path)
    elif stat.S_ISLNK(status.st_mode):
        content = os.readlink(path)
    names = sorted(os.listxattr(path, follow_symlinks=False))
    xattrs = tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in names)
    size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
    return Entry(content, status.st_mode, status.st_uid, status.st_gid, size, status.st_ino, status.st_mtime_ns, xattrs)
