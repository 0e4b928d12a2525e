# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An initramfs: a cpio archive in the newc format, as the kernel's early-userspace documentation describes it."""

from __future__ import annotations

import gzip
import io
import stat
from pathlib import Path


class Initramfs:
    """Collects directories, files and links; `write` puts the compressed archive into a file."""

    def __init__(self) -> None:
        self._archive = io.BytesIO()
        self._inode = 0

    def directory(self, name: str) -> None:
        self._entry(name, stat.S_IFDIR | 0o755)

    def file(self, name: str, content: bytes, mode: int = 0o755) -> None:
        self._entry(name, stat.S_IFREG | mode, content)

    def link(self, name: str, target: str) -> None:
        self._entry(name, stat.S_IFLNK | 0o777, target.encode())

    def character_device(self, name: str, major: int, minor: int) -> None:
        self._entry(name, stat.S_IFCHR | 0o600, device=(major, minor))

    def write(self, path: Path) -> None:
        self._entry("TRAILER!!!", 0)
        # The same input gives the same bytes: no name and no time in the gzip header.
        with open(path, "wb") as out, gzip.GzipFile("", "wb", compresslevel=6, fileobj=out, mtime=0) as packed:
            packed.write(self._archive.getvalue())

    def _entry(self, name: str, mode: int, content: bytes = b"", device: tuple[int, int] = (0, 0)) -> None:
        self._inode += 1
        encoded = name.encode() + b"\0"
        fields = (self._inode, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(encoded), 0)
        self._archive.write(b"070701" + "".join(f"{field:08X}" for field in fields).encode() + encoded)
        self._align()
        self._archive.write(content)
        self._align()

    def _align(self) -> None:
        self._archive.write(b"\0" * (-self._archive.tell() % 4))
