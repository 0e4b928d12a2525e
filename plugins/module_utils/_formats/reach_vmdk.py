# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How far the content of a VMDK image reaches into its files, by the grain tables of a sparse one, and the sizes in the
descriptor of a flat one."""

from __future__ import annotations

import re
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

# An extent in a VMDK descriptor: its sectors, its type, its file, and the sector of the file at which it begins.
_VMDK_EXTENT = re.compile(
    r'(?<!\S)(?:RW|RDONLY|NOACCESS)\s+(\d+)\s+(FLAT|VMFS|SPARSE|VMFSSPARSE)\s+"([^"\r\n]*)"(?:\s+(\d+))?'
)


def find_cut(stream: t.BinaryIO, path: str) -> Cut | None:
    """A descriptor names extents; a sparse file with a capacity is its own."""
    extents = _headers.references(stream, "vmdk", path).data_files
    if not extents:
        return missing(stream, path, _beyond_sparse(stream, path, length_of(stream)))
    for sectors, kind, name, begins in _VMDK_EXTENT.findall(_vmdk.descriptor(stream, path)):
        file = _headers.resolve(name, path)
        if file is None:
            continue
        with _headers.open_image(file) as extent:
            if kind in ("FLAT", "VMFS"):
                start = int(begins or 0) * SECTOR
                piece: Piece | None = Piece(start, start + int(sectors) * SECTOR)
            else:
                piece = _beyond_sparse(extent, file, length_of(extent))
            lost = missing(extent, file, piece)
        if lost:
            return lost
    return None


def _beyond_sparse(stream: t.BinaryIO, path: str, length: int) -> Piece | None:
    """A grain that is compressed is refused by QEMU itself where it is cut."""
    head = read_header(stream, _VMDK, path)
    none: tuple[int, ...] = (0,)
    if head[0] == b"COWD":
        sectors, grain, directory, tables = read_header(stream, _VMDK_OLD, path)[3:7]
        entries = 4096
    else:
        flags, sectors, grain, entries, directory = head[2], head[3], head[4], head[7], head[9]
        if flags & _VMDK_COMPRESSED:
            return None
        none = (0, 1) if flags & _VMDK_ZERO_GRAINS else none
        tables = -(-sectors // (grain * entries)) if grain and entries else 0
    if not grain or not entries:
        raise UnsafeImage(f"{path}: the vmdk header is damaged: it has grains of no size", path=path)
    top = read_table(stream, directory * SECTOR, 4 * tables, path)
    if len(top) < 4 * tables:
        return Piece(directory * SECTOR, directory * SECTOR + 4 * tables)
    grid = Grid(grain * SECTOR, SECTOR, sectors * SECTOR, none=none)
    offsets = (number * SECTOR for number in numbers(top, 4, "little"))
    return beyond_two_levels(stream, path, length, offsets, entries, grid)
