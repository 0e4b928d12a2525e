# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Raw images of a size that QEMU cannot open past the page cache: not made, or rounded up (HAZARDS P7)."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import libvirt
import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._host.direct_io import alignment
from lab import Disk, Hypervisor, run_module
from support.file_systems import of_large_sectors
from support.image_tools import KIB, MIB, create, done, info, qemu_img, settled
from support.scene import disk_of, unchanged

ODD = 8 * MIB + 512
EVEN = 8 * MIB + 4 * KIB


@dataclass
class Place:
    """A DIRECTORY on a device of large sectors, and a hypervisor whose QEMU sees it."""

    hv: Hypervisor
    directory: Path
    defined: list[str] = field(default_factory=list)

    def domain(self, path: Path, image_format: str = "raw", cache: str | None = "none") -> str:
        """A domain that is off, on the image at PATH."""
        name = f"vm-{path.name}-{len(self.defined)}-{self.directory.name}"
        self.hv.define(self.hv.domain_xml(name, [Disk(path, image_format, cache=cache)], kernel=False))
        self.defined.append(name)
        return name

    def start(self, name: str) -> None:
        with contextlib.closing(self.hv.connect()) as connection:
            connection.lookupByName(name).createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)

    def run(self, module: str, *, check: bool = False, **params: Any) -> dict[str, Any]:
        return run_module(module, {"uri": self.hv.uri, **params}, check=check)


@pytest.fixture(scope="module")
def sectors() -> Iterator[tuple[Hypervisor, Path]]:
    directory = Path(tempfile.mkdtemp(prefix="kvmops-", dir="/tmp"))
    directory.chmod(0o711)
    with (
        of_large_sectors(directory / "large") as large,
        Hypervisor(Path("/tmp"), f"sectors-{os.getpid()}") as hypervisor,
    ):
        yield hypervisor, large
    shutil.rmtree(directory)


_numbers = itertools.count()


@pytest.fixture
def place(sectors: tuple[Hypervisor, Path]) -> Iterator[Place]:
    hypervisor, large = sectors
    directory = large / f"p{next(_numbers)}"
    directory.mkdir()
    directory.chmod(0o711)
    made = Place(hypervisor, directory)
    yield made
    for name in made.defined:
        hypervisor.remove(name)
    shutil.rmtree(directory)


def refused(result: dict[str, Any]) -> None:
    assert result.get("failed"), result
    assert result["next_size"] == EVEN
    assert f"the next size is {EVEN} bytes" in result["msg"]


@pytest.mark.parametrize("cache", ["none", "directsync"])
def test_qemu_cannot_open_what_is_refused_and_opens_what_is_rounded_up(place: Place, cache: str) -> None:
    new = place.directory / "new"
    assert alignment(str(new)) == 4 * KIB
    for size in (ODD, EVEN):
        path = create(place.directory / f"{size}.raw", "raw", size)
        assert alignment(str(path)) == 4 * KIB
        name = place.domain(path, cache=cache)
        if size == EVEN:
            place.start(name)
            continue
        with pytest.raises(libvirt.libvirtError, match="not a multiple of request alignment"):
            place.start(name)


def test_small_sectors_take_every_size_as_long_as_the_image_begins_with_data(images: Path) -> None:
    """An image that begins with a hole QEMU opens as if the sectors were large."""
    made = create(images / "made.raw", "raw", ODD)
    found = alignment(str(made))
    assert alignment(str(images / "new")) == found
    hole = images / "hole.raw"
    hole.touch()
    os.truncate(hole, ODD)
    assert alignment(str(hole)) == 4 * KIB


def test_a_conversion_to_raw_is_refused_or_rounded_up(place: Place) -> None:
    name = place.domain(create(place.directory / "disk.qcow2", "qcow2", ODD), "qcow2")
    asked: dict[str, Any] = {"name": name, "disk": "vda", "format": "raw", "mode": "offline"}
    with unchanged(place.hv, place.directory, name):
        refused(place.run("vm_disk_convert", **asked))
        refused(place.run("vm_disk_convert", **asked, check=True))
    predicted = place.run("vm_disk_convert", **asked, align_size=True, check=True)
    result = place.run("vm_disk_convert", **asked, align_size=True)
    assert (result.get("changed"), result["disks"][0]["verified"]) == (True, True), result
    assert predicted["disks"][0]["virtual_size"] == result["disks"][0]["virtual_size"] == EVEN
    place.start(name)
    assert not place.run("vm_disk_convert", **{**asked, "mode": "auto"}, align_size=True)["changed"]


def test_below_a_running_guest_it_is_refused_with_the_way_that_is_open(place: Place) -> None:
    path = create(place.directory / "disk.qcow2", "qcow2", ODD)
    name = place.domain(path, "qcow2")
    place.start(name)
    result = place.run("vm_disk_convert", name=name, disk="vda", format="raw", mode="live", align_size=True)
    refused(result)
    assert "vm_disk_resize" in result["msg"]
    assert disk_of(place.hv, name) == (str(path), "qcow2")


@pytest.mark.parametrize("cache", [None, "writeback", "writethrough", "unsafe"])
def test_modes_of_the_page_cache_take_every_size(place: Place, cache: str | None) -> None:
    name = place.domain(create(place.directory / "disk.qcow2", "qcow2", ODD), "qcow2", cache)
    result = place.run("vm_disk_convert", name=name, disk="vda", format="raw")
    assert result.get("changed"), result
    assert result["disks"][0]["virtual_size"] == ODD
    place.start(name)


def test_what_is_asked_for_is_rounded_up_in_every_mode(place: Place) -> None:
    name = place.domain(create(place.directory / "disk.qcow2", "qcow2", ODD), "qcow2", "writeback")
    result = place.run("vm_disk_convert", name=name, disk="vda", format="raw", align_size=True)
    assert result["disks"][0]["virtual_size"] == EVEN


@pytest.mark.parametrize("running", [False, True])
def test_a_raw_disk_is_only_given_sizes_that_open(place: Place, running: bool) -> None:
    path = create(place.directory / "disk.raw", "raw", 4 * MIB)
    name = place.domain(path)
    if running:
        place.start(name)
    asked: dict[str, Any] = {"name": name, "disk": "vda", "size": str(ODD)}
    refused(place.run("vm_disk_resize", **asked))
    assert path.stat().st_size == 4 * MIB
    result = place.run("vm_disk_resize", **asked, align_size=True)
    assert (result.get("changed"), result["disks"][0]["virtual_size"]) == (True, EVEN), result
    assert not place.run("vm_disk_resize", **asked, align_size=True)["changed"]
    grown: dict[str, Any] = {**asked, "size": "+512", "from_size": str(EVEN), "align_size": True}
    assert place.run("vm_disk_resize", **grown)["disks"][0]["virtual_size"] == EVEN + 4 * KIB
    assert not place.run("vm_disk_resize", **grown)["changed"]


def test_a_full_clone_is_only_given_sizes_that_open(place: Place) -> None:
    name = place.domain(create(place.directory / "disk.raw", "raw", 4 * MIB))
    clones = [{"name": f"{name}-copy", "disk_sizes": {"vda": str(ODD)}}]
    with unchanged(place.hv, place.directory, name):
        result = place.run("vm_linked_clone", source=name, clones=clones, mode="full", disk_dir=str(place.directory))
    assert result.get("failed"), result
    assert f"the next size is {EVEN} bytes" in str(result)


def test_a_snapshot_is_not_merged_into_an_image_that_would_not_open(place: Place) -> None:
    name = place.domain(create(place.directory / "disk.raw", "raw", 4 * MIB))
    asked: dict[str, Any] = {"name": name, "snapshot": "s"}
    assert place.run("vm_disk_snapshot", **asked).get("changed")
    qemu_img("resize", "-q", "-f", "qcow2", disk_of(place.hv, name)[0], str(ODD))
    refused(place.run("vm_disk_snapshot", **asked, state="absent"))
    assert place.run("vm_disk_resize", name=name, disk="vda", size=str(EVEN)).get("changed")
    assert place.run("vm_disk_snapshot", **asked, state="absent").get("changed")
    place.start(name)


def test_an_image_without_a_domain_is_warned_of_or_rounded_up(place: Place) -> None:
    path = place.directory / "disk.raw"
    warned = done(path, format="raw", size=str(ODD))
    assert f"the next size is {EVEN} bytes" in str(warned["warnings"])
    assert path.stat().st_size == ODD
    assert "warnings" not in done(path, format="raw", size=str(ODD)), "nothing is changed"
    result = settled(path, format="raw", size=str(ODD), align_size=True)
    assert (result["image"]["virtual_size"], path.stat().st_size) == (EVEN, EVEN)
    assert "warnings" not in result
    qcow2 = done(place.directory / "disk.qcow2", size=str(ODD), align_size=True)
    assert (qcow2["image"]["virtual_size"], "warnings" in qcow2) == (ODD, False)


def test_a_converted_image_is_warned_of_or_rounded_up(place: Place) -> None:
    source = create(place.directory / "disk.qcow2", "qcow2", ODD)
    dest = place.directory / "disk.raw"
    asked: dict[str, Any] = {"src": str(source), "src_format": "qcow2", "dest": str(dest), "format": "raw"}
    assert f"the next size is {EVEN} bytes" in str(place.run("qcow2_convert", **asked)["warnings"])
    rounded: dict[str, Any] = {**asked, "align_size": True, "update": "changed"}
    assert place.run("qcow2_convert", **rounded)["image"]["virtual_size"] == EVEN
    assert info(dest, "raw")["virtual-size"] == EVEN
    assert not place.run("qcow2_convert", **rounded)["changed"]


def test_a_base_that_a_merge_has_grow_is_warned_of(place: Place) -> None:
    base = create(place.directory / "base.raw", "raw", 4 * MIB)
    top = place.directory / "top.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", top, str(ODD))
    result = place.run("qcow2_commit", path=str(top), trusted=True)
    assert result.get("changed"), result
    assert f"the next size is {EVEN} bytes" in str(result["warnings"])
