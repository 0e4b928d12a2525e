# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a file begins like one that a program has compressed: read as a raw disk, it is a disk of noise."""

from __future__ import annotations

import struct
import typing as t

_MAGIC = (
    (b"\x1f\x8b\x08", "gzip"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"LZIP\1", "lzip"),
    (b"PK\3\4", "zip"),
    (b"7z\xbc\xaf\x27\x1c", "7z"),
)
_BZIP2, _BZIP2_BLOCK = b"BZh", b"1AY&SY"
_LZMA = struct.Struct("<BIQ")  # no magic: the properties, the size of the dictionary, the length if it is known
_LZMA_PROPERTIES = 0x5D  # what every program writes unless told otherwise
_LZMA_UNKNOWN, _LZMA_LONGEST = (1 << 64) - 1, 1 << 38  # lzma_alone_decoder.c of xz takes no longer one for such a file


def compressed_by(stream: t.BinaryIO) -> str | None:
    """The program that the file open as *stream* seems to come from; None where it does not look compressed."""
    stream.seek(0)
    head = stream.read(16)
    if head.startswith(_BZIP2) and head[4:].startswith(_BZIP2_BLOCK):
        return "bzip2"
    if _is_lzma(head):
        return "lzma"
    return next((name for magic, name in _MAGIC if head.startswith(magic)), None)


def _is_lzma(head: bytes) -> bool:
    properties: int
    dictionary: int
    properties, dictionary, length = _LZMA.unpack(head[: _LZMA.size].ljust(_LZMA.size, b"\0"))
    return (
        properties == _LZMA_PROPERTIES
        and dictionary >= 1 << 12
        and dictionary & (dictionary - 1) == 0
        and (length == _LZMA_UNKNOWN or 0 < length < _LZMA_LONGEST)
    )
