# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Data that a file system calls a hole: QEMU reads zeros there, and nothing of that is called verified (HAZARDS P6)."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._content.comparison import same_content
from ansible_collections.kvmops.disk.plugins.module_utils._host.file_copy import copy_file
from ansible_collections.kvmops.disk.plugins.module_utils._host.holes import are_told_truly
from ansible_collections.kvmops.disk.plugins.module_utils._qemu import door as _door
from lab import Disk, Hypervisor
from lab.fixtures import MakeDomain
from lab.module import run_module
from support import stand_in
from support.file_systems import over
from support.image_tools import KIB, MIB, NOBODY, create, image_params, overlay, qemu_img, qemu_io
from support.injection import points

HIDE_DATA = Path(__file__).parents[1] / "support" / "hide_data.py"
SIZE = 8 * MIB


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A directory of which nobody knows whether it tells holes truly."""
    with over(tmp_path / "over") as directory:
        yield directory


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """An interpreter whose qemu-img is told of each file that it is one hole."""
    directory = tmp_path / "lie"
    directory.mkdir()
    return stand_in.python_with(directory, f'exec {sys.executable} -IS {HIDE_DATA} $REAL "$@"')


def raw_disk(path: Path) -> Path:
    """Data, a hole, and data at an odd place near the end."""
    create(path, "raw", SIZE)
    for at, length, seed in ((0, MIB, 1), (5 * MIB + 4 * KIB, 64 * KIB, 2), (SIZE - 512, 512, 3)):
        with path.open("r+b") as disk:
            disk.seek(at)
            disk.write(random.Random(seed).randbytes(length))
    return path


def plain(path: Path, image_format: str, copy: Path) -> bytes:
    qemu_img("convert", "-f", image_format, "-O", "raw", path, copy)
    return copy.read_bytes()


def run(python: Path, module: str, **params: Any) -> dict[str, Any]:
    return run_module(module, {"uri": NOBODY, **params}, python=python)


def test_a_conversion_that_read_zeros_in_place_of_data_is_not_believed(place: Path, python: Path) -> None:
    source = raw_disk(place / "disk.raw")
    content = source.read_bytes()
    wish = {"src": str(source), "src_format": "raw", "dest": str(place / "disk.qcow2"), "remove_src": True}
    result = run(python, "qcow2_convert", **wish)
    assert result.get("failed"), result
    assert "other content" in result["msg"]
    assert source.read_bytes() == content
    assert [path.name for path in place.iterdir()] == ["disk.raw"]


@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
def test_every_layer_that_is_read_is_brought_to_stable_storage_first(tmp_path: Path, image_format: str) -> None:
    """Some file systems tell of holes truly only then. What else is synced before does not depend on the source."""
    synced = []
    base = raw_disk(tmp_path / "base.raw")
    for source, kind in ((base, "raw"), (overlay(tmp_path / "top.qcow2", base, "raw"), "qcow2")):
        wish = {"src": str(source), "src_format": kind, "dest": f"{source}.new", "format": image_format}
        passed = points(
            {**wish, "trusted": True, "uri": NOBODY}, tmp_path / f"points of {kind}", module="qcow2_convert"
        )
        synced.append(sum(point.startswith("fsync ") for point in passed[: passed.index("qemu-img-convert 1")]))
    assert synced[1] == synced[0] + 1 >= 2


def test_two_disks_that_seem_to_be_one_hole_are_not_called_equal(place: Path, python: Path) -> None:
    disk, empty = raw_disk(place / "disk.raw"), create(place / "empty.raw", "raw", SIZE)
    wish = {"path": str(disk), "format": "raw", "other": str(empty), "other_format": "raw"}
    assert run(python, "qcow2_compare", **wish)["equal"] is False
    assert run(python, "qcow2_compare", **{**wish, "other": str(disk)})["equal"] is True
    assert run(python, "qcow2_compare", **wish, strict=True)["equal"] is False


def test_a_flattened_image_keeps_what_lies_in_a_base_that_seems_to_be_one_hole(
    place: Path, python: Path, tmp_path: Path
) -> None:
    base = raw_disk(place / "base.raw")
    top = overlay(place / "top.qcow2", base, "raw")
    before = plain(top, "qcow2", tmp_path / "before")
    result = run_module("qcow2_image", image_params(top, {"backing_file": "", "trusted": True}), python=python)
    assert plain(top, "qcow2", tmp_path / "after") == before, result


def test_where_nothing_is_hidden_all_is_done_and_verified_by_reading(place: Path, tmp_path: Path) -> None:
    source = raw_disk(place / "disk.raw")
    content = source.read_bytes()
    dest = place / "disk.qcow2"
    wish = {"src": str(source), "src_format": "raw", "dest": str(dest), "remove_src": True, "uri": NOBODY}
    result = run_module("qcow2_convert", wish)
    assert (result.get("changed"), result.get("verified")) == (True, True), result
    assert plain(dest, "qcow2", tmp_path / "copy") == content
    assert not source.exists()


@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
def test_images_are_compared_by_reading_as_by_qemu_img(place: Path, tmp_path: Path, image_format: str) -> None:
    """Every byte counts, wherever it lies: in data, in a hole, behind the end of the shorter one."""
    door = _door.find()
    one, other = place / "one", place / "other"
    qemu_img("convert", "-f", "raw", "-O", "qcow2", raw_disk(tmp_path / "disk.raw"), one)
    for size in (SIZE, SIZE + MIB):
        qemu_img("convert", "-f", "qcow2", "-O", image_format, one, other)
        qemu_img("resize", "-q", "-f", image_format, other, str(size))
        assert same_content(door, (str(one), "qcow2"), (str(other), image_format))
        for at in (0, 3 * MIB, SIZE - 512, size - 512):
            qemu_io(other, f"write -P 7 {at} 512", image_format)
            assert not same_content(door, (str(one), "qcow2"), (str(other), image_format)), (size, at)
            qemu_img("convert", "-f", "qcow2", "-O", image_format, one, other)
            qemu_img("resize", "-q", "-f", image_format, other, str(size))


def test_a_snapshot_is_compared_by_reading_too(place: Path) -> None:
    disk = create(place / "disk.qcow2", "qcow2", SIZE)
    qemu_io(disk, "write -P 1 0 1M")
    qemu_img("snapshot", "-c", "before", disk)
    qemu_io(disk, "write -P 2 0 1M")
    wish = {"src": str(disk), "src_format": "qcow2", "dest": str(place / "was.raw"), "format": "raw", "uri": NOBODY}
    result = run_module("qcow2_convert", {**wish, "snapshot": "before"})
    assert (result.get("changed"), result.get("verified")) == (True, True), result
    assert (place / "was.raw").read_bytes()[:MIB] == bytes([1]) * MIB


def test_a_copied_file_has_all_data_and_its_zeros_take_no_space(place: Path) -> None:
    source = raw_disk(place / "disk.raw")
    with source.open("r+b") as disk:
        disk.seek(2 * MIB)
        disk.write(bytes(2 * MIB))
    copy = place / "copy.raw"
    copy_file(str(source), str(copy))
    assert copy.read_bytes() == source.read_bytes()
    assert copy.stat().st_blocks < source.stat().st_blocks


def test_only_file_systems_that_are_known_are_believed(place: Path, tmp_path: Path) -> None:
    for directory in (place, tmp_path):
        (directory / "file").touch()
    assert not are_told_truly(str(place / "file"))
    assert are_told_truly(str(tmp_path / "file"))
    assert are_told_truly("/dev/null")


@pytest.mark.parametrize(
    ("module", "asked", "what"),
    [
        ("vm_disk_convert", {"format": "raw", "mode": "live"}, "a copy"),
        ("vm_disk_flatten", {"mode": "live"}, "a pull"),
    ],
)
def test_what_is_copied_below_a_guest_and_cannot_be_compared_is_warned_of(
    module: str, asked: dict[str, Any], what: str, hv: Hypervisor, images: Path, make_domain: MakeDomain
) -> None:
    base = create(images / "base.raw", "raw", MIB)
    top = overlay(images / "top.qcow2", base, "raw")
    name = make_domain([Disk(top, "qcow2")], kernel=False).name
    hv.start(name)
    params = {"name": name, "disk": "vda", "uri": hv.uri, "trusted": True, **asked}
    assert "warnings" not in run_module(module, params, check=True)
    with over(images, lower=images):
        result = run_module(module, params, check=True)
    assert result.get("changed"), result
    for path in (top, base):
        assert f"{path}: its file system is not known to tell holes truly, and {what}" in str(result["warnings"])
