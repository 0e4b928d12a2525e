# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""vm_disk_flatten refuses with a reason, and then nothing has changed: no file, no definition, no state of a domain."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path
from typing import Any

import pytest
from lab import Disk, Hypervisor, run_module
from lab.fixtures import MakeDomain
from support.arranged import Asked, Cases, Scene
from support.scene import (
    content,
    image_chain,
    is_running,
    make_image,
    make_overlay,
    qemu_img,
    unchanged,
    with_backing,
)

MODULE = "vm_disk_flatten"
CASES = Cases(MODULE, disk="vda", trusted=True)
case = CASES.case


@pytest.mark.parametrize("name", CASES)
def test_is_refused_and_nothing_changed(scene: Scene, name: str) -> None:
    CASES.assert_refused(name, scene)


def _figures(refused: dict[str, Any]) -> None:
    assert refused["required_bytes"] > refused["available_bytes"] > 0


def _the_chain(refused: dict[str, Any]) -> None:
    assert [Path(path).name for path in refused["backing_chain"]] == ["vm.qcow2", "base.raw"]


CASES.facts = {
    "a_new_image_has_no_room": _figures,
    "a_base_that_is_not_in_the_chain": _the_chain,
}


def overlaid(scene: Scene, **options: Any) -> Disk:
    return Disk(make_overlay(scene.images / "vm.qcow2", scene.raw("base.raw"), **options), "qcow2")


# What is asked


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"disk": "vdq"}, "has no disk vdq: it has vda (/"),
        ({"name": "no-such-vm"}, "no domain of this name or UUID"),
        ({"base": "base.raw"}, "is relative"),
        ({"bandwidth": "0"}, "bandwidth"),
        ({"bandwidth": "fast"}, "bandwidth: 'fast' is not a size"),
        ({"copy_timeout": 0}, "copy_timeout: 0 s is too short"),
        ({"mode": "live"}, "is shut off, and mode is live"),
        ({"method": "never"}, "value of method must be one of"),
        ({"disks": ["vda"]}, "mutually exclusive"),
        ({"base": "vm"}, "its own image"),
        ({"uri": "qemu+unix:///system?socket=/nonexistent"}, "cannot connect to libvirt"),
    ],
)
def test_bad_input_is_refused(
    hv: Hypervisor, images: Path, make_domain: MakeDomain, asked: dict[str, Any], said: str
) -> None:
    top = make_overlay(images / "vm.qcow2", make_image(images / "base.raw"))
    name = make_domain([Disk(top, "qcow2")], kernel=False).name
    if asked.get("base") == "vm":
        asked = {"base": str(top)}
        said = f"base: {top} is not below its image"
    with unchanged(hv, images, name):
        refused = run_module(MODULE, {"name": name, "disk": "vda", "trusted": True, "uri": hv.uri, **asked})
    assert refused.get("failed"), refused
    assert said in refused["msg"]


@case("base: ", "is not below its image: the chain is", "vm.qcow2 -> ", "name one of the backing files")
def a_base_that_is_not_in_the_chain(scene: Scene) -> Asked:
    return {"name": scene.domain(overlaid(scene)), "base": str(scene.raw("other.raw"))}


@case("is running, and mode is offline: shut it down first")
def a_running_domain_is_not_shut_down(scene: Scene) -> Asked:
    return {"name": scene.domain(overlaid(scene), start=True), "mode": "offline"}


# The domain


@case("is transient: it has no definition")
def a_transient_domain(scene: Scene) -> Asked:
    name = scene.domain(overlaid(scene), start=True)
    with scene.libvirt(name) as domain:
        domain.undefine()
    return {"name": name}


@case("has a managed-save image, which knows the old backing files")
def a_managed_save(scene: Scene) -> Asked:
    name = scene.domain(overlaid(scene), start=True)
    with scene.libvirt(name) as domain:
        domain.managedSave()
    return {"name": name}


@case("has 1 snapshot(s) (first), which a flattening would break")
def a_snapshot_of_libvirt(scene: Scene) -> Asked:
    name = scene.domain(overlaid(scene))
    with scene.libvirt(name) as domain:
        domain.snapshotCreateXML("<domainsnapshot><name>first</name></domainsnapshot>", 0)
    return {"name": name}


@case("a block job runs on vda: wait until it is over")
def a_block_job_of_somebody_else(scene: Scene) -> Asked:
    name = scene.domain(overlaid(scene), start=True)
    scene.copy_block(name)
    return {"name": name}


@case("is being migrated, saved, dumped or backed up")
def a_backup(scene: Scene) -> Asked:
    name = scene.domain(overlaid(scene), start=True)
    scene.back_up(name)
    return {"name": name}


# The disk


@case("hdc: is a cdrom, asked to flatten a disk")
def a_cdrom(scene: Scene) -> Asked:
    disk = Disk(scene.raw("cd.raw"), target="hdc", device="cdrom", readonly=True)
    return {"name": scene.domain(overlaid(scene), disk), "disk": "hdc"}


@case("vda: is read-only", "not flattened")
def a_read_only_disk(scene: Scene) -> Asked:
    return {"name": scene.domain(Disk(overlaid(scene).path, "qcow2", readonly=True))}


@case("the guest runs on", "but the definition names")
def another_disk_in_the_definition(scene: Scene) -> Asked:
    name = scene.domain(overlaid(scene), start=True)
    other = make_overlay(scene.images / "other.qcow2", scene.images / "base.raw")
    with scene.libvirt(name) as domain:
        scene.hv.define(domain.XMLDesc(2).replace("vm.qcow2", other.name))
    return {"name": name}


@case("libvirt's XML names the backing files none, the images", "bring the two together first")
def a_definition_that_says_that_there_is_none(scene: Scene) -> Asked:
    disk = overlaid(scene)
    return {"name": scene.defined(with_backing, disk)}


@case("libvirt's XML names the backing files", "other.raw (raw), the images", "base.raw (raw)")
def a_definition_that_names_another(scene: Scene) -> Asked:
    disk, other = overlaid(scene), scene.raw("other.raw")
    return {"name": scene.defined(lambda xml: with_backing(xml, (other, "raw")), disk)}


@case("has the backing file", "which the definition of", "set trusted=true")
def a_reference_that_nobody_vouches_for(scene: Scene) -> Asked:
    return {"name": scene.domain(overlaid(scene)), "trusted": False}


# The image


@case("holds 1 internal snapshot(s) (before), which read its backing files")
def an_internal_snapshot(scene: Scene) -> Asked:
    disk = overlaid(scene)
    qemu_img("snapshot", "-c", "before", disk.path)
    return {"name": scene.domain(disk)}


@case("holds 1 dirty bitmap(s) (changes), which a new image in its place would not have")
def a_dirty_bitmap(scene: Scene) -> Asked:
    disk = overlaid(scene)
    qemu_img("bitmap", "--add", "-f", "qcow2", disk.path, "changes")
    return {"name": scene.domain(disk)}


@case("the backing file of a vmdk image cannot be changed, only that of qcow2 and qed images", "vm_disk_convert")
def a_format_whose_reference_stays(scene: Scene) -> Asked:
    qemu_img("create", "-q", "-f", "vmdk", scene.images / "base.vmdk", "8M")
    top = scene.images / "vm.vmdk"
    qemu_img("create", "-q", "-f", "vmdk", "-b", scene.images / "base.vmdk", "-F", "vmdk", top)
    return {"name": scene.domain(Disk(top, "vmdk"))}


@case("is marked corrupt: check and repair it first")
def a_corrupt_image(scene: Scene) -> Asked:
    disk = overlaid(scene)
    with open(disk.path, "r+b") as stream:
        stream.seek(79)
        stream.write(b"\x02")
    return {"name": scene.domain(disk)}


@case("in use by defined domain other-", "asked to flatten it")
def a_disk_of_two_domains(scene: Scene) -> Asked:
    scene.domain(overlaid(scene), name="other")
    return {"name": scene.domain(Disk(scene.images / "vm.qcow2", "qcow2"))}


@case("base.raw: is open for writing, asked to flatten")
def a_backing_file_that_somebody_writes(scene: Scene) -> Asked:
    disk = overlaid(scene)
    argv = ["qemu-io", "-f", "raw", str(scene.images / "base.raw")]
    writer = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    scene.stack.callback(writer.communicate)
    assert writer.stdin is not None
    assert writer.stdout is not None
    writer.stdin.write(b"length\n")
    writer.stdin.flush()
    writer.stdout.readline()
    return {"name": scene.domain(disk)}


@case("base.raw: no such image")
def a_backing_file_that_is_gone(scene: Scene) -> Asked:
    disk = overlaid(scene)
    (scene.images / "base.raw").unlink()
    return {"name": scene.domain(disk)}


@case("not enough space in", "needed ")
def a_new_image_has_no_room(scene: Scene) -> Asked:
    return {"name": scene.domain(cramped(scene))}


def cramped(scene: Scene) -> Disk:
    """A disk on a small file system, over much elsewhere."""
    small = scene.small_file_system("6m")
    return Disk(make_overlay(small / "vm.qcow2", scene.raw("base.raw", mib=8)), "qcow2")


def test_a_pull_in_which_qemu_would_abort_is_not_tried_and_done_once_the_domain_is_off(
    hv: Hypervisor, images: Path, make_domain: MakeDomain
) -> None:
    """A QEMU that knows subclusters pulls into them; an older one would take its guest with it (HAZARDS P9)."""
    base, top = make_image(images / "base.raw"), images / "vm.qcow2"
    options = "extended_l2=on,cluster_size=64k"
    qemu_img("create", "-q", "-f", "qcow2", "-o", options, "-b", base, "-F", "raw", top)
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -P 7 1028k 4k", top], check=True, capture_output=True)
    before = content(top, "qcow2")
    name = make_domain([Disk(top, "qcow2")], kernel=False).name
    hv.start(name)
    asked = {"name": name, "disk": "vda", "trusted": True, "uri": hv.uri}
    result = run_module(MODULE, asked)
    if result.get("failed"):
        assert "extended_l2" in result["msg"], result
        assert tuple(map(int, result["qemu_version"].split("."))) < (8, 2)
        assert run_module(MODULE, asked, check=True)["msg"] == result["msg"]
        assert image_chain(top, "qcow2") == [str(base)]
        assert is_running(hv, name)
        with contextlib.closing(hv.connect()) as connection:
            connection.lookupByName(name).destroy()
        result = run_module(MODULE, asked)
    assert result.get("changed"), result
    assert (image_chain(top, "qcow2"), content(top, "qcow2")) == ([], before)
