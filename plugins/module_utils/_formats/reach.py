# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How far the content of an image reaches into its files, by its own tables: what lies beyond their ends is lost.

QEMU reads zeros where a table points behind the end of a file, and so does a comparison (HAZARDS P1). A vhdx or a vpc
image that was cut is refused by QEMU itself; of a raw or a luks image, the length is all that there is.
"""

from __future__ import annotations

import itertools
import os
import re
import stat
import struct
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._errors import UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._formats import headers as _headers
from ansible_collections.kvmops.disk.plugins.module_utils._formats import qcow2 as _qcow2
from ansible_collections.kvmops.disk.plugins.module_utils._formats import snapshots as _snapshots
from ansible_collections.kvmops.disk.plugins.module_utils._formats import vmdk as _vmdk
from ansible_collections.kvmops.disk.plugins.module_utils._formats.tables import Order, masked, numbers

_SECTOR = 512
_LARGEST_TABLE = 512 << 20  # of parallels, whose table names each of up to 128 Mi clusters

# The entries of a qcow2 table (QEMU, docs/interop/qcow2): bits 9 to 55 are an offset.
_OFFSET = 0x00FF_FFFF_FFFF_FE00
_COMPRESSED = 1 << 62
_READS_ZEROS = 1
_SUBCLUSTERS = 32

_QCOW = struct.Struct(">4sIQIIQBBHIQ")  # QCowHeader in block/qcow.c
_QED = struct.Struct("<4sIIIQQQQQ")  # docs/interop/qed_spec
_VDI_PLACES = struct.Struct("<II")  # from 0x154 on: the map, the data (VdiHeader in block/vdi.c)
_VDI_SIZES = struct.Struct("<QIII")  # from 0x170 on: the disk, a block, what precedes the data of one, the blocks
_VMDK = struct.Struct("<4sIIQQQQIQQ")  # VMDK4Header in block/vmdk.c
_VMDK_OLD = struct.Struct("<4sIIIIIII")  # VMDK3Header
_VMDK_ZERO_GRAINS = 4
_VMDK_COMPRESSED = 1 << 16
_BOCHS = struct.Struct(
    "<5I"
)  # from 0x40 on: version, header, entries of the catalog, a bitmap, an extent (block/bochs.c)
_PARALLELS = struct.Struct("<16sIIIIIQ")  # docs/interop/parallels

# An extent in a VMDK descriptor: its sectors, its type, its file, and the sector of the file at which it begins.
_VMDK_EXTENT = re.compile(
    r'(?<!\S)(?:RW|RDONLY|NOACCESS)\s+(\d+)\s+(FLAT|VMFS|SPARSE|VMFSSPARSE)\s+"([^"\r\n]*)"(?:\s+(\d+))?'
)


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


def find_cut(path: str, image_format: str) -> Cut | None:
    """What the image at *path* lacks, without those below it; None where its files are as long as they have to be.

    Raises MissingImage where one of the files is not there, UnsafeImage where a header cannot be right.
    """
    with _headers.open_image(path) as stream:
        if image_format == "qcow2":
            return _cut_qcow2(stream, path)
        if image_format == "vmdk":
            return _cut_vmdk(stream, path)
        find = _FINDERS.get(image_format)
        return _missing(stream, path, find(stream, path, _length(stream))) if find else None


def _missing(stream: t.BinaryIO, file: str, piece: Piece | None) -> Cut | None:
    """*piece*, unless the file has grown meanwhile: that of a guest that runs does, before a table points there."""
    length = _length(stream)
    return Cut(file, length, piece) if piece and piece.end > length else None


def _length(stream: t.BinaryIO) -> int:
    return stream.seek(0, os.SEEK_END)


# --- one table: what each format has ----------------------------------------------------------------------------------


def _beyond(table: bytes, grid: Grid, at: int, length: int) -> Piece | None:
    """The furthest piece that *table* names, if it ends behind *length*. Its first entry is for a guest's byte *at*."""
    entries = numbers(table, grid.width, grid.order)
    entries = entries[: max(0, -(-(grid.disk - at) // grid.size))]
    over = at + len(entries) * grid.size - grid.disk
    pieces = []
    if over > 0 and entries and entries[-1] not in grid.none:
        start = grid.first + entries.pop() * grid.unit
        pieces.append(Piece(start, start + grid.size - over))
    furthest = max((number for number in {*entries} if number not in grid.none), default=None)
    if furthest is not None:
        start = grid.first + furthest * grid.unit
        pieces.append(Piece(start, start + grid.size))
    return _furthest(pieces, length)


def _furthest(pieces: t.Iterable[Piece | None], length: int) -> Piece | None:
    """The one that ends last, of those that end behind *length*."""
    behind = (piece for piece in pieces if piece and piece.end > length)
    return max(behind, key=lambda piece: piece.end, default=None)


def _read_table(stream: t.BinaryIO, at: int, size: int, path: str) -> bytes:
    """Raises UnsafeImage where the table is larger than any that QEMU takes; one that is cut is shorter."""
    if size > _LARGEST_TABLE:
        raise UnsafeImage(f"{path}: its header asks for a table of {size} bytes, larger than any: check it", path=path)
    return _qcow2.read_at(stream, at, size)


def _beyond_two_levels(
    stream: t.BinaryIO, path: str, length: int, top: t.Iterable[int], entries: int, grid: Grid
) -> Piece | None:
    """The same for tables of *entries* each, which lie at the offsets in *top*, 0 for none, in the guest's order."""
    size = entries * grid.width
    found: Piece | None = None
    for index, offset in enumerate(top):
        if not offset:
            continue
        table = _read_table(stream, offset, size, path)
        piece = _beyond(table, grid, index * entries * grid.size, length)
        whole = Piece(offset, offset + size) if len(table) < size else None
        found = _furthest((found, piece, whole), length)
    return found


# --- the formats ------------------------------------------------------------------------------------------------------


def _beyond_qcow(stream: t.BinaryIO, path: str, length: int) -> Piece | None:
    head = _read_header(stream, _QCOW, path)
    disk, cluster_bits, l2_bits, l1_offset = head[5], head[6], head[7], head[10]
    if not 9 <= cluster_bits <= 16 or not 6 <= l2_bits <= 13:
        raise UnsafeImage(f"{path}: the qcow header is damaged: a field is out of its bounds", path=path)
    size, entries = 1 << cluster_bits, 1 << l2_bits
    l1_size = 8 * -(-disk // (size * entries))
    l1 = _read_table(stream, l1_offset, l1_size, path)
    if len(l1) < l1_size:
        return Piece(l1_offset, l1_offset + l1_size)
    grid = Grid(size, 1, disk, width=8, order="big")
    found: Piece | None = None
    for index, offset in enumerate(numbers(l1)):
        table = _read_table(stream, offset, 8 * entries, path) if offset else b""
        if offset and len(table) < 8 * entries:
            found = _furthest((found, Piece(offset, offset + 8 * entries)), length)
        plain = [0 if entry >> 63 else entry for entry in numbers(table)]
        packed = [_packed_qcow(entry, cluster_bits) for entry in numbers(table) if entry >> 63]
        pieces = _beyond(struct.pack(f">{len(plain)}Q", *plain), grid, index * entries * size, length), *packed
        found = _furthest((found, *pieces), length)
    return found


def _packed_qcow(entry: int, cluster_bits: int) -> Piece:
    """A compressed cluster: its offset, and above that its length in bytes."""
    width = 63 - cluster_bits
    start = entry & ((1 << width) - 1)
    return Piece(start, start + (entry >> width & ((1 << cluster_bits) - 1)))


def _beyond_qed(stream: t.BinaryIO, path: str, length: int) -> Piece | None:
    head = _read_header(stream, _QED, path)
    size, table_clusters, l1_offset, disk = head[1], head[2], head[7], head[8]
    if not 4096 <= size <= 64 << 20 or not 1 <= table_clusters <= 16:
        raise UnsafeImage(f"{path}: the qed header is damaged: a field is out of its bounds", path=path)
    entries = table_clusters * size // 8
    grid = Grid(size, 1, disk, none=(0, 1), width=8)
    top = numbers(_read_table(stream, l1_offset, entries * 8, path), order="little")
    return _beyond_two_levels(stream, path, length, top, entries, grid)


def _beyond_vdi(stream: t.BinaryIO, path: str, length: int) -> Piece | None:
    map_offset, data_offset = _VDI_PLACES.unpack(_qcow2.read_at(stream, 0x154, _VDI_PLACES.size).ljust(8, b"\0"))
    sizes = _qcow2.read_at(stream, 0x170, _VDI_SIZES.size).ljust(_VDI_SIZES.size, b"\0")
    disk, size, _extra, blocks = _VDI_SIZES.unpack(sizes)
    if not size:
        raise UnsafeImage(f"{path}: the vdi header is damaged: it has blocks of no size", path=path)
    table = _read_table(stream, map_offset, 4 * blocks, path)
    grid = Grid(size, size, disk, data_offset, (0xFFFF_FFFF, 0xFFFF_FFFE))
    whole = Piece(map_offset, map_offset + 4 * blocks) if len(table) < 4 * blocks else None
    return _furthest((whole, _beyond(table, grid, 0, length)), length)


def _beyond_parallels(stream: t.BinaryIO, path: str, length: int) -> Piece | None:
    magic, _version, _heads, _cylinders, sectors, entries, disk = _read_header(stream, _PARALLELS, path)
    unit = sectors * _SECTOR if magic.startswith(b"WithouFreSpacExt") else _SECTOR
    if not sectors:
        raise UnsafeImage(f"{path}: the parallels header is damaged: it has clusters of no size", path=path)
    table = _read_table(stream, 64, 4 * entries, path)
    whole = Piece(64, 64 + 4 * entries) if len(table) < 4 * entries else None
    return _furthest((whole, _beyond(table, Grid(sectors * _SECTOR, unit, disk * _SECTOR), 0, length)), length)


def _beyond_bochs(stream: t.BinaryIO, path: str, length: int) -> Piece | None:
    """Each extent follows a bitmap of its sectors."""
    version, header, entries, bitmap, size = _BOCHS.unpack(_qcow2.read_at(stream, 0x40, _BOCHS.size).ljust(20, b"\0"))
    disk_at = 0x58 if version == 0x20000 else 0x54
    (disk,) = struct.unpack("<Q", _qcow2.read_at(stream, disk_at, 8).ljust(8, b"\0"))
    if not size or not bitmap:
        raise UnsafeImage(f"{path}: the bochs header is damaged: it has extents of no size", path=path)
    table = _read_table(stream, header, 4 * entries, path)
    before = -(-bitmap // _SECTOR) * _SECTOR
    unit = before + -(-size // _SECTOR) * _SECTOR
    grid = Grid(size, unit, disk, header + 4 * entries + before, (0xFFFF_FFFF,))
    whole = Piece(header, header + 4 * entries) if len(table) < 4 * entries else None
    return _furthest((whole, _beyond(table, grid, 0, length)), length)


_FINDERS: dict[str, t.Callable[[t.BinaryIO, str, int], Piece | None]] = {
    "qcow": _beyond_qcow,
    "qed": _beyond_qed,
    "vdi": _beyond_vdi,
    "parallels": _beyond_parallels,
    "bochs": _beyond_bochs,
}


def _read_header(stream: t.BinaryIO, fields: struct.Struct, path: str) -> tuple[t.Any, ...]:
    head = _qcow2.read_at(stream, 0, fields.size)
    if len(head) < fields.size:
        raise UnsafeImage(f"{path}: its header is cut off after {len(head)} bytes", path=path)
    return fields.unpack(head)


# --- qcow2 ------------------------------------------------------------------------------------------------------------


def _cut_qcow2(stream: t.BinaryIO, path: str) -> Cut | None:
    header = _qcow2.read_header(stream, path)
    tables = _Tables(stream, header, path)
    lost = _missing(stream, path, tables.top())
    if lost:
        return lost
    if not header.external_data:
        return _missing(stream, path, tables.beyond(_length(stream)))
    lost = _missing(stream, path, tables.beyond(_length(stream), content=False))
    file = _headers.resolve(header.data_file or "", path)
    before = _file_length(file) if file else None
    if lost or file is None or before is None:
        return lost
    piece = tables.beyond(before, metadata=False)
    length = _file_length(file) or 0
    return Cut(file, length, piece) if piece and piece.end > length else None


def _file_length(path: str) -> int | None:
    """The bytes of a regular file, which is not opened: nobody says here that it belongs to the image; else None."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


class _Tables:
    """The L1 and L2 tables of a qcow2 image, those of its snapshots with them."""

    def __init__(self, stream: t.BinaryIO, header: _qcow2.Header, path: str) -> None:
        self.stream = stream
        self.header = header
        self.path = path
        snapshots = _snapshots.read_snapshot_table(stream, header, path)
        self.disk = max([header.virtual_size, *(entry.snapshot.virtual_size for entry in snapshots)])
        self.layers = [(header.l1_offset, header.l1_entries)]
        self.layers += [(entry.l1_offset, entry.l1_entries) for entry in snapshots]

    def top(self) -> Piece | None:
        """The L1 table that ends last: without it, nothing is known of the rest."""
        ends = (Piece(offset, offset + 8 * entries) for offset, entries in self.layers)
        return max(ends, key=lambda piece: piece.end)

    def beyond(self, length: int, *, content: bool = True, metadata: bool = True) -> Piece | None:
        """The furthest piece behind *length* of the *content*, of the *metadata*, that is, the L2 tables, or of both.

        Raises UnsafeImage where an L1 table is not there, or cannot be one.
        """
        size = self.header.cluster_size
        seen: set[int] = {0}
        found: Piece | None = None
        for index, offset in itertools.chain.from_iterable(map(self._l2_tables, self.layers)):
            if offset in seen:
                continue
            seen.add(offset)
            table = _qcow2.read_at(self.stream, offset, size)
            if metadata and len(table) < size:
                found = _furthest((found, Piece(offset, offset + size)), length)
            if content:
                found = _furthest((found, self._beyond_l2(table, index, length)), length)
        return found

    def _l2_tables(self, layer: tuple[int, int]) -> t.Iterator[tuple[int, int]]:
        return enumerate(numbers(masked(_padded(_snapshots.read_l1(self.stream, *layer, self.path)), _OFFSET)))

    def _beyond_l2(self, table: bytes, index: int, length: int) -> Piece | None:
        """Entry by entry only where a look at all of them together leaves a doubt."""
        width = 16 if self.header.extended_l2 else 8
        table = table[: len(table) // width * width]
        words = numbers(table)
        entries = words[::2] if self.header.extended_l2 else words
        offsets = numbers(masked(table, _OFFSET))[:: width // 8]
        if max(offsets, default=0) + self.header.cluster_size <= length:
            return None
        bitmaps = words[1::2] if self.header.extended_l2 else itertools.repeat(None)
        at = index * self.header.cluster_size // width * self.header.cluster_size
        guests = itertools.count(at, self.header.cluster_size)
        return _furthest(map(self._piece, entries, bitmaps, guests), length)

    def _piece(self, entry: int, bitmap: int | None, guest: int) -> Piece | None:
        """What a guest needs of the cluster that holds its bytes from *guest* on; *bitmap* tells of its subclusters."""
        size = self.header.cluster_size
        if entry & _COMPRESSED:
            return self._packed(entry)
        start = entry & _OFFSET
        if not start and not self.header.external_data:
            return None
        if bitmap is None:
            used = 0 if self._reads_zeros(entry) or not (start or entry) else size
        else:
            used = (bitmap & 0xFFFF_FFFF).bit_length() * size // _SUBCLUSTERS
        if guest < self.disk:
            used = min(used, self.disk - guest)
        return Piece(start, start + used) if used else None

    def _packed(self, entry: int) -> Piece:
        """A compressed cluster: its offset, and above that how many sectors follow its first; the last may be short."""
        width = 62 - (self.header.cluster_size.bit_length() - 1 - 8)
        start, more = entry & ((1 << width) - 1), (entry & (_COMPRESSED - 1)) >> width
        return Piece(start, start // _SECTOR * _SECTOR + more * _SECTOR + 1)

    def _reads_zeros(self, entry: int) -> bool:
        return self.header.version >= 3 and bool(entry & _READS_ZEROS)


def _padded(table: bytes) -> bytes:
    return table.ljust(-(-len(table) // 8) * 8, b"\0")


# --- vmdk -------------------------------------------------------------------------------------------------------------


def _cut_vmdk(stream: t.BinaryIO, path: str) -> Cut | None:
    """A descriptor names extents; a sparse file with a capacity is its own."""
    extents = _headers.references(stream, "vmdk", path).data_files
    if not extents:
        return _missing(stream, path, _beyond_sparse(stream, path, _length(stream)))
    for sectors, kind, name, begins in _VMDK_EXTENT.findall(_vmdk.descriptor(stream, path)):
        file = _headers.resolve(name, path)
        if file is None:
            continue
        with _headers.open_image(file) as extent:
            if kind in ("FLAT", "VMFS"):
                start = int(begins or 0) * _SECTOR
                piece: Piece | None = Piece(start, start + int(sectors) * _SECTOR)
            else:
                piece = _beyond_sparse(extent, file, _length(extent))
            lost = _missing(extent, file, piece)
        if lost:
            return lost
    return None


def _beyond_sparse(stream: t.BinaryIO, path: str, length: int) -> Piece | None:
    """A grain that is compressed is refused by QEMU itself where it is cut."""
    head = _read_header(stream, _VMDK, path)
    none: tuple[int, ...] = (0,)
    if head[0] == b"COWD":
        sectors, grain, directory, tables = _read_header(stream, _VMDK_OLD, path)[3:7]
        entries = 4096
    else:
        flags, sectors, grain, entries, directory = head[2], head[3], head[4], head[7], head[9]
        if flags & _VMDK_COMPRESSED:
            return None
        none = (0, 1) if flags & _VMDK_ZERO_GRAINS else none
        tables = -(-sectors // (grain * entries)) if grain and entries else 0
    if not grain or not entries:
        raise UnsafeImage(f"{path}: the vmdk header is damaged: it has grains of no size", path=path)
    top = _read_table(stream, directory * _SECTOR, 4 * tables, path)
    if len(top) < 4 * tables:
        return Piece(directory * _SECTOR, directory * _SECTOR + 4 * tables)
    grid = Grid(grain * _SECTOR, _SECTOR, sectors * _SECTOR, none=none)
    offsets = (number * _SECTOR for number in numbers(top, 4, "little"))
    return _beyond_two_levels(stream, path, length, offsets, entries, grid)
