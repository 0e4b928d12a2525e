# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is made of sizes, names and options is what qemu-img takes them for, whatever is in them (HAZARDS C)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._errors import InvalidRequest
from ansible_collections.kvmops.disk.plugins.module_utils._formats import qcow2 as _qcow2
from ansible_collections.kvmops.disk.plugins.module_utils._qemu import door as _door
from ansible_collections.kvmops.disk.plugins.module_utils._size import exact_size, parse_size
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.image_tools import KIB, content, info, names, qemu_io, specific

DOOR = _door.find()

numbers = st.one_of(st.integers(0, 5000).map(str), st.decimals(0, 5000, places=2).map(str))
sizes = st.builds(
    lambda number, unit: number + unit, numbers, st.sampled_from(["", "K", "M", "G", "T", "P", "E", "KiB", "GiB"])
)
#: What a file can be called, where it hurts.
words = st.sampled_from(
    [",", ",,", "=", ":", "-", " ", "data_file=/victim", "json:", "nbd:", "\\", "'", '"', "%", "\n"]
)
file_names = st.lists(
    st.one_of(words, st.text(st.characters(codec="utf-8", exclude_characters="\0/"), max_size=4))
).map(lambda parts: "".join(parts).replace("/", "_"))
file_names = file_names.filter(lambda name: 0 < len(name.encode()) <= 200 and name not in (".", ".."))


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="kvmops-properties-") as name:
        yield Path(name)


def as_qemu_img_reads_it(text: str) -> int | None:
    """The bytes that qemu-img takes TEXT for; None where it does not take it."""
    argv = ["qemu-img", "measure", "--output=json", "-O", "raw", "--size", text]
    done = subprocess.run(argv, capture_output=True, check=False)
    return int(json.loads(done.stdout)["fully-allocated"]) if done.returncode == 0 else None


@settings(max_examples=60, deadline=None)
@given(st.one_of(sizes, st.text(alphabet="0123456789.KMGTPEiB +-xe", max_size=8)))
@example("7E")
@example("1.5T")
@example(str((1 << 63) - 512))
def test_a_size_is_as_many_bytes_as_qemu_img_takes_it_for(text: str) -> None:
    try:
        size = parse_size(text)
    except InvalidRequest:
        return  # of what qemu-img takes, much is refused
    assert as_qemu_img_reads_it(text.removesuffix("iB")) == size
    assert as_qemu_img_reads_it(str(size)) == size, "this is what it is given"
    written = exact_size(size).replace(" bytes", "").replace(" ", "").removesuffix("iB")
    assert as_qemu_img_reads_it(written) == size


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(file_names, st.sampled_from(["zlib", "zstd"]))
@example("a,data_file=victim", "zlib")
@example("-f", "zstd")
@example("json:{}", "zlib")
@example("nbd:unix:x", "zlib")
@example("x" * 200, "zlib")
def test_a_name_is_a_name_to_every_verb_whatever_is_in_it(directory: Path, name: str, compression: str) -> None:
    for left in directory.iterdir():
        left.unlink()
    base, top, copy, snapshot = (directory / f"{name}{end}" for end in (".base", "", ".copy", ".snap"))
    alone = directory / f"{name}.alone"
    base.write_bytes(bytes(64 * KIB))
    options = {"backing_file": str(base), "backing_fmt": "raw", "compression_type": compression}
    DOOR.create(str(top), "qcow2", 64 * KIB, options)
    with top.open("rb", buffering=0) as stream:
        header = _qcow2.read_header(stream, str(top))
    assert (header.backing_file, header.backing_format) == (str(base), "raw")
    assert header.compression_type == compression
    assert header.data_file is None
    DOOR.take_snapshot(str(top), os.fsencode(name))
    assert DOOR.check(str(top), "qcow2").result == "good"
    assert [(row.length, row.depth) for row in DOOR.map(str(top), "qcow2")] == [(64 * KIB, 1)]
    assert DOOR.measure(str(top), "qcow2", "qcow2", options={}, alone=True).required > 0
    DOOR.refer(str(top), "qcow2", (str(base), "raw"))
    DOOR.resize(str(top), "qcow2", 128 * KIB)
    DOOR.convert(str(top), "qcow2", str(copy), "qcow2", {"compression_type": compression})
    assert DOOR.same_content(str(top), "qcow2", str(copy), "qcow2")
    (taken,) = info(top)["snapshots"]
    DOOR.convert(str(top), "qcow2", str(snapshot), "raw", {}, snapshot=(taken["id"], name))
    assert snapshot.stat().st_size == 128 * KIB, "read at the size of now, as qemu-img does"
    shutil.copy(top, alone)
    DOOR.delete_snapshot(str(alone), os.fsencode(name))
    DOOR.amend(str(alone), "qcow2", {"lazy_refcounts": "on"})
    DOOR.bitmap(str(alone), os.fsencode(name), "add")
    assert [bitmap["name"] for bitmap in specific(alone)["bitmaps"]] == [name]
    DOOR.rebase(str(alone), "qcow2", None)
    assert info(alone).get("backing-filename") is None
    assert DOOR.identical(str(alone), "qcow2", str(copy), "qcow2")
    qemu_io(top, "write -q -P 7 0 4k")
    DOOR.commit(str(top), "qcow2", str(base))
    assert base.read_bytes()[:4096] == b"\7" * 4096
    assert names(directory) == sorted(path.name for path in (alone, base, top, copy, snapshot))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(file_names, min_size=2, max_size=3, unique=True))
def test_of_snapshots_with_any_names_the_one_that_is_meant_is_read(directory: Path, taken: list[str]) -> None:
    for left in directory.iterdir():
        left.unlink()
    disk = directory / "disk"
    DOOR.create(str(disk), "qcow2", 64 * KIB, {})
    for number, name in enumerate(taken):
        qemu_io(disk, f"write -q -P {number + 1} 0 64k")
        DOOR.take_snapshot(str(disk), os.fsencode(name))
    known = info(disk)["snapshots"]
    for number, name in enumerate(taken):
        copy = directory / "copy"
        DOOR.convert(str(disk), "qcow2", str(copy), "raw", {}, snapshot=(known[number]["id"], name))
        assert copy.read_bytes() == bytes([number + 1]) * 64 * KIB
    DOOR.delete_snapshot(str(disk), os.fsencode(taken[0]))
    assert len(info(disk).get("snapshots", [])) == len(taken) - 1
    DOOR.revert_to_snapshot(str(disk), known[-1]["id"])
    assert content(disk) == content(copy, "raw")
