# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How far the content of a qcow2 image reaches into its files, by its L1 and L2 tables and those of its snapshots."""

from __future__ import annotations

import itertools
import os
import stat
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._formats import headers as _headers
from ansible_collections.kvmops.disk.plugins.module_utils._formats import qcow2 as _qcow2
from ansible_collections.kvmops.disk.plugins.module_utils._formats import snapshots as _snapshots
from ansible_collections.kvmops.disk.plugins.module_utils._formats.pieces import (
    SECTOR,
    Cut,
    Piece,
    furthest,
    length_of,
    missing,
)
from ansible_collections.kvmops.disk.plugins.module_utils._formats.tables import masked, numbers

# The entries of a qcow2 table (QEMU, docs/interop/qcow2): bits 9 to 55 are an offset.
_OFFSET = 0x00FF_FFFF_FFFF_FE00
_COMPRESSED = 1 << 62
_READS_ZEROS = 1
_SUBCLUSTERS = 32


def find_cut(stream: t.BinaryIO, path: str) -> Cut | None:
    """What the qcow2 image at *path* lacks, its data file with it. Raises as reach.find_cut does."""
    header = _qcow2.read_header(stream, path)
    tables = _Tables(stream, header, path)
    lost = missing(stream, path, tables.top())
    if lost:
        return lost
    if not header.external_data:
        return missing(stream, path, tables.beyond(length_of(stream)))
    lost = missing(stream, path, tables.beyond(length_of(stream), content=False))
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
                found = furthest((found, Piece(offset, offset + size)), length)
            if content:
                found = furthest((found, self._beyond_l2(table, index, length)), length)
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
        return furthest(map(self._piece, entries, bitmaps, guests), length)

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
        return Piece(start, start // SECTOR * SECTOR + more * SECTOR + 1)

    def _reads_zeros(self, entry: int) -> bool:
        return self.header.version >= 3 and bool(entry & _READS_ZEROS)


def _padded(table: bytes) -> bytes:
    return table.ljust(-(-len(table) // 8) * 8, b"\0")
