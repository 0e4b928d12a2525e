# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a file system can take is known beforehand, as far as it tells: its longest file, its reserve, or nothing."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab import Disk, Hypervisor, run_module, tree_state
from lab.fixtures import MakeDomain
from support.file_systems import in_memory, mounted
from support.scene import MIB, definition, make_image, qemu_img

TIB = 1 << 40


@pytest.fixture
def ext4(open_directory: Path) -> Iterator[Path]:
    """Whose files have 16 TiB at most."""
    with mounted(open_directory / "ext4", "ext4") as place:
        yield place


@pytest.fixture
def silent(open_directory: Path) -> Iterator[Path]:
    """A file system that says that it has a size of 0."""
    place = open_directory / "ramfs"
    place.mkdir()
    subprocess.run(["mount", "-t", "ramfs", "-o", "mode=0711", "ramfs", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def thin(path: Path, size: str) -> Path:
    qemu_img("create", "-q", "-f", "qcow2", path, size)
    return path


def assert_too_long(directory: Path, module: str, **asked: Any) -> None:
    before = tree_state(directory)
    for check in (True, False):
        refused = run_module(module, asked, check=check)
        assert refused.get("failed"), refused
        assert "the longest that the file system of" in refused["msg"], refused
        assert refused["available_bytes"] < 20 * TIB <= refused["required_bytes"]
    assert tree_state(directory) == before


def test_an_image_that_no_file_can_hold_is_refused(ext4: Path, open_directory: Path) -> None:
    source = str(thin(open_directory / "thin.qcow2", "20T"))
    convert = {"src": source, "src_format": "qcow2", "format": "raw"}
    assert_too_long(ext4, "qcow2_convert", dest=str(ext4 / "new.raw"), **convert)
    whole = {"src": source, "src_format": "qcow2", "format": "qcow2", "preallocation": "metadata"}
    assert_too_long(ext4, "qcow2_convert", dest=str(ext4 / "new.qcow2"), **whole)
    assert_too_long(ext4, "qcow2_image", path=str(ext4 / "new.raw"), format="raw", size="20T")
    small = make_image(ext4 / "small.raw")
    assert_too_long(ext4, "qcow2_image", path=str(small), format="raw", size="20T")


def test_a_disk_that_no_file_can_hold_is_refused(
    hv: Hypervisor, ext4: Path, images: Path, make_domain: MakeDomain
) -> None:
    name = make_domain([Disk(thin(images / "thin.qcow2", "20T"), "qcow2")], kernel=False).name
    asked = {"name": name, "disk": "vda", "uri": hv.uri}
    assert_too_long(ext4, "vm_disk_convert", format="raw", dest=str(ext4 / "new.raw"), **asked)
    assert "thin.qcow2" in definition(hv, name)
    name = make_domain([Disk(make_image(ext4 / "small.raw"))], kernel=False).name
    assert_too_long(ext4, "vm_disk_resize", **{**asked, "name": name}, size="20T")


def test_a_thin_image_needs_as_raw_what_it_holds_and_no_tables(open_directory: Path) -> None:
    source = thin(open_directory / "thin.qcow2", "3T")
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -P 7 1T 2M", source], check=True, capture_output=True)
    asked = {"src": str(source), "src_format": "qcow2", "format": "raw", "verify": False}
    with in_memory(open_directory / "small", 1) as small:
        refused = run_module("qcow2_convert", {**asked, "dest": str(small / "new.raw")})
        assert 2 * MIB <= refused["required_bytes"] <= 3 * MIB, refused
    with in_memory(open_directory / "enough", 8) as enough:
        done = run_module("qcow2_convert", {**asked, "dest": str(enough / "new.raw")})
        assert done.get("changed"), done
        assert (enough / "new.raw").stat().st_size == 3 * TIB


def test_a_new_thin_image_needs_no_tables_for_what_nobody_has_written(open_directory: Path) -> None:
    with in_memory(open_directory / "small", 2) as small:
        done = run_module("qcow2_image", {"path": str(small / "new.qcow2"), "size": "20T"})
        assert done.get("changed"), done
        asked = {"path": str(small / "whole.qcow2"), "size": "20T", "preallocation": "metadata"}
        assert run_module("qcow2_image", asked)["required_bytes"] > 3 << 30


def test_what_ext4_reserves_for_root_is_not_free(ext4: Path) -> None:
    status = os.statvfs(ext4)
    assert status.f_bfree - status.f_bavail > 4 * MIB // status.f_frsize
    size = (status.f_bavail + (status.f_bfree - status.f_bavail) // 2) * status.f_frsize // MIB * MIB
    asked = {"path": str(ext4 / "new.raw"), "format": "raw", "size": size, "preallocation": "falloc"}
    refused = run_module("qcow2_image", asked)
    assert refused["available_bytes"] == status.f_bavail * status.f_frsize
    assert list(ext4.glob("new*")) == []


def test_what_a_file_system_does_not_tell_is_unknown(silent: Path, images: Path) -> None:
    (told,) = run_module("storage_capacity_info", {"paths": [str(silent)], "libvirt": False})["filesystems"]
    assert told["mount"] == str(silent)
    assert {told[name] for name in ("size", "used", "available", "ratio", "over_limit")} == {None}
    asked = {"path": str(silent / "new.qcow2"), "size": "64M", "max_overcommit": 1.2}
    assert run_module("qcow2_image", asked)["changed"]
    source = make_image(images / "source.raw")
    converted = {"src": str(source), "src_format": "raw", "dest": str(silent / "copy.qcow2"), "format": "qcow2"}
    assert run_module("qcow2_convert", converted)["changed"]
    (told,) = run_module("storage_capacity_info", {"paths": [str(silent)], "libvirt": False})["filesystems"]
    assert told["promised"] >= 72 * MIB
