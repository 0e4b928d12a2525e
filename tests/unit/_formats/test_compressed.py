# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""By its first bytes, a file is known for one that a program has compressed; a disk is not taken for one."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._formats.compressed import compressed_by

MBR = b"\xeb\x63\x90" + bytes(509)


@pytest.mark.parametrize(
    ("begin", "program"),
    [
        (gzip.compress(MBR, mtime=0), "gzip"),
        (lzma.compress(MBR), "xz"),
        (lzma.compress(MBR, format=lzma.FORMAT_ALONE), "lzma"),
        (lzma.compress(MBR, format=lzma.FORMAT_ALONE, preset=0), "lzma"),
        (b"\x5d" + (1 << 23).to_bytes(4, "little") + len(MBR).to_bytes(8, "little"), "lzma"),
        (bz2.compress(MBR), "bzip2"),
        (bytes.fromhex("28b52ffd"), "zstd"),
        (bytes.fromhex("04224d18"), "lz4"),
        (b"LZIP\1", "lzip"),
        (b"PK\3\4", "zip"),
        (bytes.fromhex("377abcaf271c"), "7z"),
    ],
)
def test_a_program_is_known_by_its_magic(begin: bytes, program: str) -> None:
    assert compressed_by(io.BytesIO(begin + bytes(512))) == program


@pytest.mark.parametrize(
    "begin", [b"", bytes(512), MBR, b"BZh9", b"BZhello, world", b"PK", b"QFI\xfb", b"\x1f\x8b", b"]" * 512]
)
def test_a_disk_is_not_taken_for_one(begin: bytes) -> None:
    assert compressed_by(io.BytesIO(begin)) is None
