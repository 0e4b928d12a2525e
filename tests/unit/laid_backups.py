# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups as they stand in a directory, as far as their lengths, hashes and headers go."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

from ansible_collections.kvmops.disk.plugins.module_utils._backup import manifest
from ansible_collections.kvmops.disk.plugins.module_utils._backup.manifest import BackupDisk, BackupFile, Manifest

UUID = "11111111-2222-3333-4444-555555555555"
SIZE = 1 << 20


def image(backing: str | None = None, size: int = SIZE) -> bytes:
    """A qcow2 image, as far as its header goes."""
    name = (backing or "").encode()
    extension = struct.pack(">II8s", 0xE2792ACA, 5, b"qcow2") if backing else b""
    head = struct.pack(
        ">4sIQIIQIIQQIIQ", b"QFI\xfb", 3, 512 if backing else 0, len(name), 16, size, 0, 1, 1, 1, 1, 0, 0
    )
    return (head + struct.pack(">QQQII", 0, 0, 0, 4, 104) + extension).ljust(512, b"\0") + name.ljust(512, b"\0")


def lay(dest: Path, name: str, parent: str | None = None, *, content: bytes | None = None) -> Path:
    """A backup NAME in DEST."""
    directory = dest / UUID / name
    directory.mkdir(parents=True)
    backing = manifest.reference(parent, "vda") if parent else None
    files = {"domain.xml": b"<domain/>", "vda.qcow2": image(backing) if content is None else content}
    for file, written in files.items():
        (directory / file).write_bytes(written)
    facts = {file: BackupFile(len(one), hashlib.sha256(one).hexdigest()) for file, one in files.items()}
    disk = BackupDisk("vda", "incremental" if parent else "full", "qcow2", SIZE, False)
    taken = f"2026-01-01T00:00:{len(list(directory.parent.iterdir())):02}+00:00"
    said = Manifest(name, "web", UUID, taken, True, None, parent, None, (disk,), facts, {})
    (directory / "backup.json").write_bytes(manifest.written(said))
    return directory
