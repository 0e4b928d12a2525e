# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How far the content of a VHDX image reaches into its file, by its block allocation table.

QEMU refuses to read an image that was cut, and calls that damage which cannot be repaired.
"""

from __future__ import annotations

import struct
import typing as t
import uuid

from ansible_collections.kvmops.disk.plugins.module_utils._formats import qcow2 as _qcow2
from ansible_collections.kvmops.disk.plugins.module_utils._formats.pieces import Piece, furthest, read_table
from ansible_collections.kvmops.disk.plugins.module_utils._formats.tables import numbers

_REGIONS = (192 << 10, 256 << 10)
_ENTRIES_AT, _MOST_ENTRIES = 16, 2047
_REGION = struct.Struct("<16sQII")  # what it is, its place, its length
_ITEMS_AT = 32
_ITEM = struct.Struct("<16sIIQ")  # what it is, its place in the region
_TABLE = uuid.UUID("2dc27766-f623-4200-9d64-115e9bfd4a08").bytes_le
_METADATA = uuid.UUID("8b7ca206-4790-4b9a-b8fe-575f050f886e").bytes_le
_BLOCK_SIZE = uuid.UUID("caa16737-fa36-4d43-b3b6-33f0aa44e76b").bytes_le
_DISK_SIZE = uuid.UUID("2fa54224-cd1b-4876-b211-5dbed83bf4b8").bytes_le
_SECTOR_SIZE = uuid.UUID("8141bf1d-a96f-4709-ba47-f233a8faab5f").bytes_le
_SECTORS_OF_A_BITMAP = 1 << 23  # after so many sectors of blocks, the table has an entry for a bitmap of them
_PRESENT = (6, 7)  # the state of a block, in whole or in part, in its lowest three bits
_PLACE = ~0xF_FFFF


def beyond(stream: t.BinaryIO, path: str, length: int) -> Piece | None:
    """None, too, where the image is none that QEMU takes, which says so itself."""
    regions = next(filter(None, (_regions(stream, at) for at in _REGIONS)), {})
    if _TABLE not in regions or _METADATA not in regions:
        return None
    table_at, table_length = regions[_TABLE]
    items_at = regions[_METADATA][0]
    items = _entries(stream, items_at, b"metadata", 10, _ITEMS_AT, _ITEM)
    block, disk, sector = (
        int.from_bytes(_qcow2.read_at(stream, items_at + items[name][0], size), "little") if name in items else 0
        for name, size in ((_BLOCK_SIZE, 4), (_DISK_SIZE, 8), (_SECTOR_SIZE, 4))
    )
    if not block or not sector:
        return Piece(items_at, items_at + regions[_METADATA][1]) if items_at >= length else None
    ratio = _SECTORS_OF_A_BITMAP * sector // block
    blocks = -(-disk // block)
    size = 8 * (blocks + (blocks - 1) // ratio if blocks and ratio else 0)
    table = read_table(stream, table_at, min(size, table_length), path)
    found = Piece(table_at, table_at + size) if len(table) < min(size, table_length) else None
    for index, entry in enumerate(numbers(table, order="little")):
        if entry & 7 in _PRESENT and (index + 1) % (ratio + 1):
            guest = (index - index // (ratio + 1)) * block
            start = entry & _PLACE
            found = furthest((found, Piece(start, start + min(block, disk - guest))), length)
    return found


def _regions(stream: t.BinaryIO, at: int) -> dict[bytes, tuple[int, int]]:
    return _entries(stream, at, b"regi", 8, _ENTRIES_AT, _REGION)


def _entries(
    stream: t.BinaryIO, at: int, signature: bytes, count_at: int, first: int, entry: struct.Struct
) -> dict[bytes, tuple[int, int]]:
    """The place and the length of each thing in a table of them; none where the *signature* is not there."""
    head = _qcow2.read_at(stream, at, first)
    if not head.startswith(signature) or len(head) < first:
        return {}
    (count,) = struct.unpack_from("<H", head, count_at)
    body = _qcow2.read_at(stream, at + first, min(count, _MOST_ENTRIES) * entry.size)
    body = body[: len(body) // entry.size * entry.size]
    return {name: (place, size) for name, place, size, *_flags in entry.iter_unpack(body)}
