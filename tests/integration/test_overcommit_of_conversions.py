# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""max_overcommit of the conversions: what the file system of the destination may promise, source and all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from lab import Disk, Hypervisor
from lab.fixtures import MakeDomain
from lab.module import run_module
from lab.tree import tree_state
from support.file_systems import in_memory
from support.image_tools import NOBODY, create, names, overlay
from support.scene import MIB, make_image, unchanged

Facts = dict[str, Any]
Module = Callable[..., Facts]


@pytest.fixture
def small(images: Path) -> Iterator[Path]:
    with in_memory(images / "small", 40) as place:
        yield place


def convert(src: Path, dest: Path, **more: Any) -> Facts:
    wish = {"src": str(src), "src_format": "raw", "dest": str(dest), "uri": NOBODY, "progress": False, **more}
    return run_module("qcow2_convert", wish)


def figures(refused: Facts) -> list[int]:
    facts = ("required_bytes", "available_bytes", "promised_bytes", "filesystem_bytes")
    return [refused[fact] // MIB for fact in facts]


def test_a_new_image_is_refused_where_it_and_its_source_promise_too_much(small: Path) -> None:
    src = create(small / "disk.raw", "raw", 25 * MIB)
    before = tree_state(small)
    for check in (True, False):
        wish = {"src": str(src), "src_format": "raw", "dest": f"{small}/disk.qcow2", "uri": NOBODY}
        refused = run_module("qcow2_convert", {**wish, "max_overcommit": 1.2, "progress": False}, check=check)
        assert "disk.qcow2: with 25 MiB for it, 2 image(s) on the file system of" in refused["msg"]
        assert "50 MiB (52428800 bytes), which is 1.25 times the 40 MiB" in refused["msg"]
        assert "max_overcommit is 1.2: ask for 23 MiB or less" in refused["msg"]
        assert figures(refused) == [25, 23, 25, 40]
        assert tree_state(small) == before
    assert convert(src, small / "disk.qcow2", max_overcommit=1.25)["changed"]
    assert not convert(src, small / "disk.qcow2", max_overcommit=0.1)["changed"], "what changes nothing is not counted"


def test_a_source_that_goes_makes_room_for_its_successor(small: Path) -> None:
    src = create(small / "disk.raw", "raw", 25 * MIB)
    assert convert(src, small / "disk.qcow2", max_overcommit=1, remove_src=True)["changed"]
    assert names(small) == ["disk.qcow2"]


def test_an_image_that_is_replaced_counts_as_what_takes_its_place(small: Path, images: Path) -> None:
    src = create(images / "disk.raw", "raw", 30 * MIB)
    create(small / "disk.qcow2", "qcow2", 20 * MIB)
    create(small / "other.raw", "raw", 10 * MIB)
    again = {"update": "changed", "max_overcommit": 1}
    assert convert(src, small / "disk.qcow2", **again)["changed"]
    create(src, "raw", 31 * MIB)
    refused = convert(src, small / "disk.qcow2", **again)
    assert figures(refused) == [31, 30, 40, 40]


def test_a_base_over_which_the_image_is_made_only_holds_what_it_has(small: Path, images: Path) -> None:
    base = create(small / "base.raw", "raw", 30 * MIB)
    src = create(images / "disk.raw", "raw", 30 * MIB)
    over = {"backing_file": str(base), "backing_format": "raw"}
    assert figures(convert(src, small / "independent.qcow2", max_overcommit=1)) == [30, 10, 30, 40]
    assert convert(src, small / "overlay.qcow2", max_overcommit=1, **over)["changed"]


def test_a_limit_that_is_none_is_refused(small: Path) -> None:
    assert "max_overcommit: -1 is not a ratio" in convert(small / "a", small / "b", max_overcommit=-1)["msg"]


def test_disks_are_not_moved_to_where_they_would_promise_too_much(
    hv: Hypervisor, module: Module, images: Path, small: Path, make_domain: MakeDomain
) -> None:
    disks = [make_image(images / f"{name}.raw", mib=1, size_mib=16) for name in ("a", "b")]
    name = make_domain([Disk(disks[0]), Disk(disks[1], target="vdb")], kernel=False).name
    create(small / "other.raw", "raw", 10 * MIB)
    wish = {"name": name, "disks": ["vda", "vdb"], "dest_dir": str(small), "progress": False}
    with unchanged(hv, images, name):
        refused = module("vm_disk_convert", {**wish, "max_overcommit": 1})
        assert f"{small}/a.qcow2 and 1 more: with 32 MiB for them, 3 image(s)" in refused["msg"]
        assert figures(refused) == [32, 30, 10, 40]
        assert "is not a ratio" in module("vm_disk_convert", {**wish, "max_overcommit": 0})["msg"]
    assert module("vm_disk_convert", {**wish, "max_overcommit": 1.05})["changed"]
    assert names(small) == ["a.qcow2", "b.qcow2", "other.raw"]


def test_a_disk_that_is_converted_in_its_place_counts_the_difference(
    hv: Hypervisor, module: Module, small: Path, make_domain: MakeDomain
) -> None:
    disk = make_image(small / "vm.raw", mib=1, size_mib=30)
    name = make_domain([Disk(disk)], kernel=False).name
    wish = {"name": name, "disk": "vda", "max_overcommit": 1, "progress": False}
    assert figures(module("vm_disk_convert", wish)) == [30, 10, 30, 40]
    assert module("vm_disk_convert", {**wish, "keep_source": False})["changed"]
    assert names(small) == ["vm.qcow2"]


def test_an_overlay_that_keeps_its_base_promises_its_disk_beside_what_the_base_holds(
    hv: Hypervisor, module: Module, images: Path, small: Path, make_domain: MakeDomain
) -> None:
    base = make_image(small / "base.raw", mib=1, size_mib=30)
    top = overlay(images / "vm.qcow2", base, "raw")
    name = make_domain([Disk(top, "qcow2")], kernel=False).name
    wish = {"name": name, "disk": "vda", "dest": f"{small}/vm.qcow2", "shallow": True, "trusted": True}
    assert figures(module("vm_disk_convert", {**wish, "progress": False, "max_overcommit": 0.7})) == [30, 27, 1, 40]
    assert module("vm_disk_convert", {**wish, "progress": False, "max_overcommit": 0.8})["changed"]
