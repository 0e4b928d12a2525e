# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The persistent dirty bitmaps of a qcow2 image, read from an open file.

The layout is QEMU's docs/interop/qcow2, "Bitmaps"; all numbers are big-endian, and a bitmap itself is a string of bits
of which the lowest of a byte comes first.
"""

from __future__ import annotations

import struct
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._errors import UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._formats.headers import open_image
from ansible_collections.kvmops.disk.plugins.module_utils._formats.qcow2 import Header, read_at, read_header

#: As many as an image can have, and as long as their directory can be (BME_MAX_* in block/qcow2-bitmap.c).
MOST_BITMAPS = 65535
_LARGEST_DIRECTORY = MOST_BITMAPS * 1024
_LARGEST_TABLE = 0x8000000
_LARGEST_BITMAP = 0x20000000

_EXTENSION = struct.Struct(">IIQQ")
_ENTRY = struct.Struct(">QIIBBHI")
_IN_USE, _AUTO = 1, 2
_OFFSET = 0x00FF_FFFF_FFFF_FE00
_ALL_ONES = 1
#: A bitmap is asked about in pieces of so many bytes.
_PIECE = 1 << 20


@dataclass(frozen=True)
class Bitmap:
    """A bitmap as its entry in the directory has it.

    *granularity*: bytes of the disk that a bit stands for. *in_use*: whoever had it in memory did not write it back, so
    that it says nothing. *enabled*: QEMU sets a bit for what is written.
    """

    name: bytes
    granularity: int
    in_use: bool
    enabled: bool
    table_offset: int
    table_entries: int

    @property
    def text(self) -> str:
        """The name as a person reads it."""
        return self.name.decode(errors="replace")

    def bytes_needed(self, size: int, cluster: int) -> int:
        """What it may take at most in an image with clusters of that many bytes, for a disk of *size* bytes."""
        clusters = -(-size // (8 * self.granularity * cluster))
        return (clusters + -(-8 * clusters // cluster)) * cluster

    def flags(self) -> list[str]:
        """Its flags in the words of ``qemu-img info``."""
        return [word for word, is_set in (("in-use", self.in_use), ("auto", self.enabled)) if is_set]


def bitmaps_of(path: str, image_format: str) -> tuple[Bitmap, ...]:
    """The bitmaps of the image at *path*; only qcow2 has them. Raises as read_bitmaps does, or MissingImage."""
    if image_format != "qcow2":
        return ()
    with open_image(path) as stream:
        return read_bitmaps(stream, read_header(stream, path), path)


def read_bitmaps(stream: t.BinaryIO, header: Header, path: str) -> tuple[Bitmap, ...]:
    """The bitmaps of the image open as *stream*, in the order of its directory.

    There are none where a program that knows no bitmaps wrote to the image: QEMU drops those that there were.
    Raises UnsafeImage where the directory cannot be right.
    """
    if header.bitmaps is None or not header.autoclear & 1:
        return ()
    if len(header.bitmaps) != _EXTENSION.size:
        raise _damaged(path)
    count, _reserved, size, offset = _EXTENSION.unpack(header.bitmaps)
    if not 0 < count <= MOST_BITMAPS or size > _LARGEST_DIRECTORY:
        raise _damaged(path)
    directory = read_at(stream, offset, size)
    if len(directory) < size:
        raise _damaged(path)
    found, at = [], 0
    for _index in range(count):
        bitmap, at = _read_entry(directory, at, path)
        found.append(bitmap)
    return tuple(found)


class Bits:
    """The bits of one bitmap of an image with clusters of *cluster_size*; read in pieces, as they are asked for."""

    def __init__(self, stream: t.BinaryIO, header: Header, bitmap: Bitmap, path: str) -> None:
        self._stream = stream
        self._path = path
        self._cluster = header.cluster_size
        self.disk = header.virtual_size
        self.granularity = bitmap.granularity
        #: The bytes that the bitmap has.
        self.length = -(-header.virtual_size // (8 * bitmap.granularity))
        entries = -(-self.length // self._cluster)
        if entries != bitmap.table_entries or 8 * entries > _LARGEST_TABLE or self.length > _LARGEST_BITMAP:
            raise _damaged(path)
        table = read_at(stream, bitmap.table_offset, 8 * entries)
        if len(table) < 8 * entries:
            raise _damaged(path)
        self._table = struct.unpack(f">{entries}Q", table)

    def count(self) -> int:
        """How many bits are set. A bitmap that QEMU wrote with none has no clusters at all."""
        if not any(self._table):
            return 0
        pieces = (self.read(at, _PIECE) for at in range(0, self.length, _PIECE))
        return sum(bin(int.from_bytes(piece, "big")).count("1") for piece in pieces)

    def covers(self, other: Bits) -> bool:
        """Whether all of the disk that *other*, of a disk as large, has set is set here, too."""
        if self.granularity == other.granularity:
            ours, theirs = self.read, other.read
            places = range(0, self.length, _PIECE)
            return all(not _number(theirs(at, _PIECE)) & ~_number(ours(at, _PIECE)) for at in places)
        return all(self._has_range(start, end) for start, end in other.ranges())

    def ranges(self) -> t.Iterator[tuple[int, int]]:
        """The parts of the disk that are set, as (start, end) in bytes, a bit each."""
        for at in range(0, self.length, _PIECE):
            for place, byte in enumerate(self.read(at, _PIECE), at):
                for bit in range(8) if byte else ():
                    if byte >> bit & 1:
                        start = (8 * place + bit) * self.granularity
                        yield start, min(start + self.granularity, self.disk)

    def _has_range(self, start: int, end: int) -> bool:
        first, last = start // self.granularity, (end - 1) // self.granularity
        piece = _number(self.read(first // 8, last // 8 - first // 8 + 1)) >> first % 8
        wanted = (1 << (last - first + 1)) - 1
        return piece & wanted == wanted

    def read(self, at: int, size: int) -> bytes:
        """The bytes from *at* on, *size* of them, or up to the end."""
        end, found = min(at + size, self.length), bytearray()
        while at < end:
            index, within = divmod(at, self._cluster)
            part = min(end - at, self._cluster - within)
            found += self._cluster_bytes(self._table[index], within, part)
            at += part
        return bytes(found)

    def _cluster_bytes(self, entry: int, within: int, part: int) -> bytes:
        offset = entry & _OFFSET
        if not offset:
            return (b"\xff" if entry & _ALL_ONES else b"\0") * part
        data = read_at(self._stream, offset + within, part)
        if len(data) < part:
            raise _damaged(self._path)
        return data


def _number(bits: bytes) -> int:
    """The bits as a number: the first is the lowest."""
    return int.from_bytes(bits, "little")


def _read_entry(directory: bytes, at: int, path: str) -> tuple[Bitmap, int]:
    """The entry at *at*, and where the next one is."""
    if at + _ENTRY.size > len(directory):
        raise _damaged(path)
    table_at, entries, flags, _kind, granularity_bits, name_length, extra = _ENTRY.unpack_from(directory, at)
    start = at + _ENTRY.size + extra
    end = start + name_length
    if end > len(directory) or not 9 <= granularity_bits <= 31:
        raise _damaged(path)
    name = directory[start:end]
    bitmap = Bitmap(name, 1 << granularity_bits, bool(flags & _IN_USE), bool(flags & _AUTO), table_at, entries)
    return bitmap, (end + 7) // 8 * 8


def _damaged(path: str) -> UnsafeImage:
    return UnsafeImage(
        f"{path}: its directory of dirty bitmaps is damaged: check the image, or convert it into a new one", path=path
    )
