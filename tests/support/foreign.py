# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks in formats that qemu-img reads and nothing here writes, made by their descriptions: bochs, cloop, dmg.

After block/bochs.c, block/cloop.c and block/dmg.c of QEMU, and the tools of those names.
"""

from __future__ import annotations

import base64
import struct
import zlib
from pathlib import Path

SECTOR = 512
CLOOP_MAGIC = b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n"


def make_foreign(path: Path, image_format: str, content: bytes) -> Path:
    """An image at PATH whose disk is CONTENT, whole sectors."""
    path.write_bytes({"bochs": bochs, "cloop": cloop, "dmg": dmg}[image_format](content))
    return path


def bochs(content: bytes, extent: int = 64 * 1024) -> bytes:
    """A growing redolog: extents with a bitmap of their sectors, found by a catalog; without those that are zeros."""
    pieces = [content[at : at + extent].ljust(extent, b"\0") for at in range(0, len(content), extent)]
    catalog, data = [], b""
    for piece in pieces:
        if not any(piece):
            catalog.append(0xFFFFFFFF)
            continue
        catalog.append(sum(1 for place in catalog if place != 0xFFFFFFFF))
        data += (b"\xff" * (extent // SECTOR // 8)).ljust(SECTOR, b"\0") + piece
    head = struct.pack("<32s16s16s", b"Bochs Virtual HD Image", b"Redolog", b"Growing")
    head += struct.pack("<IIIIIIQ", 0x20000, SECTOR, len(catalog), SECTOR, extent, 0, len(content))
    return head.ljust(SECTOR, b"\0") + struct.pack(f"<{len(catalog)}I", *catalog) + data


def cloop(content: bytes, block: int = 64 * 1024) -> bytes:
    """Compressed blocks, one after the other, and a table of where each begins."""
    blocks = [zlib.compress(content[at : at + block].ljust(block, b"\0")) for at in range(0, len(content), block)]
    place = len(CLOOP_MAGIC.ljust(128, b"\0")) + 8 + 8 * (len(blocks) + 1)
    offsets = [place]
    for each in blocks:
        offsets.append(offsets[-1] + len(each))
    table = struct.pack(f">II{len(offsets)}Q", block, len(blocks), *offsets)
    return CLOOP_MAGIC.ljust(128, b"\0") + table + b"".join(blocks)


def dmg(content: bytes, chunk: int = 64 * 1024) -> bytes:
    """Compressed, raw and empty chunks; a table of them in a property list; a trailer that says where that is."""
    data, rows = b"", []
    for at in range(0, len(content), chunk):
        piece = content[at : at + chunk]
        kind, stored = 2, b""
        if any(piece):
            kind, stored = (0x80000005, zlib.compress(piece)) if at % (2 * chunk) else (1, piece)
        rows.append(struct.pack(">IIQQQQ", kind, 0, at // SECTOR, len(piece) // SECTOR, len(data), len(stored)))
        data += stored
    sectors = len(content) // SECTOR
    rows.append(struct.pack(">IIQQQQ", 0xFFFFFFFF, 0, sectors, 0, len(data), 0))
    mish = struct.pack(">4sIQQQ", b"mish", 1, 0, sectors, 0).ljust(200, b"\0") + struct.pack(">I", len(rows))
    table = base64.b64encode(mish + b"".join(rows)).decode()
    plist = (
        f"<plist><dict><key>blkx</key><array><dict><key>Data</key><data>{table}</data></dict></array></dict></plist>"
    )
    koly = bytearray(512)
    koly[0:12] = struct.pack(">4sII", b"koly", 4, 512)
    koly[0x20:0x28] = struct.pack(">Q", len(data))
    koly[0xD8:0xE8] = struct.pack(">QQ", len(data), len(plist))
    koly[0x1EC:0x1F4] = struct.pack(">Q", sectors)
    return data + plist.encode() + bytes(koly)
