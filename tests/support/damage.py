# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Damage to the metadata of qcow2 images with clusters of 64 KiB."""

from __future__ import annotations

import os
import struct
from pathlib import Path

from support.snapshot_tools import consistency


def table_at(path: Path, offset: int, *indexes: int) -> int:
    """The offset of an entry; INDEXES lead to it, table by table, from the field at OFFSET of the header."""
    raw = path.read_bytes()
    at = offset
    for index in indexes:
        at = (struct.unpack_from(">Q", raw, at)[0] & 0x00FFFFFFFFFFFE00) + 8 * index
    return at


def write_at(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as stream:
        stream.seek(offset)
        stream.write(data)


def leak(path: Path, clusters: int = 3) -> None:
    """Clusters that are counted and that nothing refers to."""
    end = -(-path.stat().st_size // 65536)
    os.truncate(path, (end + clusters) * 65536)
    write_at(path, table_at(path, 48, 0, 0) + 2 * end, b"\0\1" * clusters)


def miscount(path: Path) -> None:
    """The first guest cluster is counted once too little: a corruption of counts alone."""
    raw = path.read_bytes()
    cluster = (struct.unpack_from(">Q", raw, table_at(path, 40, 0, 16))[0] & 0x00FFFFFFFFFFFE00) // 65536
    write_at(path, table_at(path, 48, 0, 0) + 2 * cluster, b"\0\0")
    assert consistency(path) == "corrupt"
