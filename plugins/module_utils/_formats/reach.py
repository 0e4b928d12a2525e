# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How far the content of an image reaches into its files, by its own tables: what lies beyond their ends is lost.

QEMU reads zeros where a table points behind the end of a file, and so does a comparison (HAZARDS P1). Of a raw
or a luks image, the length is all that there is.
"""

from __future__ import annotations

import struct
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._errors import UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._formats import headers as _headers
from ansible_collections.kvmops.disk.plugins.module_utils._formats import qcow2 as _qcow2
from ansible_collections.kvmops.disk.plugins.module_utils._formats import reach_qcow2 as _reach_qcow2
from ansible_collections.kvmops.disk.plugins.module_utils._formats import reach_vhdx as _reach_vhdx
from ansible_collections.kvmops.disk.plugins.module_utils._formats import reach_vmdk as _reach_vmdk
from ansible_collections.kvmops.disk.plugins.module_utils._formats.pieces import (
    SECTOR,
    Cut,
    Grid,
    Piece,
    beyond,
    beyond_two_levels,
    furthest,
    length_of,
    missing,
    read_header,
    read_table,
)
from ansible_collections.kvmops.disk.plugins.module_utils._formats.tables import numbers

_QCOW = struct.Struct(">4sIQIIQBBHIQ")  # QCowHeader in block/qcow.c
_QED = struct.Struct("<4sIIIQQQQQ")  # docs/interop/qed_spec
_VDI_PLACES = struct.Struct("<II")  # from 0x154 on: the map, the data (VdiHeader in block/vdi.c)
_VDI_SIZES = struct.Struct("<QIII")  # from 0x170 on: the disk, a block, what precedes the data of one, the blocks
# From 0x40 on: version, header, entries of the catalog, a bitmap, an extent (block/bochs.c).
_BOCHS = struct.Struct("<5I")
_VPC_FOOTER = struct.Struct(">8s40xQ4xI")  # the cookie, the size of the disk, its type (VHDFooter in block/vpc.c)
_VPC_FIXED = 2
_VPC_COPY = struct.Struct(">8s8xQ")  # where its copy begins an image: the cookie, the place of the dynamic header
_VPC_DYNAMIC = struct.Struct(">8s8xQ4xII")  # the cookie, the place of the table, its entries, the size of a block
_VPC_NONE = 0xFFFF_FFFF
_PARALLELS = struct.Struct("<16sIIIIIQ")  # docs/interop/parallels


def find_cut(path: str, image_format: str) -> Cut | None:
    """What the image at *path* lacks, without those below it; None where its files are as long as they have to be.

    Raises MissingImage where one of the files is not there, UnsafeImage where a header cannot be right.
    """
    with _headers.open_image(path) as stream:
        if image_format == "qcow2":
            return _reach_qcow2.find_cut(stream, path)
        if image_format == "vmdk":
            return _reach_vmdk.find_cut(stream, path)
        find = _FINDERS.get(image_format)
        return missing(stream, path, find(stream, path, length_of(stream))) if find else None


def _beyond_qcow(stream: t.BinaryIO, path: str, length: int) -> Piece | None:
    head = read_header(stream, _QCOW, path)
    disk, cluster_bits, l2_bits, l1_offset = head[5], head[6], head[7], head[10]
    if not 9 <= cluster_bits <= 16 or not 6 <= l2_bits <= 13:
        raise UnsafeImage(f"{path}: the qcow header is damaged: a field is out of its bounds", path=path)
    size, entries = 1 << cluster_bits, 1 << l2_bits
    l1_size = 8 * -(-disk // (size * entries))
    l1 = read_table(stream, l1_offset, l1_size, path)
    if len(l1) < l1_size:
        return Piece(l1_offset, l1_offset + l1_size)
    grid = Grid(size, 1, disk, width=8, order="big")
    found: Piece | None = None
    for index, offset in enumerate(numbers(l1)):
        table = read_table(stream, offset, 8 * entries, path) if offset else b""
        if offset and len(table) < 8 * entries:
            found = furthest((found, Piece(offset, offset + 8 * entries)), length)
        plain = [0 if entry >> 63 else entry for entry in numbers(table)]
        packed = [_packed_qcow(entry, cluster_bits) for entry in numbers(table) if entry >> 63]
        pieces = beyond(struct.pack(f">{len(plain)}Q", *plain), grid, index * entries * size, length), *packed
        found = furthest((found, *pieces), length)
    return found


def _packed_qcow(entry: int, cluster_bits: int) -> Piece:
    """A compressed cluster: its offset, and above that its length in bytes."""
    width = 63 - cluster_bits
    start = entry & ((1 << width) - 1)
    return Piece(start, start + (entry >> width & ((1 << cluster_bits) - 1)))


def _beyond_qed(stream: t.BinaryIO, path: str, length: int) -> Piece | None:
    head = read_header(stream, _QED, path)
    size, table_clusters, l1_offset, disk = head[1], head[2], head[7], head[8]
    if not 4096 <= size <= 64 << 20 or not 1 <= table_clusters <= 16:
        raise UnsafeImage(f"{path}: the qed header is damaged: a field is out of its bounds", path=path)
    entries = table_clusters * size // 8
    grid = Grid(size, 1, disk, none=(0, 1), width=8)
    top = numbers(read_table(stream, l1_offset, entries * 8, path), order="little")
    return beyond_two_levels(stream, path, length, top, entries, grid)


def _beyond_vdi(stream: t.BinaryIO, path: str, length: int) -> Piece | None:
    map_offset, data_offset = _VDI_PLACES.unpack(_qcow2.read_at(stream, 0x154, _VDI_PLACES.size).ljust(8, b"\0"))
    sizes = _qcow2.read_at(stream, 0x170, _VDI_SIZES.size).ljust(_VDI_SIZES.size, b"\0")
    disk, size, _extra, blocks = _VDI_SIZES.unpack(sizes)
    if not size:
        raise UnsafeImage(f"{path}: the vdi header is damaged: it has blocks of no size", path=path)
    table = read_table(stream, map_offset, 4 * blocks, path)
    grid = Grid(size, size, disk, data_offset, (0xFFFF_FFFF, 0xFFFF_FFFE))
    whole = Piece(map_offset, map_offset + 4 * blocks) if len(table) < 4 * blocks else None
    return furthest((whole, beyond(table, grid, 0, length)), length)


def _beyond_parallels(stream: t.BinaryIO, path: str, length: int) -> Piece | None:
    magic, _version, _heads, _cylinders, sectors, entries, disk = read_header(stream, _PARALLELS, path)
    unit = sectors * SECTOR if magic.startswith(b"WithouFreSpacExt") else SECTOR
    if not sectors:
        raise UnsafeImage(f"{path}: the parallels header is damaged: it has clusters of no size", path=path)
    table = read_table(stream, 64, 4 * entries, path)
    whole = Piece(64, 64 + 4 * entries) if len(table) < 4 * entries else None
    return furthest((whole, beyond(table, Grid(sectors * SECTOR, unit, disk * SECTOR), 0, length)), length)


def _beyond_bochs(stream: t.BinaryIO, path: str, length: int) -> Piece | None:
    """Each extent follows a bitmap of its sectors."""
    version, header, entries, bitmap, size = _BOCHS.unpack(_qcow2.read_at(stream, 0x40, _BOCHS.size).ljust(20, b"\0"))
    disk_at = 0x58 if version == 0x20000 else 0x54
    (disk,) = struct.unpack("<Q", _qcow2.read_at(stream, disk_at, 8).ljust(8, b"\0"))
    if not size or not bitmap:
        raise UnsafeImage(f"{path}: the bochs header is damaged: it has extents of no size", path=path)
    table = read_table(stream, header, 4 * entries, path)
    before = -(-bitmap // SECTOR) * SECTOR
    unit = before + -(-size // SECTOR) * SECTOR
    grid = Grid(size, unit, disk, header + 4 * entries + before, (0xFFFF_FFFF,))
    whole = Piece(header, header + 4 * entries) if len(table) < 4 * entries else None
    return furthest((whole, beyond(table, grid, 0, length)), length)


def _beyond_vpc(stream: t.BinaryIO, path: str, length: int) -> Piece | None:
    """One of a fixed size is all content before its footer: it may lack some, and have that."""
    cookie, header_at = _VPC_COPY.unpack(_qcow2.read_at(stream, 0, _VPC_COPY.size).ljust(_VPC_COPY.size, b"\0"))
    if cookie == b"conectix":
        return _beyond_dynamic_vpc(stream, path, header_at, length)
    footer = _qcow2.read_at(stream, max(0, length - SECTOR), _VPC_FOOTER.size)
    cookie, size, kind = _VPC_FOOTER.unpack(footer.ljust(_VPC_FOOTER.size, b"\0"))
    return Piece(0, size + SECTOR) if cookie == b"conectix" and kind == _VPC_FIXED else None


def _beyond_dynamic_vpc(stream: t.BinaryIO, path: str, at: int, length: int) -> Piece | None:
    """QEMU refuses it as well, and does not check such images. A bitmap of its sectors precedes each block."""
    header = _qcow2.read_at(stream, at, _VPC_DYNAMIC.size)
    if len(header) < _VPC_DYNAMIC.size:
        return Piece(at, at + _VPC_DYNAMIC.size)
    _cookie, table_at, entries, size = _VPC_DYNAMIC.unpack(header)
    table = read_table(stream, table_at, 4 * entries, path)
    if len(table) < 4 * entries:
        return Piece(table_at, table_at + 4 * entries)
    last = max((number for number in numbers(table, 4) if number != _VPC_NONE), default=None)
    if last is None:
        return None
    bitmap = -(-size // (8 * SECTOR * SECTOR)) * SECTOR
    return furthest((Piece(last * SECTOR, last * SECTOR + bitmap + size),), length)


_FINDERS: dict[str, t.Callable[[t.BinaryIO, str, int], Piece | None]] = {
    "qcow": _beyond_qcow,
    "qed": _beyond_qed,
    "vdi": _beyond_vdi,
    "parallels": _beyond_parallels,
    "bochs": _beyond_bochs,
    "vhdx": _reach_vhdx.beyond,
    "vpc": _beyond_vpc,
}
