# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where the content of a qcow2 image is, by its L1 and L2 tables: the proof that a repair left all of it alone.

A repair writes metadata only. So whatever a guest can read is the same afterwards, now and in every snapshot, if each
guest cluster still has the same place in the file, and no such place is one of metadata. Both are read here, from the
tables alone: eight bytes of a cluster's 65536.
"""

from __future__ import annotations

import typing as t
from array import array

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._formats import qcow2 as _qcow2
from ansible_collections.kvmops.disk.plugins.module_utils._formats import snapshots as _snapshots
from ansible_collections.kvmops.disk.plugins.module_utils._formats.tables import masked, numbers

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._formats.qcow2 import Header
    from ansible_collections.kvmops.disk.plugins.module_utils._formats.snapshots import SnapshotEntry

# The fields of an entry (QEMU, docs/interop/qcow2): bits 9 to 55 are an offset, bit 62 is set for compressed clusters.
_OFFSET = 0x00FF_FFFF_FFFF_FE00
_COMPRESSED = 1 << 62
_SECTOR = 512
_LARGEST_ENCRYPTION_HEADER = 4 << 20  # eight slots of the longest key
_LARGEST_REFCOUNT_TABLE = 8 << 20  # QCOW_MAX_REFTABLE_SIZE


@dataclass(frozen=True)
class Mapping:
    """The content of an image's layers.

    *layers* has a digest for the active layer, then one for each snapshot. *separate* tells whether all that they
    refer to lies within the file, where a cluster of that kind may begin, and apart from the image's own metadata.
    """

    layers: tuple[str, ...]
    separate: bool


def read_mapping(stream: t.BinaryIO, length: int, path: str) -> Mapping:
    """The mapping of the qcow2 image open as *stream*, a file of *length* bytes.

    Raises UnsafeImage where its header or its snapshot table cannot be right.
    """
    header = _qcow2.read_header(stream, path)
    return _Survey(stream, length, header, _snapshots.read_snapshot_table(stream, header, path), path).mapping()


class _Survey:
    """One walk over the tables of an image; an L2 table that layers share is read once."""

    def __init__(
        self, stream: t.BinaryIO, length: int, header: Header, table: t.Sequence[SnapshotEntry], path: str
    ) -> None:
        import hashlib  # it loads OpenSSL, for what few runs need

        self._digest = hashlib.sha256
        self.stream = stream
        self.header = header
        self.end = -(-length // header.cluster_size) * header.cluster_size
        self.separate = True
        self.layers = [(header.virtual_size, self._l1(header.l1_offset, header.l1_entries, path))]
        self.layers += [
            (entry.snapshot.virtual_size, self._l1(entry.l1_offset, entry.l1_entries, path)) for entry in table
        ]
        self.metadata = self._metadata(table)
        self._l2_digests: dict[int, bytes] = {}

    def mapping(self) -> Mapping:
        found = []
        for virtual_size, l1 in self.layers:
            digest = self._digest(str(virtual_size).encode())
            for index, offset in enumerate(l1):
                if offset:
                    digest.update(index.to_bytes(8, "big") + self._l2_digest(offset))
            found.append(digest.hexdigest())
        return Mapping(tuple(found), self.separate)

    def _l1(self, offset: int, entries: int, path: str) -> array[int]:
        table = _snapshots.read_l1(self.stream, offset, entries, path)
        return numbers(masked(table.ljust(-(-len(table) // 8) * 8, b"\0"), _OFFSET))

    def _metadata(self, table: t.Sequence[SnapshotEntry]) -> set[int]:
        """The offsets of the clusters that hold metadata, but for the first: an entry of 0 says that there is none."""
        header = self.header
        length = min(header.refcount_clusters * header.cluster_size, _LARGEST_REFCOUNT_TABLE)
        refcount_table = _qcow2.read_at(self.stream, header.refcount_offset, length)
        ranges = [(header.refcount_offset, len(refcount_table)), (header.l1_offset, 8 * header.l1_entries)]
        place, size = header.encryption_header
        ranges += [(place, min(size, _LARGEST_ENCRYPTION_HEADER))]
        ranges += [(entry.l1_offset, 8 * entry.l1_entries) for entry in table]
        ranges += [(header.snapshots_offset, table[-1].end - header.snapshots_offset)] if table else []
        found = {*numbers(masked(refcount_table[: len(refcount_table) // 8 * 8], _OFFSET))}
        for start, size in ranges:
            found.update(range(start // header.cluster_size * header.cluster_size, start + size, header.cluster_size))
        for _size, l1 in self.layers:
            found.update(l1)
        return found - {0}

    def _l2_digest(self, offset: int) -> bytes:
        if offset not in self._l2_digests:
            size = self.header.cluster_size
            table = _qcow2.read_at(self.stream, offset, size) if offset < self.end else b""
            if len(table) < size or offset % size:
                self.separate = False
                table = table.ljust(size, b"\0")
            self._l2_digests[offset] = self._digest(self._without_flags(table)).digest()
            if not self.header.external_data:
                self.separate = self.separate and self._lies_apart(table)
        return self._l2_digests[offset]

    def _without_flags(self, table: bytes) -> bytes:
        """*table* without what only says whether a cluster is shared; of subclusters, all bits say content."""
        entries, subclusters = self._split(table)
        return _snapshots.without_flags(entries) + subclusters

    def _split(self, table: bytes) -> tuple[bytes, bytes]:
        """The entries of an L2 table, and its subcluster bitmaps, which stand between them."""
        if not self.header.extended_l2:
            return table, b""
        words = array("Q", table)
        return words[::2].tobytes(), words[1::2].tobytes()

    def _lies_apart(self, table: bytes) -> bool:
        """Whether all data that an L2 table refers to is where data may be."""
        entries = self._split(table)[0]
        if masked(entries, _COMPRESSED).strip(b"\0"):
            return all(self._extent_lies_apart(entry) for entry in numbers(entries) if entry)
        offsets = numbers(masked(entries, _OFFSET))
        unaligned = masked(entries, _OFFSET & (self.header.cluster_size - 1)).strip(b"\0")
        return not unaligned and max(offsets) < self.end and self.metadata.isdisjoint(offsets)

    def _extent_lies_apart(self, entry: int) -> bool:
        size = self.header.cluster_size
        if entry & _COMPRESSED:
            width = 62 - (size.bit_length() - 1 - 8)
            start, sectors = entry & ((1 << width) - 1), ((entry & (_COMPRESSED - 1)) >> width) + 1
            clusters = range(start // size * size, start // _SECTOR * _SECTOR + sectors * _SECTOR, size)
            return start >= size and clusters[-1] < self.end and self.metadata.isdisjoint(clusters)
        start = entry & _OFFSET
        return start % size == 0 and start < self.end and start not in self.metadata
