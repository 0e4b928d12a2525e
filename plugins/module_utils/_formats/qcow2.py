# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The header of a qcow2 image, read from an open file: the safe look before qemu-img.

Nothing that the header names is opened. The layout is QEMU's docs/interop/qcow2; all numbers are big-endian.
"""

from __future__ import annotations

import struct
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
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
#: The fixed part of an entry of the snapshot table.
SNAPSHOT_ENTRY = struct.Struct(">QIHHIIQII")

_EXTENSION_BACKING_FORMAT = 0xE2792ACA
_EXTENSION_DATA_FILE = 0x44415441
_EXTENSION_BITMAPS = 0x23852875
_EXTENSION_ENCRYPTION = 0x0537BE77
_LONGEST_BACKING_NAME = 1023

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
            tables += ((self.snapshots_offset, SNAPSHOT_ENTRY.size * self.snapshot_count),)
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
