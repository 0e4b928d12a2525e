# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How far the content of a VMDK image reaches into its files, by the grain tables of a sparse one, and the sizes in the
descriptor of a flat one."""

from __future__ import annotations

import struct
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._errors import UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._formats import headers as _headers
from ansible_collections.kvmops.disk.plugins.module_utils._formats import vmdk as _vmdk
from ansible_collections.kvmops.disk.plugins.module_utils._formats.pieces import (
    SECTOR,
    Cut,
    Grid,
    Piece,
    beyond_two_levels,
    furthest,
    length_of,
    missing,
    read_header,
    read_table,
)
from ansible_collections.kvmops.disk.plugins.module_utils._formats.tables import numbers

_VMDK = struct.Struct("<4sIIQQQQIQQ")  # VMDK4Header in block/vmdk.c
_VMDK_OLD = struct.Struct("<4sIIIIIII")  # VMDK3Header
_VMDK_ZERO_GRAINS = 4
_VMDK_COMPRESSED = 1 << 16
_VMDK_FOOTER = (1 << 64) - 1  # instead of the place of the grain directory: a copy of the header at the end has that
# From VMDKSESparseConstHeader: the size of a grain and of a grain table, the place and size of the grain directory, the
# places of the grain tables and of the grains.
_VMDK_SE = struct.Struct("<24x2Q88x3Q40xQ")
_VMDK_SE_MAPPED = 3


def find_cut(stream: t.BinaryIO, path: str) -> Cut | None:
    """A descriptor names extents; a sparse file with a capacity is its own."""
    if not _headers.references(stream, "vmdk", path).data_files:
        return missing(stream, path, _beyond_sparse(stream, path, length_of(stream)))
    for sectors, kind, name, first in _vmdk.extents(stream, path)[0]:
        file = _headers.resolve(name, path)
        if file is None:
            continue
        with _headers.open_image(file) as extent:
            if kind in ("FLAT", "VMFS"):
                piece: Piece | None = Piece(first * SECTOR, (first + sectors) * SECTOR)
            else:
                beyond = _beyond_sesparse if kind == "SESPARSE" else _beyond_sparse
                piece = beyond(extent, file, length_of(extent))
            lost = missing(extent, file, piece)
        if lost:
            return lost
    return None


def _beyond_sparse(stream: t.BinaryIO, path: str, length: int) -> Piece | None:
    """A grain that is compressed is refused by QEMU itself where it is cut, and so is an image without its footer."""
    head = read_header(stream, _VMDK, path)
    none: tuple[int, ...] = (0,)
    compressed = False
    if head[0] == b"COWD":
        sectors, grain, directory, tables = read_header(stream, _VMDK_OLD, path)[3:7]
        entries = 4096
    else:
        flags, sectors, grain, entries, directory = head[2], head[3], head[4], head[7], head[9]
        if directory == _VMDK_FOOTER:
            return None
        compressed = bool(flags & _VMDK_COMPRESSED)
        none = (0, 1) if flags & _VMDK_ZERO_GRAINS else none
        tables = -(-sectors // (grain * entries)) if grain and entries else 0
    if not grain or not entries:
        raise UnsafeImage(f"{path}: the vmdk header is damaged: it has grains of no size", path=path)
    top = read_table(stream, directory * SECTOR, 4 * tables, path)
    if len(top) < 4 * tables:
        return Piece(directory * SECTOR, directory * SECTOR + 4 * tables)
    grid = Grid(grain * SECTOR, SECTOR, 0 if compressed else sectors * SECTOR, none=none)
    offsets = (number * SECTOR for number in numbers(top, 4, "little"))
    return beyond_two_levels(stream, path, length, offsets, entries, grid)


def _beyond_sesparse(stream: t.BinaryIO, path: str, length: int) -> Piece | None:
    """An image that is made by VMware alone. All is counted in sectors, grains and tables are numbered."""
    grain, size, directory, length_of_top, tables, grains = read_header(stream, _VMDK_SE, path)
    top = read_table(stream, directory * SECTOR, length_of_top * SECTOR, path)
    if len(top) < length_of_top * SECTOR:
        return Piece(directory * SECTOR, (directory + length_of_top) * SECTOR)
    found: Piece | None = None
    for entry in numbers(top, order="little"):
        if not entry:
            continue
        start = tables + (entry & 0xFFFF_FFFF) * size
        table = read_table(stream, start * SECTOR, size * SECTOR, path)
        whole = Piece(start * SECTOR, (start + size) * SECTOR) if len(table) < size * SECTOR else None
        entries = numbers(table, order="little")
        last = max((_grain_number(entry) for entry in entries if entry >> 60 == _VMDK_SE_MAPPED), default=None)
        at = (grains + last * grain) * SECTOR if last is not None else 0
        found = furthest((found, whole, Piece(at, at + grain * SECTOR) if at else None), length)
    return found


def _grain_number(entry: int) -> int:
    """Its twelve lowest bits stand above the others."""
    return entry >> 48 & 0xFFF | (entry & 0xFFFF_FFFF_FFFF) << 12
