# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""vm_disk_resize refuses with a reason, and then nothing has changed: no file, no definition, no state of a domain."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path
from typing import Any

import libvirt
import pytest
from lab import Disk, Hypervisor, run_module, tree_state
from lab.fixtures import MakeDomain
from support.arranged import Asked, Cases, Scene
from support.scene import MIB, make_encrypted, make_overlay, qemu_img, unchanged, with_backing

MODULE = "vm_disk_resize"
CASES = Cases(MODULE, disk="vda", size="16M")
case = CASES.case


@pytest.mark.parametrize("name", CASES)
def test_is_refused_and_nothing_changed(scene: Scene, name: str) -> None:
    CASES.assert_refused(name, scene)


#: What is asked of a disk of 8 MiB, and what is said of it; the same whether the domain runs or not.
BAD_INPUT: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({"size": "0"}, "is too small"),
    "negative": ({"size": "-16M"}, "is not a size"),
    "no whole sectors": ({"size": str(16 * MIB + 100)}, "not a whole number of 512-byte sectors"),
    "absurd": ({"size": "8E"}, "more than QEMU can address"),
    "more than qcow2 can hold": ({"size": "7E"}, "more than a qcow2 image with clusters of 64 KiB can hold"),
    "a wrong suffix": ({"size": "16X"}, "is not a size"),
    "decimal units": ({"size": "16MB"}, "is not a size; 16MiB is a power of 1024"),
    "smaller than now": ({"size": "4M"}, "cannot shrink from 8 MiB to 4 MiB"),
    "a start without a growth": ({"size": "16M", "from_size": "8M"}, "from_size: goes with a growth"),
    "another start": ({"size": "+8M", "from_size": "9M"}, "has 8 MiB, asked to grow from 9 MiB to 17 MiB"),
    "a growth that shrinks": ({"size": "+8M", "shrink": True}, "shrink: size is +8M, which only grows"),
    "an absurd growth": ({"size": "+7E", "from_size": "2E"}, "more than QEMU can address"),
    "an unknown disk": ({"disk": "vdq"}, "has no disk vdq: it has vda (/"),
    "an unknown domain": ({"name": "no-such-vm"}, "no domain of this name or UUID"),
    "two policies": ({"preallocation": "off", "allocation": "thin"}, "mutually exclusive"),
    "a directory that is none": ({"search_paths": ["/nonexistent"]}, "search_paths: /nonexistent is not a directory"),
    "no limit": ({"max_overcommit": -1}, "max_overcommit: -1 is not a ratio"),
    "nobody there": ({"uri": "qemu+unix:///system?socket=/nonexistent"}, "cannot connect to libvirt"),
}


@pytest.mark.parametrize("running", [False, True])
def test_bad_input_changes_nothing(hv: Hypervisor, images: Path, make_domain: MakeDomain, running: bool) -> None:
    with contextlib.ExitStack() as stack:
        scene = Scene(hv, images, make_domain, stack)
        name = scene.domain(Disk(scene.qcow2(), "qcow2"), start=running)
        with unchanged(hv, images, name):
            for what, (asked, said) in BAD_INPUT.items():
                params = {"name": name, "disk": "vda", "size": "16M", "uri": hv.uri, **asked}
                refused = run_module(MODULE, params, check=len(what) % 2 == 0)
                assert refused.get("failed"), (what, refused)
                assert said in refused["msg"], what
                assert "Traceback" not in refused["msg"], what


# The state of the domain


@case("has a managed-save image", "managedsave-remove")
def the_domain_has_a_managed_save_image(scene: Scene) -> Asked:
    name = scene.domain(Disk(scene.raw()), start=True)
    with scene.libvirt(name) as domain:
        domain.managedSave()
    return {"name": name}


@case("a block job runs on vda", "blockjob --abort")
def a_block_job_runs_on_the_disk(scene: Scene) -> Asked:
    name = scene.domain(Disk(scene.raw(mib=8)), start=True)
    scene.copy_block(name)
    return {"name": name}


@case("is being migrated, saved, dumped or backed up")
def the_domain_is_being_backed_up(scene: Scene) -> Asked:
    name = scene.domain(Disk(scene.raw()), start=True)
    scene.back_up(name)
    return {"name": name}


@case("the guest runs on", "but the definition names")
def the_domain_runs_on_another_disk_than_it_defines(scene: Scene) -> Asked:
    name = scene.domain(Disk(scene.raw()), start=True)
    with scene.libvirt(name) as domain:
        definition = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
        scene.hv.define(definition.replace("vm.raw", "another.raw"))
    return {"name": name}


@case("an external snapshot", "delete them first")
def the_domain_has_an_external_snapshot_and_the_disk_is_to_shrink(scene: Scene) -> Asked:
    name = scene.domain(Disk(scene.raw()))
    with scene.libvirt(name) as domain:
        flags = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
        domain.snapshotCreateXML("<domainsnapshot><name>an external snapshot</name></domainsnapshot>", flags)
    return {"name": name, "size": "4M", "shrink": True, "trusted": True}


# Who else uses the image


@case("vm.raw: in use by defined domain other-", "disk vdb")
def another_domain_defines_the_image(scene: Scene) -> Asked:
    scene.domain(Disk(scene.raw(), target="vdb"), name="other")
    return {"name": scene.domain(Disk(scene.images / "vm.raw"))}


@case("vm.raw: in use by running domain other-")
def another_domain_runs_on_the_image(scene: Scene) -> Asked:
    scene.domain(Disk(scene.raw()), name="other", start=True)
    return {"name": scene.domain(Disk(scene.images / "vm.raw"))}


@case("vm.raw: in use by defined domain other-")
def another_domain_defines_the_image_of_a_running_one(scene: Scene) -> Asked:
    name = scene.domain(Disk(scene.raw()), start=True)
    scene.domain(Disk(scene.images / "vm.raw"), name="other")
    return {"name": name}


@case("vm.raw: in use by", "disk vdb")
def the_same_domain_has_the_image_twice(scene: Scene) -> Asked:
    path = scene.raw()
    return {"name": scene.domain(Disk(path), Disk(path, target="vdb"))}


@case("vm.raw: in use by a process that libvirt does not know")
def a_process_has_the_image_open(scene: Scene) -> Asked:
    path = scene.raw()
    command = ["qemu-io", "-f", "raw", str(path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    scene.stack.callback(process.communicate, b"quit\n")
    assert process.stdin
    assert process.stdout
    process.stdin.write(b"length\n")
    process.stdin.flush()
    process.stdout.readline()
    return {"name": scene.domain(Disk(path))}


@case("vm.raw: 1 image(s) read it as their backing file", "overlay.qcow2", "allow_dependents=true")
def an_overlay_beside_it_reads_the_image(scene: Scene) -> Asked:
    make_overlay(scene.images / "overlay.qcow2", scene.raw())
    return {"name": scene.domain(Disk(scene.images / "vm.raw"))}


@case("vm.raw: 1 image(s) read it as their backing file")
def an_overlay_reads_the_image_of_a_running_domain(scene: Scene) -> Asked:
    make_overlay(scene.images / "overlay.qcow2", scene.raw())
    return {"name": scene.domain(Disk(scene.images / "vm.raw"), start=True)}


@case("vm.raw: 1 image(s) read it as their backing file", "elsewhere/overlay.qcow2")
def an_overlay_in_a_search_path_reads_the_image(scene: Scene) -> Asked:
    (scene.images / "elsewhere").mkdir()
    make_overlay(scene.images / "elsewhere" / "overlay.qcow2", scene.raw())
    return {"name": scene.domain(Disk(scene.images / "vm.raw")), "search_paths": [str(scene.images / "elsewhere")]}


CASES.facts["another_domain_runs_on_the_image"] = lambda refused: _has(refused, "in_use_by")
CASES.facts["an_overlay_beside_it_reads_the_image"] = lambda refused: _has(refused, "dependents")


def _has(refused: dict[str, Any], fact: str) -> None:
    assert len(refused[fact]) == 1


# The kind of the disk


@case("vda: is read-only")
def the_disk_is_read_only(scene: Scene) -> Asked:
    return {"name": scene.domain(Disk(scene.raw(), readonly=True))}


@case("vda: is shareable")
def the_disk_of_a_running_domain_is_shareable(scene: Scene) -> Asked:
    return {"name": scene.domain(Disk(scene.raw(), shareable=True), start=True)}


@case("vda: is transient")
def the_disk_is_transient(scene: Scene) -> Asked:
    return {"name": scene.defined(lambda xml: xml.replace("</disk>", "<transient/></disk>"), Disk(scene.raw()))}


@case("hdc: is a cdrom")
def the_disk_is_a_cdrom(scene: Scene) -> Asked:
    disk = Disk(scene.raw("image.iso"), target="hdc", device="cdrom", readonly=True)
    return {"name": scene.domain(disk), "disk": "hdc"}


@case("hdc: is a cdrom")
def the_disk_is_an_empty_cdrom_of_a_running_domain(scene: Scene) -> Asked:
    empty = "<disk type='file' device='cdrom'><target dev='hdc' bus='ide'/><readonly/></disk>"
    return {"name": scene.domain(Disk(scene.raw()), extra_devices=empty, start=True), "disk": "hdc"}


@case("fda: is a floppy")
def the_disk_is_a_floppy(scene: Scene) -> Asked:
    return {"name": scene.domain(Disk(scene.raw("floppy.raw"), target="fda", device="floppy")), "disk": "fda"}


@case("vda: is the block device /dev/loop7", "lvextend", "virsh blockresize")
def the_disk_is_a_block_device(scene: Scene) -> Asked:
    return {"name": scene.domain(Disk("/dev/loop7"))}


@case("vda: its source is of type network", "virsh blockresize")
def the_disk_is_on_the_network(scene: Scene) -> Asked:
    source = "<source protocol='nbd' name='export'><host name='127.0.0.1' port='10809'/></source>"
    disk = f"<disk type='network'><driver name='qemu' type='raw'/>{source}<target dev='vda' bus='virtio'/></disk>"
    return {"name": scene.domain(extra_devices=disk)}


# The image


@case("vm.raw: no such image")
def the_image_is_missing(scene: Scene) -> Asked:
    return {"name": scene.domain(Disk(scene.images / "vm.raw"))}


@case("vm.raw: found a raw image, asked for qcow2")
def the_definition_says_qcow2_but_the_image_is_raw(scene: Scene) -> Asked:
    return {"name": scene.domain(Disk(scene.raw(), "qcow2"))}


@case("vmdk images cannot be resized", "kvmops.disk.vm_disk_convert")
def the_image_has_a_format_that_has_one_size(scene: Scene) -> Asked:
    qemu_img("create", "-q", "-f", "vmdk", scene.images / "vm.vmdk", "8M")
    return {"name": scene.domain(Disk(scene.images / "vm.vmdk", "vmdk"))}


@case("qed images only grow")
def the_image_only_grows(scene: Scene) -> Asked:
    qemu_img("create", "-q", "-f", "qed", scene.images / "vm.qed", "8M")
    return {"name": scene.domain(Disk(scene.images / "vm.qed", "qed")), "size": "4M", "shrink": True}


@case("compat 0.10 with 1 internal snapshot(s)", "qcow2_image")
def the_image_is_old_and_has_snapshots(scene: Scene) -> Asked:
    image = scene.images / "vm.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-o", "compat=0.10", image, "8M")
    qemu_img("snapshot", "-c", "before", image)
    return {"name": scene.domain(Disk(image, "qcow2"))}


@case("compat 0.10 with 1 internal snapshot(s)")
def the_image_of_a_running_domain_is_old_and_has_snapshots(scene: Scene) -> Asked:
    asked = the_image_is_old_and_has_snapshots(scene)
    scene.hv.start(asked["name"])
    return asked


@case("is marked corrupt")
def the_image_is_marked_corrupt(scene: Scene) -> Asked:
    image = scene.qcow2()
    with open(image, "r+b") as stream:
        stream.seek(79)
        stream.write(b"\2")
    return {"name": scene.domain(Disk(image, "qcow2"))}


@case("is encrypted", "start the domain")
def the_image_is_encrypted(scene: Scene) -> Asked:
    image = make_encrypted(scene.images / "vm.qcow2")
    return {"name": scene.domain(Disk(image, "qcow2"))}


@case("keeps its data in another file", "secret")
def the_image_has_a_data_file(scene: Scene) -> Asked:
    image = scene.images / "vm.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-o", f"data_file={scene.images / 'secret'}", image, "4M")
    return {"name": scene.domain(Disk(image, "qcow2")), "trusted": True}


@case("has the backing file", "does not name", "trusted=true")
def the_image_has_a_backing_file_that_the_definition_does_not_name(scene: Scene) -> Asked:
    overlay = make_overlay(scene.images / "vm.qcow2", scene.raw("secret"))
    return {"name": scene.domain(Disk(overlay, "qcow2"))}


@case("libvirt's XML names the backing files none, the images", "bring the two together first")
def the_definition_says_that_there_is_no_backing_file_but_the_image_has_one(scene: Scene) -> Asked:
    overlay = make_overlay(scene.images / "vm.qcow2", scene.raw("base.raw"))
    return {"name": scene.defined(with_backing, Disk(overlay, "qcow2")), "trusted": True}


@case("its backing file", "base.raw has 8 MiB", "cuts off the end")
def the_overlay_would_be_smaller_than_its_backing_file(scene: Scene) -> Asked:
    base = scene.raw("base.raw")
    overlay = make_overlay(scene.images / "vm.qcow2", base)
    name = scene.defined(lambda xml: with_backing(xml, (base, "raw")), Disk(overlay, "qcow2"))
    return {"name": name, "size": "4M", "shrink": True}


@case("the backing chain runs in a circle")
def the_chain_runs_in_a_circle(scene: Scene) -> Asked:
    lower, upper = scene.images / "lower.qcow2", scene.images / "vm.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", lower, "8M")
    qemu_img("create", "-q", "-f", "qcow2", "-b", lower, "-F", "qcow2", upper)
    qemu_img("rebase", "-u", "-f", "qcow2", "-b", upper, "-F", "qcow2", lower)
    return {"name": scene.domain(Disk(upper, "qcow2")), "trusted": True}


# Space


@case("not enough space in", "needed", "available")
def there_is_not_enough_space_for_what_is_to_be_reserved(scene: Scene) -> Asked:
    small = scene.small_file_system("12m")
    path = small / "vm.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", path, "4M")
    return {"name": scene.domain(Disk(path, "qcow2")), "preallocation": "full"}


@case("not enough space in", "The image is fully allocated", "preallocation=off")
def there_is_not_enough_space_for_an_image_that_is_reserved(scene: Scene) -> Asked:
    small = scene.small_file_system("12m")
    qemu_img("create", "-q", "-f", "raw", "-o", "preallocation=falloc", small / "vm.raw", "4M")
    return {"name": scene.domain(Disk(small / "vm.raw"))}


def _figures(refused: dict[str, Any]) -> None:
    assert refused["required_bytes"] > refused["available_bytes"] > 0
    assert f"{refused['required_bytes']} bytes" in refused["msg"]


CASES.facts["there_is_not_enough_space_for_what_is_to_be_reserved"] = _figures
CASES.facts["there_is_not_enough_space_for_an_image_that_is_reserved"] = _figures


@case("raw images have no metadata")
def the_policy_is_not_one_of_the_format(scene: Scene) -> Asked:
    return {"name": scene.domain(Disk(scene.raw())), "preallocation": "metadata"}


def test_a_file_that_no_file_system_can_hold_is_refused_and_the_image_as_it_was(
    hv: Hypervisor, images: Path, make_domain: MakeDomain
) -> None:
    """QEMU itself says so, since nobody else knows how long a file may be."""
    with contextlib.ExitStack() as stack:
        scene = Scene(hv, images, make_domain, stack)
        path = scene.raw()
        name = scene.domain(Disk(path))
        for running in (False, True):
            if running:
                hv.start(name)
            before = tree_state(images)["vm.raw"]
            refused = run_module(MODULE, {"name": name, "disk": "vda", "size": "7E", "uri": hv.uri})
            assert refused.get("failed"), refused
            assert tree_state(images)["vm.raw"] == before
            assert os.listdir(images) == ["vm.raw"]
