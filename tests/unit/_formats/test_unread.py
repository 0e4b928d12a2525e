# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What headers say and QEMU does not read."""

from __future__ import annotations

import io
import struct

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._errors import UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._formats import unread as _unread

FIXED, DYNAMIC, DIFFERENCING = 2, 3, 4
REPLAYED, PENDING = bytes(16), b"\x07" * 16


def vpc(kind: int, size: int = 1 << 20) -> bytes:
    footer = struct.pack(">8s40xQ4xI", b"conectix", size, kind).ljust(512, b"\0")
    return bytes(512) + footer if kind == FIXED else footer + bytes(1024) + footer


def vdi(kind: int) -> bytes:
    return struct.pack("<76xI", kind).ljust(1024, b"\0")


def vhdx(first: tuple[int, bytes], second: tuple[int, bytes], signature: bytes = b"head") -> bytes:
    """Two headers, of which that with the larger number counts."""
    headers = [struct.pack("<4sIQ32x16s", signature, 0, *fields).ljust(64 << 10, b"\0") for fields in (first, second)]
    return b"vhdxfile".ljust(64 << 10, b"\0") + b"".join(headers)


def vmdk(text: str, *, sparse: bool = False) -> bytes:
    head = b"KDMV".ljust(512, b"\0") if sparse else b""
    return head + f"# Disk DescriptorFile\nversion=1\nCID=12345678\n{text}\n".encode()


FLAT, MORE = 'RW 8 FLAT "disk-f001.vmdk" 0', 'RW 8 FLAT "disk-f002.vmdk" 0'
NOT_READ = {
    "zeros": f"{FLAT}\nRW 8 ZERO\n{MORE}",
    "read-only": f"{FLAT}\n{MORE.replace('RW', 'RDONLY')}",
    "without-access": f"{FLAT}\n{MORE.replace('RW', 'NOACCESS')}\n{FLAT}",
    "of-an-unknown-type": f"{FLAT}\n{MORE.replace('FLAT', 'VMFSRDM')}",
    "in-small-letters": f"{FLAT}\n{MORE.lower()}",
    "with-a-sign": f"{FLAT}\n{MORE.replace('8', '+8')}",
    "without-a-blank": f"{FLAT}\n{MORE.replace(' FLAT', 'FLAT')}",
    "over-two-lines": f"{FLAT}\n{MORE.replace(' FLAT', chr(10) + 'FLAT')}",
    "flat-without-its-first-sector": f"{FLAT}\n{MORE.removesuffix(' 0')}",
    "after-an-empty-line": f"{FLAT}\n \n{MORE}",
}
READ = {
    "flat": f"{FLAT}\n{MORE}",
    "of-windows": f"{FLAT}\r\n{MORE}\r",
    "indented": f"  {FLAT}\n\t{MORE}",
    "of-a-partition": f"{FLAT} partitionUUID 0a1b",
    "vmfs": 'RW 8 VMFS "disk-flat.vmdk"',
    "sparse": 'RW 8 SPARSE "disk-s001.vmdk"',
    "sesparse": 'RW 8 SESPARSE "disk-sesparse.vmdk"',
    "with-other-words": f"rwx = 1\n# RW 8 ZERO\n{FLAT}",
}
REFUSED = {
    **{f"vmdk-extent-{name}": ("vmdk", vmdk(text)) for name, text in NOT_READ.items()},
    "vpc-differencing": ("vpc", vpc(DIFFERENCING)),
    "vdi-undo": ("vdi", vdi(3)),
    "vdi-differencing": ("vdi", vdi(4)),
    "vmdk-of-a-parent-without-a-name": ("vmdk", vmdk("parentCID=0a1b2c3d")),
    "vmdk-sparse-of-a-parent-without-a-name": ("vmdk", vmdk("parentCID = 0A1B2C3D", sparse=True)),
}
ACCEPTED = {
    **{f"vmdk-extent-{name}": ("vmdk", vmdk(text)) for name, text in READ.items()},
    "vpc-fixed": ("vpc", vpc(FIXED)),
    "vpc-dynamic": ("vpc", vpc(DYNAMIC)),
    "vdi-dynamic": ("vdi", vdi(1)),
    "vdi-static": ("vdi", vdi(2)),
    "vmdk-without-parent": ("vmdk", vmdk("parentCID=ffffffff")),
    "vmdk-with-a-parent-that-qemu-follows": ("vmdk", vmdk('parentCID=0a1b2c3d\nparentFileNameHint="base.vmdk"')),
    "raw": ("raw", vpc(DIFFERENCING)),
}


@pytest.mark.parametrize(("image_format", "content"), REFUSED.values(), ids=REFUSED)
def test_content_that_qemu_does_not_see_is_refused(image_format: str, content: bytes) -> None:
    with pytest.raises(UnsafeImage, match=r"^/disk: "):
        _unread.require_nothing_unread(io.BytesIO(content), image_format, "/disk")


@pytest.mark.parametrize(("image_format", "content"), ACCEPTED.values(), ids=ACCEPTED)
def test_what_qemu_reads_as_a_whole_is_not_refused(image_format: str, content: bytes) -> None:
    _unread.require_nothing_unread(io.BytesIO(content), image_format, "/disk")


@pytest.mark.parametrize(
    ("headers", "named"),
    [
        (vhdx((9, PENDING), (8, REPLAYED)), True),
        (vhdx((7, REPLAYED), (8, PENDING)), True),
        (vhdx((9, REPLAYED), (8, PENDING)), False),
        (vhdx((9, PENDING), (8, PENDING), signature=b"none"), False),
    ],
    ids=["in-the-first", "in-the-second", "in-an-old-one", "in-none"],
)
def test_the_newer_header_names_the_log(headers: bytes, named: bool) -> None:
    assert _unread.names_log(io.BytesIO(headers)) == named


@pytest.mark.parametrize("kind", [FIXED, DYNAMIC])
def test_a_vhd_larger_than_qemu_reads_it_is_refused(kind: int) -> None:
    stream = io.BytesIO(vpc(kind, 1 << 20))
    for virtual_size in (1 << 20, (1 << 20) + 4096):
        _unread.require_true_size(stream, virtual_size, "/disk")
    with pytest.raises(UnsafeImage, match="says 1048576 bytes, and QEMU reads 1048064") as refusal:
        _unread.require_true_size(stream, (1 << 20) - 512, "/disk")
    assert refusal.value.facts["virtual_size"] == (1 << 20) - 512


@pytest.mark.parametrize("offset", [0, 4096])
def test_an_extension_of_parallels_is_seen(offset: int) -> None:
    stream = io.BytesIO(struct.pack("<16s40xQ", b"WithouFreSpacExt", offset))
    assert _unread.has_extension(stream) == bool(offset)
