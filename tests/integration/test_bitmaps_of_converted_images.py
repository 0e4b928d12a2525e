# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The dirty bitmaps of an image, by which backups are made: kept in what is made of it, or told of, or required."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lab import Disk, Hypervisor, run_module
from lab.fixtures import MakeDomain
from support.arranged import Scene, assert_refused
from support.scene import disk_of, make_image, make_overlay, qemu_img

NIGHTLY, WEEKLY = "nightly", "weekly"


def with_bitmaps(path: Path, *names: str) -> Path:
    """An image with bitmaps that know of 64 KiB."""
    make_image(path, "qcow2")
    for name in names:
        qemu_img("bitmap", "--add", "-f", "qcow2", path, name)
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -P 7 1M 64k", path], check=True, capture_output=True)
    return path


def left_open(path: Path) -> None:
    """Marks all bitmaps of the image as those that a program has not written back, as when it is killed."""
    held = subprocess.Popen(["qemu-io", "-f", "qcow2", path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert held.stdin is not None
    assert held.stdout is not None
    held.stdin.write("write 0 64k\nsleep 60000\n")
    held.stdin.flush()
    held.stdout.readline()
    held.kill()
    held.wait()
    assert all("in-use" in flags for flags in bitmaps_of(path).values())


def bitmaps_of(path: Path | str) -> dict[str, list[str]]:
    """The flags of the bitmaps of the image, by name."""
    told = json.loads(qemu_img("info", "-U", "--output=json", "-f", "qcow2", path))
    found = told["format-specific"]["data"].get("bitmaps", [])
    return {bitmap["name"]: bitmap["flags"] for bitmap in found}


def warnings(result: dict[str, Any]) -> list[str]:
    return [str(one) for one in result.get("warnings", []) if "bitmap" in str(one)]


# Images


def test_an_image_keeps_its_bitmaps_where_the_new_one_can_have_them(tmp_path: Path) -> None:
    source, dest = with_bitmaps(tmp_path / "disk.qcow2", NIGHTLY, WEEKLY), tmp_path / "new.qcow2"
    done = run_module(
        "qcow2_convert", {"src": str(source), "src_format": "qcow2", "dest": str(dest), "remove_src": True}
    )
    assert done.get("changed"), done
    assert set(bitmaps_of(dest)) == {NIGHTLY, WEEKLY}
    assert warnings(done) == []
    known = run_module("qcow2_bitmap", {"path": str(dest), "bitmap": "none", "state": "absent"})["bitmaps"]
    assert {bitmap["dirty_bytes"] for bitmap in known} == {64 << 10}


CANNOT = pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"format": "raw"}, "only qcow2 images of compat 1.1 have bitmaps"),
        ({"format": "vmdk"}, "only qcow2 images of compat 1.1 have bitmaps"),
        ({"compat": "0.10"}, "only qcow2 images of compat 1.1 have bitmaps"),
        ({"snapshot": "s"}, "say nothing about its snapshot"),
        ({"backing_file": "base", "backing_format": "raw"}, "only the differences"),
    ],
    ids=["raw", "vmdk", "old qcow2", "a snapshot", "another base"],
)


@CANNOT
def test_bitmaps_that_cannot_be_kept_are_named_unless_that_is_meant(
    tmp_path: Path, asked: dict[str, Any], reason: str
) -> None:
    source = with_bitmaps(tmp_path / "disk.qcow2", NIGHTLY, WEEKLY)
    make_image(tmp_path / "base")
    if "snapshot" in asked:
        qemu_img("snapshot", "-c", "s", source)
    if "backing_file" in asked:
        asked = {**asked, "backing_file": str(tmp_path / "base")}
    params = {"src": str(source), "src_format": "qcow2", "dest": str(tmp_path / "new"), **asked}
    checked = run_module("qcow2_convert", params, check=True)
    done = run_module("qcow2_convert", params)
    assert done.get("changed"), done
    (told,) = warnings(done)
    assert warnings(checked) == [told], "check mode says so, too"
    for words in (f"{NIGHTLY}, {WEEKLY}", reason, "has to be a full one"):
        assert words in told
    quiet = run_module("qcow2_convert", {**params, "dest": str(tmp_path / "quiet"), "keep_bitmaps": "no"})
    assert quiet.get("changed"), quiet
    assert warnings(quiet) == []


@pytest.mark.parametrize("word", ["required", "yes", True])
def test_required_bitmaps_are_not_given_up(tmp_path: Path, word: object) -> None:
    source, dest = with_bitmaps(tmp_path / "disk.qcow2", NIGHTLY), tmp_path / "new"
    params = {"src": str(source), "src_format": "qcow2", "dest": str(dest), "keep_bitmaps": word}
    assert run_module("qcow2_convert", {**params, "format": "raw"}).get("failed")
    assert not dest.exists()
    assert run_module("qcow2_convert", params)["changed"]
    assert list(bitmaps_of(dest)) == [NIGHTLY]


def test_a_bitmap_that_was_left_open_is_named_and_does_not_stop_the_conversion(tmp_path: Path) -> None:
    source = with_bitmaps(tmp_path / "disk.qcow2", NIGHTLY)
    left_open(source)
    params = {"src": str(source), "src_format": "qcow2", "dest": str(tmp_path / "new")}
    refused = run_module("qcow2_convert", {**params, "keep_bitmaps": "required"})
    assert f"bitmap(s) {NIGHTLY}" in refused["msg"]
    assert refused["bitmaps"] == [NIGHTLY]
    done = run_module("qcow2_convert", params)
    assert done.get("changed"), done
    (told,) = warnings(done)
    assert "has not written it back" in told
    assert bitmaps_of(tmp_path / "new") == {}


def test_a_source_goes_with_its_bitmaps_only_with_a_word_where_the_copy_was_there(tmp_path: Path) -> None:
    source = with_bitmaps(tmp_path / "disk.qcow2", NIGHTLY)
    params = {"src": str(source), "src_format": "qcow2", "dest": str(tmp_path / "new")}
    assert run_module("qcow2_convert", {**params, "keep_bitmaps": "no"})["changed"]
    refused = run_module("qcow2_convert", {**params, "remove_src": True, "keep_bitmaps": "required"})
    assert "was made without them" in refused["msg"]
    assert source.exists()
    done = run_module("qcow2_convert", {**params, "remove_src": True})
    assert done.get("changed"), done
    (told,) = warnings(done)
    assert NIGHTLY in told
    assert not source.exists()


def test_an_image_is_replaced_with_its_bitmaps_only_with_a_word(tmp_path: Path) -> None:
    source, dest = with_bitmaps(tmp_path / "disk.qcow2", NIGHTLY), with_bitmaps(tmp_path / "old", NIGHTLY, WEEKLY)
    params = {"src": str(source), "src_format": "qcow2", "dest": str(dest), "update": "always"}
    refused = run_module("qcow2_convert", {**params, "keep_bitmaps": "required"})
    assert refused["bitmaps"] == [WEEKLY]
    assert set(bitmaps_of(dest)) == {NIGHTLY, WEEKLY}
    done = run_module("qcow2_convert", params)
    assert done.get("changed"), done
    (told,) = warnings(done)
    assert f"{dest}: the new image does not have its dirty bitmap(s) {WEEKLY}:" in told
    assert list(bitmaps_of(dest)) == [NIGHTLY]


# Disks of machines


@pytest.mark.parametrize("start", [False, True], ids=["off", "shut down for it"])
def test_a_disk_keeps_its_bitmaps_offline(hv: Hypervisor, images: Path, make_domain: MakeDomain, start: bool) -> None:
    name = make_domain([Disk(with_bitmaps(images / "vm.qcow2", NIGHTLY), "qcow2")], kernel=False).name
    if start:
        hv.start(name)
    dest = images / "moved.qcow2"
    params = {"name": name, "disk": "vda", "dest": str(dest), "mode": "offline", "shutdown": "force", "uri": hv.uri}
    done = run_module("vm_disk_convert", {**params, "keep_source": False, "keep_bitmaps": "required"})
    assert done.get("changed"), done
    assert disk_of(hv, name) == (str(dest), "qcow2")
    assert list(bitmaps_of(dest)) == [NIGHTLY]
    assert warnings(done) == []


def test_an_overlay_keeps_its_bitmaps_with_its_base(hv: Hypervisor, images: Path, make_domain: MakeDomain) -> None:
    base = make_image(images / "base.raw")
    overlay = make_overlay(images / "vm.qcow2", base)
    qemu_img("bitmap", "--add", "-f", "qcow2", overlay, NIGHTLY)
    chain = f"<backingStore type='file'><format type='raw'/><source file='{base}'/><backingStore/></backingStore>"
    disk = Disk(overlay, "qcow2").xml().replace("<target", f"{chain}<target", 1)
    name = make_domain([], kernel=False, extra_devices=disk).name
    params = {"name": name, "disk": "vda", "dest": str(images / "moved.qcow2"), "shallow": True, "uri": hv.uri}
    assert run_module("vm_disk_convert", params)["changed"]
    assert list(bitmaps_of(images / "moved.qcow2")) == [NIGHTLY]


Lose = Callable[[Scene], dict[str, Any]]


def live(scene: Scene) -> dict[str, Any]:
    name = scene.domain(Disk(with_bitmaps(scene.images / "vm.qcow2", NIGHTLY), "qcow2"), start=True)
    return {"name": name, "dest": str(scene.images / "moved.qcow2")}


def to_raw(scene: Scene) -> dict[str, Any]:
    name = scene.domain(Disk(with_bitmaps(scene.images / "vm.qcow2", NIGHTLY), "qcow2"))
    return {"name": name, "format": "raw"}


@pytest.mark.parametrize(
    ("arrange", "reason"),
    [(live, "only method=offline does"), (to_raw, "only qcow2 images have bitmaps")],
    ids=["live", "to raw"],
)
def test_bitmaps_of_a_disk_that_get_lost_are_named_or_the_task_is_refused(
    scene: Scene, arrange: Lose, reason: str
) -> None:
    params = {**arrange(scene), "disk": "vda", "keep_source": False, "uri": scene.hv.uri}
    said = [f"bitmap(s) {NIGHTLY}", reason, "keep_bitmaps is required"]
    assert_refused("vm_disk_convert", scene, {**params, "keep_bitmaps": "required"}, said)
    done = run_module("vm_disk_convert", params)
    assert done.get("changed"), done
    (told,) = warnings(done)
    assert f"bitmap(s) {NIGHTLY}" in told
    assert reason in told
