# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The internal snapshots of a qcow2 image: their table, and the L1 tables that say what each of them holds."""

from __future__ import annotations

import io
import struct
import typing as t
from datetime import datetime, timezone

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._errors import UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._formats.qcow2 import (
    MOST_SNAPSHOTS,
    SNAPSHOT_ENTRY,
    Header,
    read_at,
)

_SNAPSHOT_EXTRA = struct.Struct(">QQ")
_LARGEST_SNAPSHOT_TABLE = 1024 * MOST_SNAPSHOTS  # QCOW_MAX_SNAPSHOTS_SIZE
_LARGEST_SNAPSHOT_EXTRA = 1024  # QCOW_MAX_SNAPSHOT_EXTRA_DATA
_LARGEST_L1 = 32 << 20  # QCOW_MAX_L1_SIZE
_READ_AHEAD = 64 << 10


@dataclass(frozen=True)
class Snapshot:
    """An internal snapshot as the snapshot table has it; sizes in bytes, the date in UTC (None: not taken yet)."""

    id: str
    name: str
    date: str | None
    vm_state_size: int
    virtual_size: int


@dataclass(frozen=True)
class SnapshotEntry:
    """A snapshot with what only its entry in the table says: its name byte for byte, where its L1 table is.

    *end* is the offset in the file behind the entry itself.
    """

    snapshot: Snapshot
    name: bytes
    l1_offset: int
    l1_entries: int
    end: int


def read_snapshots(stream: t.BinaryIO, header: Header, path: str) -> tuple[Snapshot, ...]:
    """The internal snapshots of the image open as *stream*, in the order of its table.

    Raises UnsafeImage where the table is cut off, or holds more than QEMU takes.
    """
    return tuple(entry.snapshot for entry in read_snapshot_table(stream, header, path))


def read_snapshot_table(stream: t.BinaryIO, header: Header, path: str) -> tuple[SnapshotEntry, ...]:
    """As read_snapshots, with what the table says beside the facts."""
    found = []
    ahead = io.BufferedReader(t.cast(io.RawIOBase, stream), _READ_AHEAD)
    try:
        offset = header.snapshots_offset
        for _index in range(header.snapshot_count):
            found.append(_read_snapshot(ahead, offset, header, path))
            offset = (found[-1].end + 7) // 8 * 8
            if offset - header.snapshots_offset > _LARGEST_SNAPSHOT_TABLE:
                raise UnsafeImage(f"{path}: the snapshot table is larger than any that QEMU writes: check the image")
    finally:
        ahead.detach()
    return tuple(found)


def _read_snapshot(stream: t.BinaryIO, offset: int, header: Header, path: str) -> SnapshotEntry:
    """The entry of the snapshot table at *offset*."""
    fixed = read_at(stream, offset, SNAPSHOT_ENTRY.size)
    if len(fixed) < SNAPSHOT_ENTRY.size:
        raise UnsafeImage(f"{path}: the snapshot table is cut off: check the image")
    l1_at, l1_entries, id_length, name_length, seconds, nanoseconds, _clock, state_size, extra_length = (
        SNAPSHOT_ENTRY.unpack(fixed)
    )
    if extra_length > _LARGEST_SNAPSHOT_EXTRA:
        raise UnsafeImage(f"{path}: the snapshot table has an entry that QEMU does not take: check the image")
    rest = stream.read(extra_length + id_length + name_length)
    if len(rest) < extra_length + id_length + name_length:
        raise UnsafeImage(f"{path}: the snapshot table is cut off: check the image")
    virtual_size = header.virtual_size
    if extra_length >= _SNAPSHOT_EXTRA.size:
        state_size, virtual_size = _SNAPSHOT_EXTRA.unpack(rest[: _SNAPSHOT_EXTRA.size])
    identity, name = rest[extra_length : extra_length + id_length], rest[extra_length + id_length :]
    taken = datetime.fromtimestamp(seconds, timezone.utc).replace(microsecond=min(nanoseconds // 1000, 999999))
    snapshot = Snapshot(
        id=identity.decode(errors="replace"),
        name=name.decode(errors="replace"),
        date=taken.isoformat(),
        vm_state_size=state_size,
        virtual_size=virtual_size,
    )
    return SnapshotEntry(snapshot, name, l1_at, l1_entries, offset + SNAPSHOT_ENTRY.size + len(rest))


def read_l1(stream: t.BinaryIO, offset: int, entries: int, path: str) -> bytes:
    """An L1 table as a guest's disk depends on it: without the flags of its entries, and without empty ones at the end.

    Two layers of an image, the active one and a snapshot's, are the same disk if, and with QEMU as the only writer
    only if, these are equal and so are their virtual sizes (HAZARDS E5): QEMU copies an L2 table that a snapshot
    shares before it writes to it. Raises UnsafeImage where the table cannot be one, or is cut off.
    """
    length = 8 * entries
    if length > _LARGEST_L1:
        raise UnsafeImage(f"{path}: an L1 table has {entries} entries, more than QEMU takes: check the image")
    table = read_at(stream, offset, length)
    if len(table) < length:
        raise UnsafeImage(f"{path}: an L1 table is cut off: check the image")
    return without_flags(table).rstrip(b"\0")


def is_at_snapshot(stream: t.BinaryIO, header: Header, entry: SnapshotEntry, path: str) -> bool:
    """Whether the active layer of the image open as *stream* is what *entry* holds, by read_l1."""
    return header.virtual_size == entry.snapshot.virtual_size and (
        read_l1(stream, header.l1_offset, header.l1_entries, path)
        == read_l1(stream, entry.l1_offset, entry.l1_entries, path)
    )


def without_flags(table: bytes) -> bytes:
    """*table* with bit 63 of each of its 64-bit entries cleared: whether a cluster is shared changes no content."""
    mask = int.from_bytes((b"\x7f" + b"\xff" * 7) * (len(table) // 8), "big")
    return (int.from_bytes(table, "big") & mask).to_bytes(len(table), "big")
