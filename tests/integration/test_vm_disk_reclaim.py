# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""vm_disk_reclaim: an image gives back what it does not need, live and offline, and its guest sees the same."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lab import Disk, Guest, Hypervisor, pattern_sha256
from lab.fixtures import MakeDomain
from support.agents import feign_an_agent, wait_for_agent
from support.image_tools import allocated, opened_by_a_process, qemu_io
from support.scene import MIB, content, definition, leftovers, make_image, qemu_img, unchanged

MODULE = "vm_disk_reclaim"

Module = Callable[..., dict[str, Any]]
FORMATS = ("raw", "qcow2")


def wiped(path: Path, image_format: str, *options: str) -> Path:
    """A disk of 64 MiB with 8 MiB of content, and 40 MiB of zeros that its guest wrote, and that take space."""
    qemu_img("create", "-q", "-f", image_format, *options, path, "64M")
    qemu_io(path, f"write -P 7 0 {8 * MIB}", image_format)
    qemu_io(path, f"write -P 0 {8 * MIB} {40 * MIB}", image_format)
    return path


def told(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(qemu_img("info", "-f", "qcow2", "--output=json", path))
    return found


def bitmaps(path: Path) -> list[dict[str, Any]]:
    return [dict(one) for one in told(path)["format-specific"]["data"].get("bitmaps", [])]


# Off


@pytest.mark.parametrize("image_format", FORMATS)
def test_a_wiped_image_gives_its_space_back_and_the_second_run_changes_nothing(
    module: Module, hv: Hypervisor, images: Path, make_domain: MakeDomain, image_format: str
) -> None:
    path = wiped(images / f"vm.{image_format}", image_format)
    os.chown(path, 4321, 4322)
    path.chmod(0o640)
    guest = make_domain([Disk(path, image_format)], kernel=False)
    params = {"name": guest.name, "disk": "vda"}
    defined, before, seen, inode = definition(hv, guest.name), allocated(path), content(path, image_format), path.stat()
    with unchanged(hv, images, guest.name):
        predicted = module(MODULE, params, check=True, diff=True)
    done = module(MODULE, params, diff=True)
    assert done["changed"], done
    assert (done["actions"], done["diff"]) == (predicted["actions"], predicted["diff"])
    (disk,) = done["disks"]
    assert before - allocated(path) == disk["gained"] >= 40 * MIB
    assert (disk["before"], disk["after"]) == (before, allocated(path))
    assert (disk["mode"], disk["verified"], disk["left_alone"]) == ("offline", True, None)
    (foretold,) = predicted["disks"]
    assert 39 * MIB < foretold["gained"] == foretold["foretold"] <= disk["gained"]
    assert foretold["after"] is None
    assert content(path, image_format) == seen
    assert definition(hv, guest.name) == defined
    status = path.stat()
    assert (status.st_uid, status.st_gid, status.st_mode) == (inode.st_uid, inode.st_gid, inode.st_mode)
    assert leftovers(hv, guest.name, images) == []
    assert os.listdir(images) == [path.name]
    with unchanged(hv, images, guest.name):
        again = module(MODULE, params)
    assert not again["changed"], again
    assert (again["actions"], again["disks"][0]["left_alone"], again["disks"][0]["gained"]) == ([], "min_gain", 0)
    hv.start(guest.name)


def test_clusters_that_the_image_itself_has_freed_come_back_without_reading_it(
    module: Module, images: Path, make_domain: MakeDomain
) -> None:
    path = images / "vm.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", path, "64M")
    qemu_io(path, f"write -P 7 0 {48 * MIB}")
    qemu_io(path, f"write -z -u 8M {40 * MIB}")
    seen, before = content(path, "qcow2"), allocated(path)
    subprocess.run(["fallocate", "-l", str(path.stat().st_size), path], check=True)
    guest = make_domain([Disk(path, "qcow2")], kernel=False)
    done = module(MODULE, {"name": guest.name, "disk": str(path)})
    assert done["changed"], done
    assert allocated(path) <= before - 30 * MIB or allocated(path) < 10 * MIB
    assert content(path, "qcow2") == seen


def test_an_overlay_keeps_its_backing_file_as_it_names_it_and_its_bitmaps_and_its_layout(
    module: Module, hv: Hypervisor, images: Path, make_domain: MakeDomain
) -> None:
    base = make_image(images / "base.raw", mib=4, size_mib=64)
    top = images / "top.qcow2"
    layout = "cluster_size=32k,lazy_refcounts=on,refcount_bits=32,compression_type=zstd"
    qemu_img("create", "-q", "-f", "qcow2", "-o", layout, "-b", "base.raw", "-F", "raw", top)
    qemu_io(top, "write -P 5 1M 1M")
    qemu_io(top, "write -z 2M 64k")
    qemu_img("bitmap", "--add", "-g", "128k", top, "daily")
    qemu_img("bitmap", "--add", "--disable", top, "weekly")
    qemu_io(top, f"write -P 0 8M {40 * MIB}")
    before, seen, noted = told(top), content(top, "qcow2"), bitmaps(top)
    below = base.read_bytes()
    guest = make_domain([Disk(top, "qcow2")], kernel=False)
    params = {"name": guest.name, "disk": "vda", "trusted": True}
    done = module(MODULE, params)
    assert done["changed"], done
    assert done["disks"][0]["gained"] >= 39 * MIB
    after = told(top)
    for name in ("virtual-size", "cluster-size", "backing-filename", "backing-filename-format"):
        assert after[name] == before[name]
    assert after["format-specific"] == before["format-specific"]
    assert bitmaps(top) == noted
    assert [one["name"] for one in noted] == ["daily", "weekly"]
    assert content(top, "qcow2") == seen
    assert base.read_bytes() == below
    assert not module(MODULE, params)["changed"]
    assert leftovers(hv, guest.name, images) == []


def test_a_gain_below_the_threshold_is_left(
    module: Module, hv: Hypervisor, images: Path, make_domain: MakeDomain
) -> None:
    path = wiped(images / "vm.qcow2", "qcow2")
    guest = make_domain([Disk(path, "qcow2")], kernel=False)
    for threshold in ("41M", "90%"):
        with unchanged(hv, images, guest.name):
            done = module(MODULE, {"name": guest.name, "disk": "vda", "min_gain": threshold})
        assert (done["changed"], done["disks"][0]["left_alone"]) == (False, "min_gain")
        assert 39 * MIB <= done["disks"][0]["foretold"] < 41 * MIB
    assert module(MODULE, {"name": guest.name, "disk": "vda", "min_gain": "38M"})["changed"]
    again = module(MODULE, {"name": guest.name, "disk": "vda", "min_gain": "0"})
    assert not again["changed"]


@pytest.mark.parametrize("image_format", FORMATS)
def test_a_thick_image_is_left_alone_unless_the_task_says_otherwise(
    module: Module, hv: Hypervisor, images: Path, make_domain: MakeDomain, image_format: str
) -> None:
    path = images / f"vm.{image_format}"
    qemu_img("create", "-q", "-f", image_format, "-o", "preallocation=falloc", path, "32M")
    qemu_io(path, f"write -P 7 0 {8 * MIB}", image_format)
    seen = content(path, image_format)
    guest = make_domain([Disk(path, image_format)], kernel=False)
    with unchanged(hv, images, guest.name):
        left = module(MODULE, {"name": guest.name, "disk": "vda"})
    assert (left["changed"], left["disks"][0]["left_alone"]) == (False, "thick")
    done = module(MODULE, {"name": guest.name, "disk": "vda", "thick": True})
    assert done["changed"], done
    assert allocated(path) < 10 * MIB
    assert content(path, image_format) == seen


def test_two_disks_give_their_space_back_in_one_task(
    module: Module, hv: Hypervisor, images: Path, make_domain: MakeDomain
) -> None:
    one, other = wiped(images / "a.raw", "raw"), wiped(images / "b.qcow2", "qcow2")
    guest = make_domain([Disk(one), Disk(other, "qcow2", target="vdb")], kernel=False)
    done = module(MODULE, {"name": guest.name, "disks": ["vdb", "vda"]})
    assert [disk["target"] for disk in done["disks"]] == ["vdb", "vda"]
    assert all(disk["gained"] >= 40 * MIB for disk in done["disks"])
    assert leftovers(hv, guest.name, images) == []


def test_what_a_guest_has_wiped_comes_back_when_it_is_off(
    module: Module, hv: Hypervisor, images: Path, make_domain: MakeDomain
) -> None:
    path = ext4(images / "vm.qcow2", "qcow2")
    guest = make_domain([Disk(path, "qcow2")], start=True)
    with_deleted_files(guest)
    guest.must("dd if=/dev/zero of=/data/zeros bs=1M count=42; sync; rm /data/zeros; umount /data")
    with contextlib.closing(hv.connect()) as connection:
        connection.lookupByName(guest.name).destroy()
    before, seen = allocated(path), content(path, "qcow2")
    done = module(MODULE, {"name": guest.name, "disk": "vda"})
    assert done["changed"], done
    assert before - allocated(path) == done["disks"][0]["gained"] >= 40 * MIB
    assert content(path, "qcow2") == seen
    hv.wake(guest.name)
    guest.must("mount /dev/vda /data || true")
    assert_kept(guest)


# Off, refused


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: qemu_img("snapshot", "-c", "old", path), r"internal snapshot\(s\) \(old\), and a new image"),
        (lambda path: qemu_img("create", "-q", "-f", "qcow2", "-b", path, "-F", "qcow2", f"{path}.top"), "read"),
    ],
    ids=["snapshots", "dependents"],
)
def test_an_image_that_others_need_as_it_is_is_refused(
    module: Module,
    hv: Hypervisor,
    images: Path,
    make_domain: MakeDomain,
    make: Callable[[Path], object],
    said: str,
) -> None:
    path = wiped(images / "vm.qcow2", "qcow2")
    make(path)
    guest = make_domain([Disk(path, "qcow2")], kernel=False)
    with unchanged(hv, images, guest.name):
        refused = module(MODULE, {"name": guest.name, "disk": "vda"})
    assert refused["failed"]
    assert re.search(said, refused["msg"]), refused["msg"]


def test_an_image_in_use_is_refused(module: Module, hv: Hypervisor, images: Path, make_domain: MakeDomain) -> None:
    path = wiped(images / "vm.qcow2", "qcow2")
    guest = make_domain([Disk(path, "qcow2")], kernel=False)
    with opened_by_a_process(path), unchanged(hv, images, guest.name):
        refused = module(MODULE, {"name": guest.name, "disk": "vda"})
    assert refused["failed"]
    assert "in use by" in refused["msg"]


# Running


def ext4(path: Path, image_format: str) -> Path:
    """A disk of 96 MiB with an empty ext4."""
    raw = path.with_suffix(".tmp")
    subprocess.run(["mkfs.ext4", "-q", raw, "96M"], check=True)
    qemu_img("convert", "-f", "raw", "-O", image_format, raw, path)
    raw.unlink()
    return path


def with_deleted_files(guest: Guest) -> None:
    """The guest keeps 8 MiB, and deletes 42 that it has written: what its journal takes meanwhile is less than 2."""
    guest.must("pattern /data/kept 8 kept; pattern /data/gone 42 gone; sync; rm /data/gone; sync")


def assert_kept(guest: Guest) -> None:
    guest.must("echo 3 >/proc/sys/vm/drop_caches; sha256sum /data/kept | grep " + pattern_sha256(8, "kept"))


@pytest.mark.parametrize("image_format", FORMATS)
def test_what_a_running_guest_has_deleted_comes_back(
    module: Module, hv: Hypervisor, images: Path, make_domain: MakeDomain, image_format: str
) -> None:
    path = ext4(images / f"vm.{image_format}", image_format)
    guest = make_domain([Disk(path, image_format, discard="unmap")], start=True, agent=True)
    wait_for_agent(hv, guest.name)
    with_deleted_files(guest)
    before, defined = allocated(path), definition(hv, guest.name)
    params = {"name": guest.name, "disk": "vda"}
    predicted = module(MODULE, params, check=True)
    assert allocated(path) == before
    assert predicted["changed"], predicted
    done = module(MODULE, params)
    assert done["changed"], done
    assert done["actions"] == predicted["actions"]
    (disk,) = done["disks"]
    assert (disk["mode"], disk["verified"], disk["before"]) == ("live", False, before)
    assert before - allocated(path) >= disk["gained"] >= 40 * MIB
    assert 20 * MIB <= predicted["disks"][0]["gained"] <= disk["gained"]
    again = module(MODULE, params)
    assert not again["changed"], again
    assert_kept(guest)
    assert definition(hv, guest.name) == defined
    assert leftovers(hv, guest.name, images) == []
    assert guest.run("true")[0] == 0


def test_an_agent_that_is_deaf_has_a_deadline(
    module: Module, hv: Hypervisor, images: Path, make_domain: MakeDomain
) -> None:
    path = ext4(images / "vm.qcow2", "qcow2")
    guest = make_domain([Disk(path, "qcow2", discard="unmap")], start=True, agent=True)
    feign_an_agent(hv, guest)
    refused = module(MODULE, {"name": guest.name, "disk": "vda", "agent_timeout": 2})
    assert refused["failed"]
    assert "qemu-guest-agent" in refused["msg"]
    assert leftovers(hv, guest.name, images) == []


def test_a_guest_that_cannot_trim_now_is_refused(
    module: Module, hv: Hypervisor, images: Path, make_domain: MakeDomain
) -> None:
    path = ext4(images / "vm.qcow2", "qcow2")
    guest = make_domain([Disk(path, "qcow2", discard="unmap")], kernel=False)
    hv.start(guest.name)
    no_agent = module(MODULE, {"name": guest.name, "disk": "vda"})
    assert no_agent["failed"]
    assert "a channel org.qemu.guest_agent.0 in the definition" in no_agent["msg"]
    with contextlib.closing(hv.connect()) as connection:
        connection.lookupByName(guest.name).suspend()
    paused = module(MODULE, {"name": guest.name, "disk": "vda"})
    assert paused["failed"]
    assert "is paused" in paused["msg"]
    assert leftovers(hv, guest.name, images) == []


def test_a_disk_that_cannot_discard_is_refused_and_the_way_out_named(
    module: Module, hv: Hypervisor, images: Path, make_domain: MakeDomain
) -> None:
    path = ext4(images / "vm.qcow2", "qcow2")
    guest = make_domain([Disk(path, "qcow2")], start=True, agent=True)
    wait_for_agent(hv, guest.name)
    refused = module(MODULE, {"name": guest.name, "disk": "vda"})
    assert refused["failed"]
    assert f"kvmops.disk.vm_disk (name: {guest.name}, disk: vda, discard: unmap)" in refused["msg"]
    assert "restart the machine" in refused["msg"]
    assert leftovers(hv, guest.name, images) == []
