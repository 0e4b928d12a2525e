# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Pieces of an image in its files, and the tables that name them: which of them lie behind the end of a file."""

from __future__ import annotations

import os
import struct
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._errors import UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._formats import qcow2 as _qcow2
from ansible_collections.kvmops.disk.plugins.module_utils._formats.tables import Order, numbers

SECTOR = 512
_LARGEST_TABLE = 512 << 20  # of parallels, whose table names each of up to 128 Mi clusters


class Piece(t.NamedTuple):
    """A piece of an image in one of its files, in bytes: of the content, or a table that says where that is."""

    offset: int
    end: int


class Cut(t.NamedTuple):
    """What an image lacks: *piece* lies, in whole or in part, behind the end of *file*, which has *length* bytes."""

    file: str
    length: int
    piece: Piece


class Grid(t.NamedTuple):
    """How a table says where content lies: by numbers of *width* bytes in an *order*, each one of *unit* bytes.

    A piece has *size* bytes; before the first of them are *first*. *none* are numbers that stand for no piece. A guest
    sees *disk* bytes, and behind that nothing needs to be there.
    """

    size: int
    unit: int
    disk: int
    first: int = 0
    none: tuple[int, ...] = (0,)
    width: t.Literal[4, 8] = 4
    order: Order = "little"


def missing(stream: t.BinaryIO, file: str, piece: Piece | None) -> Cut | None:
    """*piece*, unless the file has grown meanwhile: that of a guest that runs does, before a table points there."""
    length = length_of(stream)
    return Cut(file, length, piece) if piece and piece.end > length else None


def length_of(stream: t.BinaryIO) -> int:
    return stream.seek(0, os.SEEK_END)


def beyond(table: bytes, grid: Grid, at: int, length: int) -> Piece | None:
    """The furthest piece that *table* names, if it ends behind *length*. Its first entry is for a guest's byte *at*."""
    entries = numbers(table, grid.width, grid.order)
    entries = entries[: max(0, -(-(grid.disk - at) // grid.size))]
    over = at + len(entries) * grid.size - grid.disk
    pieces = []
    if over > 0 and entries and entries[-1] not in grid.none:
        start = grid.first + entries.pop() * grid.unit
        pieces.append(Piece(start, start + grid.size - over))
    last = max((number for number in {*entries} if number not in grid.none), default=None)
    if last is not None:
        start = grid.first + last * grid.unit
        pieces.append(Piece(start, start + grid.size))
    return furthest(pieces, length)


def furthest(pieces: t.Iterable[Piece | None], length: int) -> Piece | None:
    """The one that ends last, of those that end behind *length*."""
    behind = (piece for piece in pieces if piece and piece.end > length)
    return max(behind, key=lambda piece: piece.end, default=None)


def read_table(stream: t.BinaryIO, at: int, size: int, path: str) -> bytes:
    """Raises UnsafeImage where the table is larger than any that QEMU takes; one that is cut is shorter."""
    if size > _LARGEST_TABLE:
        raise UnsafeImage(f"{path}: its header asks for a table of {size} bytes, larger than any: check it", path=path)
    return _qcow2.read_at(stream, at, size)


def beyond_two_levels(
    stream: t.BinaryIO, path: str, length: int, top: t.Iterable[int], entries: int, grid: Grid
) -> Piece | None:
    """The same for tables of *entries* each, which lie at the offsets in *top*, 0 for none, in the guest's order."""
    size = entries * grid.width
    found: Piece | None = None
    for index, offset in enumerate(top):
        if not offset:
            continue
        table = read_table(stream, offset, size, path)
        piece = beyond(table, grid, index * entries * grid.size, length)
        whole = Piece(offset, offset + size) if len(table) < size else None
        found = furthest((found, piece, whole), length)
    return found


def read_header(stream: t.BinaryIO, fields: struct.Struct, path: str) -> tuple[t.Any, ...]:
    head = _qcow2.read_at(stream, 0, fields.size)
    if len(head) < fields.size:
        raise UnsafeImage(f"{path}: its header is cut off after {len(head)} bytes", path=path)
    return fields.unpack(head)
