# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Deterministic data: the same bytes as the guest's `pattern` command writes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

MIB = 1 << 20


def pattern_chunks(mib: int, seed: str) -> Iterator[bytes]:
    """MIB chunks of one mebibyte each; a chunk repeats one line of 63 hexadecimal digits."""
    for chunk in range(mib):
        line = hashlib.sha256(f"{seed}-{chunk}".encode()).hexdigest()[:63].encode() + b"\n"
        yield line * (MIB // len(line))


def pattern_sha256(mib: int, seed: str) -> str:
    """The SHA-256 (hexadecimal) of the pattern."""
    digest = hashlib.sha256()
    for chunk in pattern_chunks(mib, seed):
        digest.update(chunk)
    return digest.hexdigest()


def write_pattern(path: Path, mib: int, seed: str, offset: int = 0) -> str:
    """Writes the pattern into PATH at OFFSET (bytes), which is made when missing; returns its SHA-256."""
    digest = hashlib.sha256()
    with open(path, "r+b" if path.exists() else "wb") as out:
        out.seek(offset)
        for chunk in pattern_chunks(mib, seed):
            out.write(chunk)
            digest.update(chunk)
    return digest.hexdigest()
