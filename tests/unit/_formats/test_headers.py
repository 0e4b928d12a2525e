# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a file says it is, and what it points to, by its first bytes alone."""

from __future__ import annotations

import io
import os
import struct
import time
from contextlib import suppress
from pathlib import Path

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._errors import MissingImage, UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._formats.headers import (
    References,
    open_image,
    recognise,
    references,
    resolve,
)
from ansible_collections.kvmops.disk.plugins.module_utils._formats.vmdk import is_own_extent
from support.foreign import CLOOP_MAGIC
from unit.qcow2_header import BACKING_FORMAT, DATA_FILE, EXTERNAL_DATA, Made

DESCRIPTOR = '# Disk DescriptorFile\nversion=1\ncreateType="monolithicFlat"\n'


def refer(content: bytes, image_format: str) -> References:
    return references(io.BytesIO(content), image_format, "/images/web")


def qed(features: int, name: bytes = b"base.raw") -> bytes:
    fields = (b"QED\0", 65536, 4, 1, features, 0, 0, 65536, 10 << 20, 64, len(name))
    return struct.pack("<4sIIIQQQQQII", *fields) + name


def vmdk(capacity: int, descriptor: str, sector: int = 1) -> bytes:
    return (
        struct.pack("<4sIIQQQQ", b"KDMV", 1, 3, capacity, 128, sector, 20).ljust(sector * 512, b"\0")
        + descriptor.encode()
    )


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (bytes(Made()), "qcow2"),
        (bytes(Made(version=2)), "qcow2"),
        (b"QFI\xfb\0\0\0\x01", "qcow"),
        (b"QFI\xfb", "qcow2"),
        (b"QED\0", "qed"),
        (b"KDMV", "vmdk"),
        (b"COWD", "vmdk"),
        (DESCRIPTOR.encode(), "vmdk"),
        (b"vhdxfile", "vhdx"),
        (b"conectix", "vpc"),
        (b"LUKS\xba\xbe", "luks"),
        (b"WithoutFreeSpace", "parallels"),
        (b"WithouFreSpacExt", "parallels"),
        (b"<<< VDI >>>".ljust(64, b"\0") + b"\x7f\x10\xda\xbe", "vdi"),
        (bytes(1024) + b"conectix".ljust(512, b"\0"), "vpc"),
        (bytes(1024) + b"koly\0\0\0\4".ljust(512, b"\0"), "dmg"),
        (bytes(1024) + b"koly".ljust(512, b"\0"), None),
        (CLOOP_MAGIC, "cloop"),
        (b"#!/bin/sh\n#V2.0 Format\necho", None),
        (b"Bochs Virtual HD Image".ljust(512, b"\0"), "bochs"),
        (b"", None),
        (bytes(4096), None),
        (b"QFI", None),
        (b"\xeb\x63\x90" + bytes(507) + b"\x55\xaa", None),
    ],
    ids=lambda value: str(value)[:12],
)
def test_a_format_is_recognised_by_its_magic(head: bytes, name: str | None) -> None:
    assert recognise(io.BytesIO(head)) == name


def test_a_qcow2_image_refers_to_its_backing_and_its_data_file() -> None:
    assert refer(bytes(Made()), "qcow2") == References()
    with_backing = Made(backing=b"base", extensions=[(BACKING_FORMAT, b"raw")])
    assert refer(bytes(with_backing), "qcow2") == References("base", "raw")
    with_data = Made(incompatible=EXTERNAL_DATA, extensions=[(DATA_FILE, b"/victim")])
    assert refer(bytes(with_data), "qcow2") == References(data_files=("/victim",))


def test_a_raw_disk_refers_to_nothing_whatever_its_guest_wrote() -> None:
    content = bytes(Made(backing=b"/etc/shadow", extensions=[(BACKING_FORMAT, b"raw")]))
    assert refer(content, "raw") == References()


def test_an_old_qcow_image_refers_to_its_backing_file() -> None:
    content = b"QFI\xfb" + struct.pack(">IQI", 1, 48, 4).ljust(44, b"\0") + b"base"
    assert refer(content, "qcow") == References("base")
    assert refer(b"QFI\xfb" + struct.pack(">IQI", 1, 0, 0), "qcow") == References()


def test_a_qed_image_refers_to_its_backing_file() -> None:
    assert refer(qed(0), "qed") == References()
    assert refer(qed(1), "qed") == References("base.raw")
    assert refer(qed(1 | 4), "qed") == References("base.raw", "raw")
    with pytest.raises(UnsafeImage, match="cut off"):
        refer(qed(1)[:40], "qed")


@pytest.mark.parametrize(
    "line",
    [
        'RW 20480 FLAT "/etc/shadow" 0',
        '  RW\t20480  FLAT\t"/etc/shadow" 0',
        'RW +20480 FLAT "/etc/shadow" 0',
        'RW -1 FLAT "/etc/shadow" 0',
        'RW\n20480\nFLAT\n"/etc/shadow" 0',
        'RDONLY 20480 FLAT "/etc/shadow" 0',
        'RW 20480 VMFS "/etc/shadow"',
        'RW 20480 SPARSE "/etc/shadow"',
        'RW 20480FLAT "/etc/shadow" 0',
        'RW 20480 VMFSSPARSE"/etc/shadow"',
        "\v\f" + 'RW 20480 FLAT "/etc/shadow" 0',
    ],
    ids=repr,
)
def test_every_way_to_write_an_extent_is_seen(line: str) -> None:
    assert refer(f"{DESCRIPTOR}\n{line}\n".encode(), "vmdk").data_files == ("/etc/shadow",)


def test_all_extents_of_a_descriptor_are_seen() -> None:
    text = DESCRIPTOR + 'RW 1 SPARSE "a-s001.vmdk"\nRW 1 SPARSE "a-s002.vmdk"\n# RW\nddb.adapterType = "ide"\n'
    assert refer(text.encode(), "vmdk").data_files == ("a-s001.vmdk", "a-s002.vmdk")


def test_an_extent_behind_a_long_comment_is_seen() -> None:
    """QEMU reads up to a mebibyte of a descriptor (vmdk_read_desc)."""
    filler = "# nothing to see here\n" * 40000
    assert refer(f'{DESCRIPTOR}{filler}RW 1 FLAT "/etc/shadow" 0\n'.encode(), "vmdk").data_files == ("/etc/shadow",)


def test_what_stands_behind_a_zero_byte_is_no_extent() -> None:
    assert refer(DESCRIPTOR.encode() + b'\0RW 1 FLAT "/etc/shadow" 0\n', "vmdk").data_files == ()


def test_a_parent_is_seen_wherever_qemu_looks_for_it() -> None:
    """It takes the first mention of the key in the 10 KiB behind the header, whatever is around it."""
    hidden = 'x = 1 parentFileNameHint="/etc/shadow"'
    assert refer(f"{DESCRIPTOR}{hidden}\n".encode(), "vmdk").backing_file == "/etc/shadow"
    assert refer(vmdk(20480, hidden), "vmdk").backing_file == "/etc/shadow"
    elsewhere = bytearray(vmdk(20480, DESCRIPTOR, sector=30))
    elsewhere[512 : 512 + len(hidden)] = hidden.encode()
    assert refer(bytes(elsewhere), "vmdk").backing_file == "/etc/shadow"
    assert refer(b"COWD" + bytes(508) + hidden.encode(), "vmdk").backing_file == "/etc/shadow"


def test_a_descriptor_that_keeps_qemu_busy_is_refused() -> None:
    assert refer((DESCRIPTOR + "\n" * 4000 + 'RW 1 FLAT "a" 0').encode(), "vmdk").data_files == ("a",)
    with pytest.raises(UnsafeImage, match="blanks in a row"):
        refer((DESCRIPTOR + " \n" * 3000).encode(), "vmdk")


@pytest.mark.parametrize(
    "text",
    ["\n" * 1_000_000, "RW " * 330_000, "RW " + "1" * 1_000_000, 'RW 1 FLAT "' * 90_000, "RW 1" + " " * 1_000_000],
    ids=["lines", "words", "digits", "extents", "spaces"],
)
def test_no_descriptor_takes_long_to_read(text: str) -> None:
    start = time.process_time()
    with suppress(UnsafeImage):
        refer((DESCRIPTOR + text).encode(), "vmdk")
    assert time.process_time() - start < 2


def test_a_sparse_vmdk_with_a_capacity_is_its_own_extent() -> None:
    descriptor = DESCRIPTOR + 'RW 20480 SPARSE "web.vmdk"\nparentFileNameHint="base.vmdk"\n'
    assert refer(vmdk(20480, descriptor), "vmdk") == References("base.vmdk", "vmdk")


def test_a_sparse_vmdk_without_a_capacity_is_only_a_descriptor() -> None:
    descriptor = DESCRIPTOR + 'RW 20480 FLAT "/etc/shadow" 0\n'
    assert refer(vmdk(0, descriptor, sector=3), "vmdk").data_files == ("/etc/shadow",)


def test_a_descriptor_beyond_the_end_has_nothing_in_it() -> None:
    head = struct.pack("<4sIIQQQQ", b"KDMV", 1, 3, 0, 128, 2**63, 20)
    assert refer(head, "vmdk") == References()


@pytest.mark.parametrize(
    ("extent", "descriptor", "own"),
    [
        ("web-flat.vmdk", "/images/web.vmdk", True),
        ("web-f001.vmdk", "/images/web.vmdk", True),
        ("web-s0012.vmdk", "/images/web.vmdk", True),
        ("web-000001-delta.vmdk", "/images/web-000001.vmdk", True),
        ("web-flat", "/images/web", True),
        ("web.v2-flat.vmdk", "/images/web.v2.vmdk", True),
        ("web.vmdk", "/images/web.vmdk", False),
        ("other-flat.vmdk", "/images/web.vmdk", False),
        ("web-flat.raw", "/images/web.vmdk", False),
        ("web-flat.vmdk-flat.vmdk", "/images/web.vmdk", False),
        ("web-/../x-flat.vmdk", "/images/web.vmdk", False),
        ("/images/web-flat.vmdk", "/images/web.vmdk", False),
        ("./web-flat.vmdk", "/images/web.vmdk", False),
        ("", "/images/web.vmdk", False),
        ("-flat.vmdk", "/images/.vmdk", False),
    ],
)
def test_an_extent_of_its_own_bears_the_name_of_the_image(extent: str, descriptor: str, own: bool) -> None:
    assert is_own_extent(extent, descriptor) is own


def test_a_link_is_no_extent_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "web-flat.vmdk").symlink_to("/etc/passwd")
    assert not is_own_extent("web-flat.vmdk", str(tmp_path / "web.vmdk"))


@pytest.mark.parametrize("name", ["raw", "vdi", "vhdx", "vpc", "parallels", "luks"])
def test_the_other_formats_refer_to_nothing(name: str) -> None:
    assert refer(b"anything", name) == References()


@pytest.mark.parametrize(
    ("reference", "path"),
    [
        ("base.qcow2", "/images/base.qcow2"),
        ("../golden/base.qcow2", "/golden/base.qcow2"),
        ("/srv/base.qcow2", "/srv/base.qcow2"),
        ("/srv//a/../base.qcow2", "/srv/base.qcow2"),
        ("/srv/a:b.qcow2", "/srv/a:b.qcow2"),
        ("./a:b.qcow2", "/images/a:b.qcow2"),
        ("dir/a:b.qcow2", "/images/dir/a:b.qcow2"),
        ("file:base.qcow2", "/images/base.qcow2"),
        ("file:/srv/base.qcow2", "/srv/base.qcow2"),
        ("nbd://host/export", None),
        ("https://host/base.qcow2", None),
        ("json:{}", None),
        ('json:{"file.filename":"/etc/shadow"}', None),
        ("fat:/etc", None),
        ("nbd:unix:/run/x", None),
        ("a:b.qcow2", None),
    ],
)
def test_a_reference_means_what_qemu_takes_it_for(reference: str, path: str | None) -> None:
    assert resolve(reference, "/images/web.qcow2") == path


def test_a_reference_counts_from_the_directory_of_the_name_not_of_a_links_target() -> None:
    assert resolve("base", "/links/web.qcow2") == "/links/base"


def test_only_files_and_block_devices_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (str(tmp_path / "fifo"), str(tmp_path), "/dev/zero"):
        with pytest.raises(UnsafeImage, match="neither a regular file nor a block device"):
            open_image(path)


def test_a_missing_file_is_told_from_an_unreadable_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "loop").symlink_to("loop")
    for missing in ("missing", "file/below"):
        with pytest.raises(MissingImage, match="no such image"):
            open_image(str(tmp_path / missing))
    with pytest.raises(UnsafeImage, match="cannot be read"):
        open_image(str(tmp_path / "loop"))
