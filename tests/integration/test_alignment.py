# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Raw images of a size that QEMU cannot open past the page cache: not made, or rounded up (HAZARDS P7)."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import libvirt
import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._host.direct_io import alignment
from lab import Disk, Hypervisor, run_module
from lab.fixtures import MakeDomain
from support.image_tools import KIB, MIB, create, done, info, qemu_img, settled
from support.scene import disk_of, unchanged

ODD = 8 * MIB + 512
EVEN = 8 * MIB + 4 * KIB


def refused(result: dict[str, Any]) -> None:
    assert result.get("failed"), result
    assert result["next_size"] == EVEN
    assert f"the next size is {EVEN} bytes" in result["msg"]


def start(hv: Hypervisor, name: str) -> None:
    with contextlib.closing(hv.connect()) as connection:
        connection.lookupByName(name).createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)


@pytest.mark.parametrize("cache", ["none", "directsync"])
def test_qemu_cannot_open_what_is_refused_and_opens_what_is_rounded_up(
    hv: Hypervisor, images: Path, make_domain: MakeDomain, cache: str
) -> None:
    assert alignment(str(images)) == 4 * KIB
    for size in (ODD, EVEN):
        path = create(images / f"{size}.raw", "raw", size)
        name = make_domain([Disk(path, cache=cache)], kernel=False).name
        if size == EVEN:
            start(hv, name)
            continue
        with pytest.raises(libvirt.libvirtError, match="not a multiple of request alignment"):
            start(hv, name)


def test_a_conversion_to_raw_is_refused_or_rounded_up(hv: Hypervisor, images: Path, make_domain: MakeDomain) -> None:
    path = create(images / "disk.qcow2", "qcow2", ODD)
    name = make_domain([Disk(path, "qcow2", cache="none")], kernel=False).name
    asked = {"name": name, "disk": "vda", "format": "raw", "mode": "offline", "uri": hv.uri}
    with unchanged(hv, images, name):
        refused(run_module("vm_disk_convert", asked))
        refused(run_module("vm_disk_convert", asked, check=True))
    predicted = run_module("vm_disk_convert", {**asked, "align_size": True}, check=True)
    result = run_module("vm_disk_convert", {**asked, "align_size": True})
    assert (result.get("changed"), result["disks"][0]["verified"]) == (True, True), result
    assert predicted["disks"][0]["virtual_size"] == result["disks"][0]["virtual_size"] == EVEN
    start(hv, name)
    assert not run_module("vm_disk_convert", {**asked, "mode": "auto", "align_size": True})["changed"]


def test_below_a_running_guest_it_is_refused_with_the_way_that_is_open(
    hv: Hypervisor, images: Path, make_domain: MakeDomain
) -> None:
    path = create(images / "disk.qcow2", "qcow2", ODD)
    name = make_domain([Disk(path, "qcow2", cache="none")], kernel=False).name
    start(hv, name)
    asked = {"name": name, "disk": "vda", "format": "raw", "mode": "live", "align_size": True, "uri": hv.uri}
    result = run_module("vm_disk_convert", asked)
    refused(result)
    assert "vm_disk_resize" in result["msg"]
    assert disk_of(hv, name) == (str(path), "qcow2")


@pytest.mark.parametrize("cache", [None, "writeback", "writethrough", "unsafe"])
def test_modes_of_the_page_cache_take_every_size(
    hv: Hypervisor, images: Path, make_domain: MakeDomain, cache: str | None
) -> None:
    path = create(images / "disk.qcow2", "qcow2", ODD)
    name = make_domain([Disk(path, "qcow2", cache=cache)], kernel=False).name
    result = run_module("vm_disk_convert", {"name": name, "disk": "vda", "format": "raw", "uri": hv.uri})
    assert result.get("changed"), result
    assert result["disks"][0]["virtual_size"] == ODD
    start(hv, name)


@pytest.mark.parametrize("running", [False, True])
def test_a_raw_disk_is_only_given_sizes_that_open(
    hv: Hypervisor, images: Path, make_domain: MakeDomain, running: bool
) -> None:
    path = create(images / "disk.raw", "raw", 4 * MIB)
    name = make_domain([Disk(path, cache="none")], kernel=False).name
    if running:
        start(hv, name)
    asked = {"name": name, "disk": "vda", "size": str(ODD), "uri": hv.uri}
    refused(run_module("vm_disk_resize", asked))
    assert path.stat().st_size == 4 * MIB
    result = run_module("vm_disk_resize", {**asked, "align_size": True})
    assert (result.get("changed"), result["disks"][0]["virtual_size"]) == (True, EVEN), result
    assert not run_module("vm_disk_resize", {**asked, "align_size": True})["changed"]
    grown = {**asked, "size": "+512", "from_size": str(EVEN), "align_size": True}
    assert run_module("vm_disk_resize", grown)["disks"][0]["virtual_size"] == EVEN + 4 * KIB
    assert not run_module("vm_disk_resize", grown)["changed"]


def test_a_full_clone_is_only_given_sizes_that_open(hv: Hypervisor, images: Path, make_domain: MakeDomain) -> None:
    path = create(images / "disk.raw", "raw", 4 * MIB)
    name = make_domain([Disk(path, cache="none")], kernel=False).name
    clones = [{"name": f"{name}-copy", "disk_sizes": {"vda": str(ODD)}}]
    asked = {"source": name, "clones": clones, "mode": "full", "disk_dir": str(images), "uri": hv.uri}
    with unchanged(hv, images, name):
        refused(run_module("vm_linked_clone", asked))


def test_a_snapshot_is_not_merged_into_an_image_that_would_not_open(
    hv: Hypervisor, images: Path, make_domain: MakeDomain
) -> None:
    path = create(images / "disk.raw", "raw", 4 * MIB)
    name = make_domain([Disk(path, cache="none")], kernel=False).name
    asked = {"name": name, "snapshot": "s", "uri": hv.uri}
    assert run_module("vm_disk_snapshot", asked).get("changed")
    qemu_img("resize", "-q", "-f", "qcow2", disk_of(hv, name)[0], str(ODD))
    refused(run_module("vm_disk_snapshot", {**asked, "state": "absent"}))
    grown = {"name": name, "disk": "vda", "size": str(EVEN), "uri": hv.uri}
    assert run_module("vm_disk_resize", grown).get("changed")
    assert run_module("vm_disk_snapshot", {**asked, "state": "absent"}).get("changed")
    start(hv, name)


def test_an_image_without_a_domain_is_warned_of_or_rounded_up(images: Path) -> None:
    path = images / "disk.raw"
    warned = done(path, format="raw", size=str(ODD))
    assert f"the next size is {EVEN} bytes" in str(warned["warnings"])
    assert path.stat().st_size == ODD
    assert "warnings" not in done(path, format="raw", size=str(ODD)), "nothing is changed"
    result = settled(path, format="raw", size=str(ODD), align_size=True)
    assert (result["image"]["virtual_size"], path.stat().st_size) == (EVEN, EVEN)
    assert "warnings" not in result
    qcow2 = done(images / "disk.qcow2", size=str(ODD), align_size=True)
    assert (qcow2["image"]["virtual_size"], "warnings" in qcow2) == (ODD, False)


def test_a_converted_image_is_warned_of_or_rounded_up(images: Path) -> None:
    source = create(images / "disk.qcow2", "qcow2", ODD)
    asked = {"src": str(source), "src_format": "qcow2", "dest": str(images / "disk.raw"), "format": "raw"}
    result = run_module("qcow2_convert", asked)
    assert f"the next size is {EVEN} bytes" in str(result["warnings"])
    rounded = {**asked, "align_size": True, "update": "changed"}
    assert run_module("qcow2_convert", rounded)["image"]["virtual_size"] == EVEN
    assert info(images / "disk.raw", "raw")["virtual-size"] == EVEN
    assert not run_module("qcow2_convert", rounded)["changed"]


def test_a_base_that_a_merge_has_grow_is_warned_of(images: Path) -> None:
    base = create(images / "base.raw", "raw", 4 * MIB)
    top = images / "top.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", top, str(ODD))
    result = run_module("qcow2_commit", {"path": str(top), "trusted": True})
    assert result.get("changed"), result
    assert f"the next size is {EVEN} bytes" in str(result["warnings"])
