# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How far tables reach that qemu-img does not write here; all others are held against it in tests/integration."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._errors import UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._formats.pieces import Cut, Piece
from ansible_collections.kvmops.disk.plugins.module_utils._formats.reach import find_cut
from unit.qcow2_header import Made

KIB, MIB = 1 << 10, 1 << 20


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "disk"


def qcow(entry: int, length: int) -> bytes:
    """A disk of 64 KiB in clusters of 4 KiB, of which the first is where ENTRY says."""
    head = struct.pack(">4sIQIIQBBHIQ", b"QFI\xfb", 1, 0, 0, 0, 64 * KIB, 12, 9, 0, 0, 4096)
    return (head.ljust(4096, b"\0") + struct.pack(">Q", 8192)).ljust(8192, b"\0") + struct.pack(">Q", entry).ljust(
        length - 8192, b"\0"
    )


def test_a_compressed_cluster_of_qcow_ends_where_its_length_says(path: Path) -> None:
    packed = 1 << 63 | 100 << 51 | 12288
    path.write_bytes(qcow(packed, 12288 + 100))
    assert find_cut(str(path), "qcow") is None
    path.write_bytes(qcow(packed, 12288 + 99))
    assert find_cut(str(path), "qcow") == Cut(str(path), 12288 + 99, Piece(12288, 12288 + 100))


def test_a_grain_of_an_old_vmdk_is_found_by_its_two_directories(path: Path) -> None:
    head = struct.pack("<4sIIIIIII", b"COWD", 1, 3, 128, 16, 4, 1, 0)
    directory = struct.pack("<I", 8).ljust(2048, b"\0")
    table = struct.pack("<I", 48).ljust(4 * 4096, b"\0")
    content = head.ljust(2048, b"\0") + directory + table
    path.write_bytes(content.ljust(64 * 512, b"\0"))
    assert find_cut(str(path), "vmdk") is None
    path.write_bytes(content.ljust(63 * 512, b"\0"))
    assert find_cut(str(path), "vmdk") == Cut(str(path), 63 * 512, Piece(48 * 512, 64 * 512))


@pytest.mark.parametrize("length", [512, 512 + 3, 1024, 1024 + 2047])
def test_the_tables_of_a_compressed_vmdk_are_looked_at_wherever_they_are(length: int, path: Path) -> None:
    """Behind the grains; without them QEMU takes all for zeros. A grain that is cut it refuses itself."""
    head = struct.pack("<4sIIQQQQIQQ", b"KDMV", 3, 1 << 16, 128, 128, 0, 0, 512, 0, 1)
    directory, table = struct.pack("<I", 2), struct.pack("<I", 1 << 20)
    content = head.ljust(512, b"\0") + directory.ljust(512, b"\0") + table.ljust(2048, b"\0")
    path.write_bytes(content)
    assert find_cut(str(path), "vmdk") is None
    path.write_bytes(content[:length])
    assert find_cut(str(path), "vmdk") is not None


def test_a_compressed_vmdk_with_a_footer_is_left_to_qemu(path: Path) -> None:
    path.write_bytes(struct.pack("<4sIIQQQQIQQ", b"KDMV", 3, 1 << 16, 128, 128, 0, 0, 512, 0, (1 << 64) - 1))
    assert find_cut(str(path), "vmdk") is None


def sesparse(entry: int) -> bytes:
    """Grains of 4 KiB from sector 16 on, tables of a sector from sector 2 on; the second is in use, and has ENTRY."""
    head = struct.pack("<24x2Q88x3Q40xQ", 8, 1, 1, 1, 2, 16)
    directory = struct.pack("<Q", 0x1000_0000_0000_0001)
    return head.ljust(512, b"\0") + directory.ljust(1024, b"\0") + struct.pack("<Q", entry).ljust(512, b"\0")


@pytest.mark.parametrize(
    ("entry", "end"),
    [
        (0, 2048),
        (0x1000_0000_0000_0000, 2048),
        (0x2000_0000_0000_0000, 2048),
        (0x3000_0000_0000_0000, 3 * 4096),
        (0x3005_0000_0000_0000, 8 * 4096),
        (0x3000_0000_0000_0001, (3 + 4096) * 4096),
    ],
    ids=["none", "unmapped", "zeros", "first", "sixth", "after-the-first-4096"],
)
def test_a_grain_of_a_vmdk_of_vmware_s_snapshots_is_found_by_its_number(entry: int, end: int, path: Path) -> None:
    path.write_text('# Disk DescriptorFile\nRW 4096 SESPARSE "disk-sesparse.vmdk"\n')
    extent = path.with_name("disk-sesparse.vmdk")
    extent.write_bytes(sesparse(entry))
    for length, is_whole in ((end, True), (end - 1, False), (1024, False), (520, False)):
        with extent.open("r+b") as stream:
            stream.truncate(length)
        lost = find_cut(str(path), "vmdk")
        assert (lost is None) == is_whole, length
        assert is_whole or (lost is not None and lost.file == str(extent))
        extent.write_bytes(sesparse(entry))


@pytest.mark.parametrize(("kind", "before", "is_whole"), [(2, 4096, True), (2, 3584, False), (3, 3584, True)])
def test_a_vhd_of_a_fixed_size_has_all_of_it_before_its_footer(
    kind: int, before: int, is_whole: bool, path: Path
) -> None:
    path.write_bytes(bytes(before) + struct.pack(">8s40xQ4xI", b"conectix", 4096, kind).ljust(512, b"\0"))
    assert (find_cut(str(path), "vpc") is None) == is_whole


def test_a_block_of_a_dynamic_vhd_is_found_with_the_bitmap_before_it(path: Path) -> None:
    """Blocks of 2 MiB, each behind a sector of bits; the second of the two is mapped."""
    copy = struct.pack(">8s8xQ", b"conectix", 512).ljust(512, b"\0")
    header = struct.pack(">8s8xQ4xII", b"cxsparse", 1536, 2, 2 * MIB).ljust(1024, b"\0")
    table = struct.pack(">II", 0xFFFF_FFFF, 4)
    whole = 4 * 512 + 512 + 2 * MIB
    for length, is_whole in ((whole, True), (whole - 1, False), (1536 + 7, False), (600, False)):
        path.write_bytes((copy + header + table).ljust(whole, b"\0")[:length])
        assert (find_cut(str(path), "vpc") is None) == is_whole, length


@pytest.mark.parametrize("entry", [0xFFFF_FFFF, 0xFFFF_FFFE], ids=["free", "discarded"])
def test_a_block_of_vdi_that_holds_nothing_needs_no_file(entry: int, path: Path) -> None:
    head = bytearray(1024)
    struct.pack_into("<II", head, 0x154, 512, 1024)
    struct.pack_into("<QIII", head, 0x170, 2 * MIB, MIB, 0, 2)
    struct.pack_into("<II", head, 512, entry, 0)
    path.write_bytes(bytes(head) + bytes(MIB))
    assert find_cut(str(path), "vdi") is None
    path.write_bytes(bytes(head) + bytes(MIB - 1))
    assert find_cut(str(path), "vdi") == Cut(str(path), 1023 + MIB, Piece(1024, 1024 + MIB))


def qcow2(path: Path, entry: int, **fields: int) -> None:
    """Only the first cluster of the disk is mapped, by ENTRY; the file has 6 clusters of 64 KiB."""
    content = bytearray(bytes(Made(**fields)).ljust(6 * 65536, b"\0"))  # type: ignore[arg-type]
    struct.pack_into(">Q", content, 0x30000, 1 << 63 | 0x40000)
    struct.pack_into(">Q", content, 0x40000, entry)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("entry", "version", "end"),
    [
        (1 << 63 | 0x50000, 3, None),
        (1 << 63 | 0x60000, 3, 0x70000),
        (1 << 63 | 0x60000 | 1, 3, None),
        (1 << 63 | 0x60000 | 1, 2, 0x70000),
        (0x60000, 3, 0x70000),
        (1 << 62 | 0x5FFFF, 3, None),
        (1 << 62 | 1 << 54 | 0x5FF00, 3, 0x60001),
    ],
    ids=["within", "beyond", "zeros", "no-zeros-in-v2", "shared", "packed", "packed-beyond"],
)
def test_an_entry_of_qcow2_reaches_as_far_as_a_guest_needs_it(
    entry: int, version: int, end: int | None, path: Path
) -> None:
    qcow2(path, entry, version=version)
    lost = find_cut(str(path), "qcow2")
    assert (lost.piece.end if lost else None) == end


def test_a_file_that_ends_with_the_disk_is_whole(path: Path) -> None:
    """Others than QEMU may leave out what no guest can read."""
    qcow2(path, 1 << 63 | 0x50000, size=512)
    with path.open("r+b") as stream:
        stream.truncate(0x50000 + 512)
    assert find_cut(str(path), "qcow2") is None
    with path.open("r+b") as stream:
        stream.truncate(0x50000 + 511)
    assert find_cut(str(path), "qcow2") == Cut(str(path), 0x50000 + 511, Piece(0x50000, 0x50000 + 512))


@pytest.mark.parametrize(
    ("image_format", "content"),
    [
        ("qcow", struct.pack(">4sIQIIQBBHIQ", b"QFI\xfb", 1, 0, 0, 0, MIB, 63, 9, 0, 0, 48)),
        ("qcow", b"QFI\xfb"),
        ("qed", b"QED\0".ljust(80, b"\0")),
        ("vdi", bytes(1024)),
        ("parallels", b"WithoutFreeSpace".ljust(64, b"\0")),
        ("vmdk", b"KDMV".ljust(512, b"\0")),
        ("bochs", bytes(512)),
    ],
)
def test_a_header_that_cannot_be_right_is_an_error_of_ours(image_format: str, content: bytes, path: Path) -> None:
    path.write_bytes(content)
    with pytest.raises(UnsafeImage):
        find_cut(str(path), image_format)


@pytest.mark.parametrize("image_format", ["raw", "luks", "vhdx", "vpc", "dmg", "cloop"])
def test_a_format_without_tables_to_read_is_taken_as_it_is(image_format: str, path: Path) -> None:
    path.write_bytes(bytes(1024))
    assert find_cut(str(path), image_format) is None
