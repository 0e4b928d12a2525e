# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From a block device, such as a logical volume, to a file: the device is read, and is what it was."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._host import block_device
from lab import Disk, Hypervisor, run_module
from lab.fixtures import MakeDomain
from support.arranged import Scene, assert_refused
from support.block_devices import MakeDevice, looks, with_disk
from support.scene import content, definition, disk_of, is_running, leftovers, make_overlay, qemu_img

Module = Callable[..., dict[str, Any]]
FORMATS = pytest.mark.parametrize("image_format", ["raw", "qcow2"])


@FORMATS
@pytest.mark.parametrize("start", [False, True], ids=["off", "running"])
def test_a_disk_on_a_device_becomes_a_file(
    hv: Hypervisor, images: Path, make_domain: MakeDomain, device: MakeDevice, image_format: str, start: bool
) -> None:
    source = with_disk(device(16 if image_format == "qcow2" else 8), images / "scratch", image_format)
    name = make_domain([Disk(source, image_format)], kernel=False).name
    if start:
        hv.start(name)
    before, seen = looks(source), content_of(source, image_format, images)
    to = "raw" if image_format == "qcow2" else "qcow2"
    dest = images / f"vm.{to}"
    params = {"name": name, "disk": "vda", "dest": str(dest), "format": to, "uri": hv.uri}
    predicted = run_module("vm_disk_convert", params, check=True)
    done = run_module("vm_disk_convert", params)
    assert done.get("changed"), done
    assert predicted["actions"] == done["actions"]
    assert done["disks"][0]["mode"] == ("live" if start else "offline")
    assert disk_of(hv, name) == (str(dest), to)
    assert "<disk type='file' device='disk'>" in definition(hv, name)
    assert content(dest, to) == seen == content_of(source, image_format, images)
    if not start:
        assert looks(source) == before
    assert looks(source)[:2] == before[:2], "the device is there"
    assert leftovers(hv, name, images) == []
    assert not run_module("vm_disk_convert", params)["changed"]
    assert is_running(hv, name) == start


def content_of(device: str, image_format: str, images: Path) -> str:
    """What a guest sees on the device."""
    flat = images / "flat.raw"
    try:
        qemu_img("convert", "-U", "-f", image_format, "-O", "raw", device, flat)
        return content(flat, "raw")
    finally:
        flat.unlink()


def test_a_running_domain_is_shut_down_to_read_its_device(
    hv: Hypervisor, images: Path, make_domain: MakeDomain, device: MakeDevice
) -> None:
    source = with_disk(device(8), images / "scratch")
    name = make_domain([Disk(source)], kernel=False).name
    seen = content_of(source, "raw", images)
    hv.start(name)
    params = {"name": name, "disk": "vda", "dest_dir": str(images), "mode": "offline", "shutdown": "force"}
    done = run_module("vm_disk_convert", {**params, "uri": hv.uri})
    assert done.get("changed"), done
    dest = images / f"{Path(source).name}.qcow2"
    assert disk_of(hv, name) == (str(dest), "qcow2")
    assert content(dest, "qcow2") == seen
    assert is_running(hv, name)


def test_an_overlay_on_a_device_can_keep_its_base(
    hv: Hypervisor, images: Path, make_domain: MakeDomain, device: MakeDevice
) -> None:
    base = with_disk(device(8), images / "scratch")
    overlay = make_overlay(images / "vm.qcow2", Path(base))
    seen = content(overlay, "qcow2")
    chain = f"<backingStore type='block'><format type='raw'/><source dev='{base}'/><backingStore/></backingStore>"
    name = make_domain([], kernel=False).name
    disk = Disk(overlay, "qcow2").xml().replace("<target", f"{chain}<target", 1)
    hv.define(definition(hv, name).replace("</devices>", f"{disk}</devices>"))
    before = looks(base)
    done = run_module("vm_disk_convert", {"name": name, "disk": "vda", "format": "raw", "uri": hv.uri})
    assert done.get("changed"), done
    assert content(images / "vm.raw", "raw") == seen
    assert looks(base) == before


@FORMATS
def test_an_image_is_made_of_a_device(images: Path, device: MakeDevice, image_format: str) -> None:
    source = with_disk(device(16 if image_format == "qcow2" else 8), images / "scratch", image_format)
    before, dest = looks(source), images / "disk.qcow2"
    params = {"src": source, "src_format": image_format, "dest": str(dest)}
    done = run_module("qcow2_convert", params)
    assert done.get("changed"), done
    assert done["verified"]
    assert content(dest, "qcow2") == content_of(source, image_format, images)
    assert looks(source) == before
    assert not run_module("qcow2_convert", {**params, "update": "changed"})["changed"]


def test_a_device_tells_that_it_was_written_to_and_not_that_it_was_read(images: Path, device: MakeDevice) -> None:
    name = with_disk(device(8), images / "scratch")
    before = block_device.last_write(name)
    Path(name).read_bytes()
    assert block_device.last_write(name) == before
    with open(name, "r+b") as stream:
        stream.write(b"somebody")
    assert block_device.last_write(name) != before


def test_a_format_is_never_guessed_from_a_device(images: Path, device: MakeDevice) -> None:
    source = with_disk(device(16), images / "scratch", "qcow2")
    told = run_module(
        "qcow2_convert", {"src": source, "src_format": "raw", "dest": str(images / "disk.raw"), "format": "raw"}
    )
    assert told.get("failed"), told
    assert "qcow2" in told["msg"]
    assert not (images / "disk.raw").exists()


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, ["beside which is no place for an image", "give dest or dest_dir"]),
        ({"dest": "new.qcow2", "keep_source": False}, ["is a block device, which is never removed"]),
    ],
    ids=["no place", "to be removed"],
)
def test_a_device_is_neither_removed_nor_a_directory(
    scene: Scene, device: MakeDevice, asked: dict[str, Any], said: list[str]
) -> None:
    source = with_disk(device(8), scene.images / "scratch")
    name = scene.domain(Disk(source))
    place = {"dest": str(scene.images / asked["dest"])} if "dest" in asked else {}
    params = {"name": name, "disk": "vda", "uri": scene.hv.uri, **asked, **place}
    assert_refused("vm_disk_convert", scene, params, said)


def test_a_device_that_is_mounted_is_not_read(scene: Scene, device: MakeDevice) -> None:
    source, place = device(8), scene.images.parent / f"{scene.images.name}-mounted"
    subprocess.run(["mkfs.ext4", "-q", source], check=True)
    place.mkdir()
    scene.stack.callback(place.rmdir)
    subprocess.run(["mount", source, place], check=True)
    scene.stack.callback(lambda: subprocess.run(["umount", place], check=True))
    name = scene.domain(Disk(source))
    asked = {"name": name, "disk": "vda", "dest_dir": str(scene.images), "uri": scene.hv.uri}
    assert_refused("vm_disk_convert", scene, asked, ["is in use: mounted"])
    params = {"src": source, "src_format": "raw", "dest": str(scene.images / "disk.qcow2")}
    assert "is in use: mounted" in run_module("qcow2_convert", params)["msg"]
    assert "is never removed" in run_module("qcow2_convert", {**params, "remove_src": True})["msg"]
