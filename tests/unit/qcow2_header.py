# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qcow2 headers made by hand, right and wrong ones (QEMU, docs/interop/qcow2)."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

BACKING_FORMAT, DATA_FILE, END = 0xE2792ACA, 0x44415441, 0
DIRTY, CORRUPT, EXTERNAL_DATA, COMPRESSION, EXTENDED_L2 = (1 << bit for bit in range(5))


@dataclass
class Made:
    """The fields of a header; `bytes()` is the first cluster, and what follows it."""

    version: int = 3
    magic: bytes = b"QFI\xfb"
    size: int = 10 << 20
    cluster_bits: int = 16
    crypt: int = 0
    incompatible: int = 0
    compatible: int = 0
    refcount_order: int = 4
    header_length: int = 104
    extensions: list[tuple[int, bytes]] = field(default_factory=list)
    backing: bytes = b""
    backing_at: int | None = None
    backing_length: int | None = None
    snapshots: list[bytes] = field(default_factory=list)
    snapshot_count: int | None = None
    snapshots_at: int = 65536

    def __bytes__(self) -> bytes:
        own = self.header_length if self.version == 3 else 72
        extensions = b"".join(
            struct.pack(">II", kind, len(data)) + data + bytes(-len(data) % 8)
            for kind, data in [*self.extensions, (END, b"")]
        )
        at = self.backing_at if self.backing_at is not None else (own + len(extensions) if self.backing else 0)
        length = self.backing_length if self.backing_length is not None else len(self.backing)
        count = self.snapshot_count if self.snapshot_count is not None else len(self.snapshots)
        fixed = struct.pack(
            ">4sIQIIQIIQQIIQ",
            *(self.magic, self.version, at, length, self.cluster_bits, self.size, self.crypt),
            *(1, 0x30000, 0x10000, 1, count, self.snapshots_at if count else 0),
        )
        if self.version >= 3:
            fixed += struct.pack(
                ">QQQII", self.incompatible, self.compatible, 0, self.refcount_order, self.header_length
            )
        head = fixed.ljust(own, b"\0") + extensions
        if self.backing:
            head = head.ljust(own + len(extensions), b"\0") + self.backing
        return head.ljust(65536, b"\0") + b"".join(entry + bytes(-len(entry) % 8) for entry in self.snapshots)


def snapshot(
    identity: bytes = b"1",
    name: bytes = b"before",
    seconds: int = 1700000000,
    nanoseconds: int = 250_000_000,
    small_state: int = 0,
    extra: bytes = struct.pack(">QQ", 7, 5 << 20),
) -> bytes:
    """An entry of the snapshot table."""
    fields = (0x40000, 1, len(identity), len(name), seconds, nanoseconds, 0, small_state, len(extra))
    return struct.pack(">QIHHIIQII", *fields) + extra + identity + name
