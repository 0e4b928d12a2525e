# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The header of a qcow2 image, read from an open file: the safe look before qemu-img.

Nothing that the header names is opened. The layout is QEMU's docs/interop/qcow2; all numbers are big-endian.
"""

from __future__ import annotations

import io
import struct
import typing as t
from dataclasses import dataclass
from datetime import datetime, timezone

from ansible_collections.kvmops.disk.plugins.module_utils._errors import UnsafeImage

MAGIC = b"QFI\xfb"

#: As many internal snapshots as an image can have (QCOW_MAX_SNAPSHOTS).
MOST_SNAPSHOTS = 65536

#: The values of the header's compression type, in QEMU's words.
COMPRESSION_TYPES = {0: "zlib", 1: "zstd"}

_FIXED = struct.Struct(">4sIQIIQIIQQIIQ")  # the 72 bytes that version 2 and 3 share
_VERSION_3 = struct.Struct(">QQQII")  # the 32 bytes that version 3 adds
_EXTENSION = struct.Struct(">II")
_PLACE = struct.Struct(">QQ")
_SNAPSHOT = struct.Struct(">QIHHIIQII")
_SNAPSHOT_EXTRA = struct.Struct(">QQ")

_EXTENSION_BACKING_FORMAT = 0xE2792ACA
_EXTENSION_DATA_FILE = 0x44415441
_EXTENSION_BITMAPS = 0x23852875
_EXTENSION_ENCRYPTION = 0x0537BE77
_LONGEST_BACKING_NAME = 1023
_LARGEST_SNAPSHOT_TABLE = 1024 * MOST_SNAPSHOTS  # QCOW_MAX_SNAPSHOTS_SIZE
_LARGEST_SNAPSHOT_EXTRA = 1024  # QCOW_MAX_SNAPSHOT_EXTRA_DATA
_LARGEST_L1 = 32 << 20  # QCOW_MAX_L1_SIZE
_READ_AHEAD = 64 << 10

_DIRTY, _CORRUPT, _DATA_FILE, _COMPRESSION, _EXTENDED_L2 = (1 << bit for bit in range(5))
_KNOWN_INCOMPATIBLE = _DIRTY | _CORRUPT | _DATA_FILE | _COMPRESSION | _EXTENDED_L2


@dataclass(frozen=True)
class Header:
    """What the header says; sizes in bytes, references as they are written there and not resolved.

    *bitmaps* is the extension that says where the dirty bitmaps are, as it is; None where there is none.
    *encryption_header* is the offset of the header of LUKS in the file, and its length.
    """

    version: int
    virtual_size: int
    cluster_size: int
    encrypted: bool
    backing_file: str | None
    backing_format: str | None
    data_file: str | None
    external_data: bool
    dirty: bool
    corrupt: bool
    extended_l2: bool
    lazy_refcounts: bool
    refcount_bits: int
    unknown_incompatible: int
    snapshot_count: int
    snapshots_offset: int
    l1_entries: int
    l1_offset: int
    refcount_offset: int
    refcount_clusters: int
    autoclear: int
    compression: int
    bitmaps: bytes | None = None
    encryption_header: tuple[int, int] = (0, 0)

    def is_beyond_doubt(self, length: int) -> bool:
        """Whether QEMU would open this image, a file of *length* bytes, and have nothing to say beyond its header.

        It has not to be so for an image to be good: whoever asks goes to qemu-img otherwise. The bounds are those of
        qcow2_do_open in block/qcow2.c; of snapshots, read_snapshot_table looks at the rest.
        """
        entries = self.cluster_size // (16 if self.extended_l2 else 8)
        l1_needed = -(-self.virtual_size // (self.cluster_size * entries))
        tables: tuple[tuple[int, int], ...] = (
            (self.l1_offset, 8 * self.l1_entries),
            (self.refcount_offset, self.refcount_clusters * self.cluster_size),
        )
        if self.snapshot_count:
            tables += ((self.snapshots_offset, _SNAPSHOT.size * self.snapshot_count),)
        special = self.encrypted or self.external_data or self.dirty or self.corrupt or self.unknown_incompatible
        return (
            not (special or self.autoclear)
            and self.compression in COMPRESSION_TYPES
            and self.virtual_size > 0
            and self.virtual_size % 512 == 0
            and self.l1_entries >= l1_needed
            and all(at > 0 and at % self.cluster_size == 0 and 0 < size <= length - at for at, size in tables)
        )

    @property
    def compression_type(self) -> str:
        return COMPRESSION_TYPES.get(self.compression, "unknown")

    @property
    def compat(self) -> str:
        return "1.1" if self.version >= 3 else "0.10"


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


def read_header(stream: t.BinaryIO, path: str) -> Header:
    """The header of the qcow2 image open as *stream*; *path* is for the message.

    Raises UnsafeImage where the file is no qcow2 image of version 2 or 3, or where its header cannot be right.
    """
    stream.seek(0)
    head = stream.read(_FIXED.size + _VERSION_3.size)
    if len(head) < _FIXED.size or not head.startswith(MAGIC):
        raise UnsafeImage(f"{path}: not a qcow2 image: its header does not begin with QFI\\xfb")
    (_magic, version, backing_at, backing_length, cluster_bits, size, crypt) = _FIXED.unpack(head[: _FIXED.size])[:7]
    l1_entries, l1_at, refcount_at, refcount_clusters, snapshot_count, snapshots_at = _FIXED.unpack(
        head[: _FIXED.size]
    )[7:]
    if version not in (2, 3):
        raise UnsafeImage(f"{path}: qcow2 version {version} is not known: expected 2 or 3")
    if not 9 <= cluster_bits <= 21:
        raise UnsafeImage(f"{path}: the qcow2 header is damaged: clusters of 2^{cluster_bits} bytes do not exist")
    incompatible, compatible, autoclear, refcount_order, length = 0, 0, 0, 4, _FIXED.size
    if version == 3:
        if len(head) < _FIXED.size + _VERSION_3.size:
            raise UnsafeImage(f"{path}: the qcow2 header is cut off after {len(head)} bytes")
        incompatible, compatible, autoclear, refcount_order, length = _VERSION_3.unpack(head[_FIXED.size :])
    if refcount_order > 6 or length < _FIXED.size or snapshot_count > MOST_SNAPSHOTS:
        raise UnsafeImage(f"{path}: the qcow2 header is damaged: a field is out of its bounds")
    if backing_at > 1 << cluster_bits:
        raise UnsafeImage(f"{path}: the qcow2 header is damaged: its backing file name lies beyond the first cluster")
    extensions = _read_extensions(stream, length, backing_at or 1 << cluster_bits)
    if incompatible & _DATA_FILE and _EXTENSION_DATA_FILE not in extensions:
        raise UnsafeImage(f"{path}: the qcow2 header is damaged: its data is in another file, which it does not name")
    return Header(
        version=version,
        virtual_size=size,
        cluster_size=1 << cluster_bits,
        encrypted=crypt != 0,
        backing_file=_read_backing_name(stream, backing_at, backing_length, path),
        backing_format=_text(extensions.get(_EXTENSION_BACKING_FORMAT)),
        data_file=_text(extensions.get(_EXTENSION_DATA_FILE)),
        external_data=bool(incompatible & _DATA_FILE),
        dirty=bool(incompatible & _DIRTY),
        corrupt=bool(incompatible & _CORRUPT),
        extended_l2=bool(incompatible & _EXTENDED_L2),
        lazy_refcounts=bool(compatible & 1),
        refcount_bits=1 << refcount_order,
        unknown_incompatible=incompatible & ~_KNOWN_INCOMPATIBLE,
        snapshot_count=snapshot_count,
        snapshots_offset=snapshots_at,
        l1_entries=l1_entries,
        l1_offset=l1_at,
        refcount_offset=refcount_at,
        refcount_clusters=refcount_clusters,
        autoclear=autoclear,
        compression=_compression(stream, incompatible, length),
        bitmaps=extensions.get(_EXTENSION_BITMAPS),
        encryption_header=_place(extensions.get(_EXTENSION_ENCRYPTION)),
    )


def _place(extension: bytes | None) -> tuple[int, int]:
    return _PLACE.unpack(extension) if extension and len(extension) == _PLACE.size else (0, 0)


def _compression(stream: t.BinaryIO, incompatible: int, length: int) -> int:
    at = _FIXED.size + _VERSION_3.size
    found = read_at(stream, at, 1) if incompatible & _COMPRESSION and length > at else b""
    return found[0] if found else 0


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
    fixed = read_at(stream, offset, _SNAPSHOT.size)
    if len(fixed) < _SNAPSHOT.size:
        raise UnsafeImage(f"{path}: the snapshot table is cut off: check the image")
    l1_at, l1_entries, id_length, name_length, seconds, nanoseconds, _clock, state_size, extra_length = (
        _SNAPSHOT.unpack(fixed)
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
    return SnapshotEntry(snapshot, name, l1_at, l1_entries, offset + _SNAPSHOT.size + len(rest))


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


def read_at(stream: t.BinaryIO, offset: int, length: int) -> bytes:
    """Up to *length* bytes at *offset*; nothing where it is one that no file can have, whatever a header claims."""
    try:
        stream.seek(offset)
    except (OSError, OverflowError, ValueError):
        return b""
    return stream.read(length)


def _read_backing_name(stream: t.BinaryIO, offset: int, length: int, path: str) -> str | None:
    if not offset:
        return None
    name = read_at(stream, offset, min(length, _LONGEST_BACKING_NAME))
    if not length or length > _LONGEST_BACKING_NAME or len(name) < length:
        raise UnsafeImage(f"{path}: the qcow2 header is damaged: its backing file name has {length} bytes")
    return _text(name)


def _read_extensions(stream: t.BinaryIO, offset: int, end: int) -> dict[int, bytes]:
    """The header extensions between *offset* and *end*, by type; reading stops at the first that does not fit."""
    found: dict[int, bytes] = {}
    while offset + _EXTENSION.size <= end:
        head = read_at(stream, offset, _EXTENSION.size)
        if len(head) < _EXTENSION.size:
            break
        kind, length = _EXTENSION.unpack(head)
        if kind == 0 or offset + _EXTENSION.size + length > end:
            break
        found[kind] = stream.read(length)
        offset += _EXTENSION.size + (length + 7) // 8 * 8
    return found


def _text(raw: bytes | None) -> str | None:
    return raw.decode(errors="surrogateescape") if raw is not None else None
