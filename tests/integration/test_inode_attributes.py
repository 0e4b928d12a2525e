# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a file has beside its content when another takes its place, and how much of it is allocated (HAZARDS P8)."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from lab import Disk, Hypervisor, run_module
from lab.fixtures import MakeDomain
from support.file_systems import in_memory, mounted
from support.image_tools import KIB, MIB, NOBODY, create, done, overlay, qemu_img, qemu_io, refused, settled

PROJECT = "42"


@pytest.fixture
def btrfs(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "btrfs", "btrfs") as place:
        yield place


@pytest.fixture
def xfs(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "xfs", "xfs") as place:
        yield place


def attributes(path: Path) -> str:
    """The letters that chattr(1) has for what is set."""
    listed = subprocess.run(["lsattr", "-d", path], check=True, capture_output=True, text=True).stdout
    return listed.split()[0].replace("-", "")


def project(path: Path) -> str:
    return subprocess.run(["lsattr", "-pd", path], check=True, capture_output=True, text=True).stdout.split()[0]


def flattened(path: Path) -> None:
    assert done(path, backing_file="", trusted=True)["changed"]


def rebased(path: Path) -> None:
    other = create(path.with_name("other.qcow2"), size=4 * MIB)
    assert done(path, backing_file=str(other), backing_format="qcow2", trusted=True)["changed"]


def made_anew(path: Path) -> None:
    source = {"src": str(path.with_name("base.qcow2")), "src_format": "qcow2"}
    asked = {**source, "dest": str(path), "update": "always", "uri": NOBODY}
    assert run_module("qcow2_convert", asked).get("changed")


def emptied(path: Path) -> None:
    asked = {"path": str(path), "overlay": "empty", "trusted": True, "uri": NOBODY}
    assert run_module("qcow2_commit", asked).get("changed")


Way = Callable[[Path], None]
WAYS: list[Way] = [flattened, rebased, made_anew, emptied]


def an_overlay(directory: Path, *, nocow: bool = False) -> Path:
    base = create(directory / "base.qcow2", size=4 * MIB)
    qemu_io(base, "write -P 1 0 1M")
    path = directory / "top.qcow2"
    done(path, backing_file=str(base), backing_format="qcow2", nocow=nocow)
    qemu_io(path, "write -P 2 1M 1M")
    return path


@pytest.mark.parametrize("way", WAYS)
def test_a_file_that_takes_the_place_of_another_is_written_in_place_as_that_was(btrfs: Path, way: Way) -> None:
    for nocow in (True, False):
        directory = btrfs / str(nocow)
        directory.mkdir()
        path = an_overlay(directory, nocow=nocow)
        assert ("C" in attributes(path)) is nocow
        os.setxattr(path, "user.origin", b"golden")
        inode = path.stat().st_ino
        way(path)
        assert path.stat().st_ino != inode
        assert (("C" in attributes(path)), os.getxattr(path, "user.origin")) == (nocow, b"golden")


@pytest.mark.parametrize("way", WAYS)
def test_a_file_that_takes_the_place_of_another_counts_for_its_project(xfs: Path, way: Way) -> None:
    path = an_overlay(xfs)
    subprocess.run(["chattr", "-p", PROJECT, path], check=True)
    subprocess.run(["chattr", "+dA", path], check=True)
    subprocess.run(["setfacl", "-m", "u:1234:r", path], check=True)
    inode = path.stat().st_ino
    way(path)
    assert path.stat().st_ino != inode
    assert project(path) == PROJECT
    assert {"d", "A"} <= {*attributes(path)}
    assert "1234" in subprocess.run(["getfacl", "-np", path], check=True, capture_output=True, text=True).stdout


def test_a_directory_whose_files_all_count_for_one_project_gets_no_other(xfs: Path) -> None:
    source = an_overlay(xfs)
    subprocess.run(["chattr", "-p", PROJECT, source], check=True)
    (xfs / "quota").mkdir()
    subprocess.run(["chattr", "+P", "-p", "7", xfs / "quota"], check=True)
    dest = xfs / "quota" / "copy.qcow2"
    asked = {"src": str(source), "src_format": "qcow2", "dest": str(dest), "trusted": True, "uri": NOBODY}
    assert run_module("qcow2_convert", asked).get("changed")
    assert project(dest) == "7"


def test_a_converted_image_is_written_in_place_as_its_source_is(btrfs: Path) -> None:
    source = btrfs / "disk.raw"
    done(source, format="raw", size="4M", nocow=True)
    asked = {"src": str(source), "src_format": "raw", "dest": str(btrfs / "disk.qcow2"), "uri": NOBODY}
    assert run_module("qcow2_convert", asked).get("changed")
    assert "C" in attributes(btrfs / "disk.qcow2")


def test_new_images_are_written_in_place_where_that_is_asked(btrfs: Path) -> None:
    for image_format in ("raw", "qcow2"):
        path = btrfs / image_format
        settled(path, format=image_format, size="4M", nocow=True)
        assert "C" in attributes(path)


def test_where_no_file_can_be_written_in_place_nothing_is_made(tmp_path: Path) -> None:
    with in_memory(tmp_path / "memory", 8) as place:
        for check in (True, False):
            result = refused(place / "disk.qcow2", size="4M", nocow=True, check=check)
            assert result["msg"].startswith("nocow: "), result["msg"]
        assert [*place.iterdir()] == []


# --- how much is allocated --------------------------------------------------------------------------------------------


def occupied(path: Path) -> int:
    return path.stat().st_blocks * 512


def thick(path: Path, size: int) -> Path:
    """A raw image that is written from end to end."""
    path.write_bytes(os.urandom(size))
    return path


def zeroed(base: Path, size: int = 4 * MIB) -> Path:
    """An overlay in which half of its base is zeros."""
    path = base.with_name("top.qcow2")
    qemu_img("create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", path, str(size))
    qemu_io(path, "write -z 1M 2M")
    return path


def merge(path: Path) -> dict[str, object]:
    result = run_module("qcow2_commit", {"path": str(path), "trusted": True, "uri": NOBODY})
    assert result.get("changed"), result
    return result


@pytest.mark.parametrize("size", [4 * MIB, 6 * MIB])
def test_a_base_without_holes_has_none_after_a_merge(tmp_path: Path, size: int) -> None:
    base = thick(tmp_path / "base.raw", 4 * MIB)
    result = merge(zeroed(base, size))
    assert (base.stat().st_size, occupied(base) >= size) == (size, True)
    assert "warnings" not in result
    assert base.read_bytes()[MIB : 3 * MIB] == bytes(2 * MIB)


def test_a_base_with_holes_gets_no_space_reserved(tmp_path: Path) -> None:
    base = create(tmp_path / "base.raw", "raw", 4 * MIB)
    merge(zeroed(base))
    assert occupied(base) < MIB


def test_where_no_space_can_be_reserved_the_result_says_how_much_is_not(tmp_path: Path) -> None:
    with mounted(tmp_path / "ext2", "ext2", mib=64) as place:
        base = thick(place / "base.raw", 4 * MIB)
        result = merge(zeroed(base))
        assert occupied(base) < 4 * MIB
        said = str(result["warnings"])
        assert f"{base}: was fully allocated before the merge, and " in said
        assert "of its disk are not reserved any more" in said


@pytest.mark.parametrize("running", [False, True])
def test_a_snapshot_that_is_merged_leaves_its_base_without_holes(
    hv: Hypervisor, images: Path, make_domain: MakeDomain, running: bool
) -> None:
    base = thick(images / "base.raw", 4 * MIB)
    name = make_domain([Disk(base, discard="unmap")], kernel=False).name
    asked = {"name": name, "snapshot": "s", "uri": hv.uri}
    assert run_module("vm_disk_snapshot", asked).get("changed")
    qemu_io(images / "base.s.qcow2", "write -z 1M 2M")
    if running:
        hv.start(name)
    result = run_module("vm_disk_snapshot", {**asked, "state": "absent"})
    assert result.get("changed"), result
    assert occupied(base) >= 4 * MIB
    assert base.read_bytes()[MIB : 3 * MIB] == bytes(2 * MIB)


def test_a_rebased_image_whose_space_is_reserved_has_it_reserved_again(tmp_path: Path) -> None:
    base = create(tmp_path / "base.qcow2", size=4 * MIB)
    top = overlay(tmp_path / "top.qcow2", base)
    qemu_io(top, "write -P 1 0 64k")
    subprocess.run(["fallocate", "-l", str(4 * MIB), top], check=True)
    other = create(tmp_path / "other.qcow2", size=4 * MIB)
    before = occupied(top)
    assert before >= 4 * MIB
    assert done(top, backing_file=str(other), backing_format="qcow2", trusted=True)["changed"]
    assert occupied(top) >= before - 64 * KIB
