# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The header of a qcow2 image is read without opening anything that it names, and a damaged one is refused."""

from __future__ import annotations

import contextlib
import io
import random
import struct
from pathlib import Path

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._errors import UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._formats.qcow2 import Header, read_header
from ansible_collections.kvmops.disk.plugins.module_utils._formats.snapshots import Snapshot, read_l1, read_snapshots
from hypothesis import given
from hypothesis import strategies as st
from unit.qcow2_header import (
    BACKING_FORMAT,
    CORRUPT,
    DATA_FILE,
    DIRTY,
    EXTENDED_L2,
    EXTERNAL_DATA,
    Made,
    snapshot,
)

PATH = "/images/web.qcow2"


def header(made: Made) -> Header:
    return read_header(io.BytesIO(bytes(made)), PATH)


def snapshots(made: Made) -> tuple[Snapshot, ...]:
    stream = io.BytesIO(bytes(made))
    return read_snapshots(stream, read_header(stream, PATH), PATH)


def test_a_plain_header_is_read() -> None:
    found = header(Made())
    assert (found.compat, found.virtual_size, found.cluster_size) == ("1.1", 10 << 20, 65536)
    assert (found.refcount_bits, found.lazy_refcounts, found.extended_l2) == (16, False, False)
    assert (found.backing_file, found.backing_format, found.data_file) == (None, None, None)
    assert (found.encrypted, found.dirty, found.corrupt, found.external_data) == (False, False, False, False)
    assert (found.unknown_incompatible, found.snapshot_count) == (0, 0)


def test_version_2_has_the_defaults_of_its_time() -> None:
    found = header(Made(version=2, backing=b"base.qcow2", extensions=[(BACKING_FORMAT, b"qcow2")]))
    assert (found.compat, found.refcount_bits, found.lazy_refcounts) == ("0.10", 16, False)
    assert (found.backing_file, found.backing_format) == ("base.qcow2", "qcow2")


@pytest.mark.parametrize("bits", range(9, 22))
def test_every_cluster_size_is_known(bits: int) -> None:
    assert header(Made(cluster_bits=bits)).cluster_size == 1 << bits


def test_feature_bits_are_told_apart() -> None:
    assert header(Made(incompatible=DIRTY)).dirty
    assert header(Made(incompatible=CORRUPT)).corrupt
    assert header(Made(incompatible=EXTENDED_L2)).extended_l2
    assert header(Made(compatible=1)).lazy_refcounts
    assert header(Made(crypt=2)).encrypted
    assert header(Made(refcount_order=6)).refcount_bits == 64
    assert header(Made(incompatible=1 << 5 | 1 << 63 | DIRTY)).unknown_incompatible == 1 << 5 | 1 << 63


def test_references_are_read_as_they_are_written() -> None:
    extensions = [(0x6803F857, b"x" * 48), (BACKING_FORMAT, b"raw"), (DATA_FILE, b"/victim")]
    found = header(Made(backing=b'json:{"driver":"nbd"}', extensions=extensions, incompatible=EXTERNAL_DATA))
    assert found.backing_file == 'json:{"driver":"nbd"}'
    assert (found.backing_format, found.data_file, found.external_data) == ("raw", "/victim", True)


def test_a_name_that_is_no_utf8_survives() -> None:
    found = header(Made(backing=b"/images/\xff.raw")).backing_file
    assert found is not None
    assert found.encode(errors="surrogateescape") == b"/images/\xff.raw"


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (Made(magic=b"QFI\0"), "not a qcow2 image"),
        (Made(version=1), "version 1 is not known"),
        (Made(version=4), "version 4 is not known"),
        (Made(cluster_bits=8), "header is damaged"),
        (Made(cluster_bits=22), "header is damaged"),
        (Made(cluster_bits=2**31), "header is damaged"),
        (Made(refcount_order=7), "header is damaged"),
        (Made(header_length=71), "header is damaged"),
        (Made(snapshot_count=65537), "header is damaged"),
        (Made(backing=b"x" * 1024), "backing file name has 1024 bytes"),
        (Made(backing=b"x", backing_length=0), "backing file name has 0 bytes"),
        (Made(backing_at=65537, backing_length=5), "beyond the first cluster"),
        (Made(backing_at=2**63, backing_length=5), "beyond the first cluster"),
        (Made(incompatible=EXTERNAL_DATA), "data is in another file, which it does not name"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_damaged_header_is_refused(made: Made, reason: str) -> None:
    with pytest.raises(UnsafeImage, match=f"^{PATH}: .*{reason}"):
        header(made)


@pytest.mark.parametrize("length", [0, 3, 4, 71, 72, 103])
def test_a_header_that_is_cut_off_is_refused(length: int) -> None:
    with pytest.raises(UnsafeImage):
        read_header(io.BytesIO(bytes(Made())[:length]), PATH)


def test_a_backing_name_that_is_cut_off_is_refused() -> None:
    content = bytes(Made(backing=b"/images/base.qcow2"))
    with pytest.raises(UnsafeImage, match="backing file name"):
        read_header(io.BytesIO(content[:120]), PATH)


def test_an_extension_that_claims_gigabytes_is_not_read() -> None:
    """A name far behind the header would make room for it: QEMU refuses that, and so does this."""
    content = bytearray(bytes(Made(extensions=[(0x11111111, b"")])))
    struct.pack_into(">II", content, 104, 0x11111111, 0xFFFFFFF0)
    assert read_header(io.BytesIO(bytes(content)), PATH).backing_format is None


def test_snapshots_are_listed_with_dates_and_sizes() -> None:
    first, second = snapshots(Made(snapshots=[snapshot(), snapshot(b"2", "später".encode(), 0, 0)]))
    assert first == Snapshot("1", "before", "2023-11-14T22:13:20.250000+00:00", 7, 5 << 20)
    assert second == Snapshot("2", "später", "1970-01-01T00:00:00+00:00", 7, 5 << 20)


def test_a_snapshot_of_an_old_image_has_the_size_of_the_image() -> None:
    (found,) = snapshots(Made(version=2, snapshots=[snapshot(extra=b"", small_state=9)]))
    assert (found.vm_state_size, found.virtual_size) == (9, 10 << 20)


def test_extra_data_that_nobody_knows_is_skipped() -> None:
    one, two = snapshots(Made(snapshots=[snapshot(extra=struct.pack(">QQQ", 1, 2 << 20, 3)), snapshot(b"2", b"next")]))
    assert (one.name, one.virtual_size, two.name) == ("before", 2 << 20, "next")


def test_a_snapshot_with_impossible_nanoseconds_still_has_a_date() -> None:
    (found,) = snapshots(Made(snapshots=[snapshot(nanoseconds=2**32 - 1)]))
    assert str(found.date).startswith("2023-11-14T22:13:20.999999")


def test_a_snapshot_name_that_is_no_utf8_is_shown_as_well_as_can_be() -> None:
    (found,) = snapshots(Made(snapshots=[snapshot(name=b"caf\xe9")]))
    assert found.name == "caf\ufffd"


def test_a_snapshot_table_that_is_cut_off_is_refused() -> None:
    with pytest.raises(UnsafeImage, match="snapshot table is cut off"):
        snapshots(Made(snapshots=[snapshot()], snapshot_count=2))


def test_a_snapshot_table_larger_than_qemu_writes_is_refused(tmp_path: Path) -> None:
    image = tmp_path / "endless"
    image.write_bytes(bytes(Made(snapshot_count=600)))
    entry = struct.pack(">QIHHIIQII", 0, 0, 65535, 65535, 0, 0, 0, 0, 0)
    with image.open("r+b") as stream:
        for number in range(600):
            stream.seek(65536 + number * (len(entry) + 2 * 65535 + 2))
            stream.write(entry)
        stream.truncate(stream.tell() + 2 * 65535)
    with image.open("rb", buffering=0) as raw:
        found = read_header(raw, PATH)
        with pytest.raises(UnsafeImage, match="larger than any that QEMU writes"):
            read_snapshots(raw, found, PATH)


@pytest.mark.parametrize("length", [1, 39, 62])
def test_a_snapshot_whose_name_is_cut_off_is_refused(length: int) -> None:
    content = bytes(Made(snapshots=[snapshot()]))[: 65536 + length]
    stream = io.BytesIO(content)
    with pytest.raises(UnsafeImage, match="snapshot table is cut off"):
        read_snapshots(stream, read_header(stream, PATH), PATH)


def test_a_snapshot_with_more_extra_data_than_qemu_takes_is_refused() -> None:
    with pytest.raises(UnsafeImage, match="an entry that QEMU does not take"):
        snapshots(Made(snapshots=[snapshot(extra=bytes(1032))]))


def test_an_l1_table_is_read_without_flags_and_without_its_empty_end() -> None:
    table = struct.pack(">QQQQ", 1 << 63 | 0x50000, 0, 0x60000, 0)
    stream = io.BytesIO(bytes(512) + table)
    assert read_l1(stream, 512, 4, PATH) == struct.pack(">QQQ", 0x50000, 0, 0x60000).rstrip(b"\0")
    assert read_l1(stream, 512, 0, PATH) == b""
    for entries, reason in ((5, "cut off"), (1 << 23, "more than QEMU takes")):
        with pytest.raises(UnsafeImage, match=reason):
            read_l1(stream, 512, entries, PATH)


@given(st.integers(0, 2**32 - 1))
def test_random_damage_never_makes_the_reader_fail_otherwise(seed: int) -> None:
    numbers = random.Random(seed)
    content = bytearray(bytes(Made(backing=b"base", extensions=[(BACKING_FORMAT, b"raw")], snapshots=[snapshot()])))
    for _times in range(numbers.randint(1, 8)):
        content[numbers.choice([numbers.randrange(4, 160), 65536 + numbers.randrange(64)])] = numbers.randrange(256)
    stream = io.BytesIO(bytes(content[: numbers.choice([len(content), numbers.randrange(len(content))])]))
    with contextlib.suppress(UnsafeImage):
        read_snapshots(stream, read_header(stream, PATH), PATH)
