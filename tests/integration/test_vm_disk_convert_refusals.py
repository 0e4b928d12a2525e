# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""vm_disk_convert refuses with a reason, and then nothing has changed: no file, no definition, no state of a domain."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import libvirt
import pytest
from lab import Disk, Guest, GuestError, Hypervisor, run_module, tree_state
from lab.fixtures import MakeDomain
from support.agents import feign_an_agent
from support.arranged import Asked, Cases, Scene
from support.injection import constants, environment, paused_at
from support.scene import (
    MIB,
    definition,
    disk_of,
    is_running,
    leftovers,
    make_encrypted,
    make_image,
    make_overlay,
    qemu_img,
    with_backing,
)

MODULE = "vm_disk_convert"


CASES = Cases(MODULE, disk="vda")
case = CASES.case


@pytest.mark.parametrize("name", CASES)
def test_is_refused_and_nothing_changed(scene: Scene, name: str) -> None:
    CASES.assert_refused(name, scene)


def _figures(refused: dict[str, Any]) -> None:
    assert refused["required_bytes"] > refused["available_bytes"] > 0
    assert f"{refused['required_bytes']} bytes" in refused["msg"]
    assert f"{refused['available_bytes']} bytes" in refused["msg"]


# What is at the destination, and who uses the images


@case("vm.qcow2: exists already", "left alone")
def the_destination_exists(scene: Scene) -> Asked:
    (scene.images / "vm.qcow2").write_text("somebody's file")
    return {"name": scene.domain(Disk(scene.raw()))}


@case("vm.qcow2: exists already")
def the_destination_is_a_broken_link(scene: Scene) -> Asked:
    (scene.images / "vm.qcow2").symlink_to("nowhere")
    return {"name": scene.domain(Disk(scene.raw()))}


@case("vm.raw: in use by defined domain other-", "disk vdb")
def another_domain_defines_the_source(scene: Scene) -> Asked:
    scene.domain(Disk(scene.raw(), target="vdb"), name="other")
    return {"name": scene.domain(Disk(scene.images / "vm.raw"))}


@case("vm.raw: in use by running domain other-")
def another_domain_runs_on_the_source(scene: Scene) -> Asked:
    scene.domain(Disk(scene.raw()), name="other", start=True)
    return {"name": scene.domain(Disk(scene.images / "vm.raw"))}


@case("vm.qcow2: in use by defined domain other-")
def another_domain_defines_the_destination(scene: Scene) -> Asked:
    scene.domain(Disk(scene.images / "vm.qcow2", "qcow2"), name="other")
    return {"name": scene.domain(Disk(scene.raw()))}


@case("vm.raw: in use by", "disk vdb")
def the_same_domain_has_the_image_twice(scene: Scene) -> Asked:
    path = scene.raw()
    return {"name": scene.domain(Disk(path), Disk(path, target="vdb"))}


@case("base.raw: in use by defined domain other-", "backing file of vda")
def the_source_is_the_backing_file_of_another_domain(scene: Scene) -> Asked:
    base = scene.raw("base.raw")
    scene.domain(Disk(make_overlay(scene.images / "clone.qcow2", base), "qcow2"), name="other")
    return {"name": scene.domain(Disk(base))}


@case("vm.raw: in use by a process that libvirt does not know")
def a_process_has_the_source_open(scene: Scene) -> Asked:
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


@case("vm.raw: 1 image(s) read it as their backing file", "overlay.qcow2", "keep the source")
def the_source_is_to_go_but_an_overlay_beside_it_needs_it(scene: Scene) -> Asked:
    make_overlay(scene.images / "overlay.qcow2", scene.raw())
    return {"name": scene.domain(Disk(scene.images / "vm.raw")), "keep_source": False}


@case("vm.raw: 1 image(s) read it as their backing file", "elsewhere/overlay.qcow2")
def the_source_is_to_go_but_an_overlay_in_a_search_path_needs_it(scene: Scene) -> Asked:
    (scene.images / "elsewhere").mkdir()
    make_overlay(scene.images / "elsewhere" / "overlay.qcow2", scene.raw())
    name = scene.domain(Disk(scene.images / "vm.raw"))
    return {"name": name, "keep_source": False, "search_paths": [str(scene.images / "elsewhere")]}


@case("vm.raw: 1 image(s) read it as their backing file", "pool/overlay.qcow2")
def the_source_is_to_go_but_an_overlay_in_a_pool_needs_it(scene: Scene) -> Asked:
    (scene.images / "pool").mkdir()
    make_overlay(scene.images / "pool" / "overlay.qcow2", scene.raw())
    scene.hv.pool("clones", scene.images / "pool")

    def remove() -> None:
        with contextlib.closing(scene.hv.connect()) as connection:
            pool = connection.storagePoolLookupByName("clones")
            pool.destroy()
            pool.undefine()

    scene.stack.callback(remove)
    return {"name": scene.domain(Disk(scene.images / "vm.raw")), "keep_source": False}


CASES.facts["the_source_is_to_go_but_an_overlay_beside_it_needs_it"] = lambda refused: _has(refused, "dependents")
CASES.facts["another_domain_runs_on_the_source"] = lambda refused: _has(refused, "in_use_by")


def _has(refused: dict[str, Any], fact: str) -> None:
    assert len(refused[fact]) == 1


# The state of the domain


@case("has a managed-save image", "managedsave-remove")
def the_domain_has_a_managed_save_image(scene: Scene) -> Asked:
    name = scene.domain(Disk(scene.raw()), start=True)
    with scene.libvirt(name) as domain:
        domain.managedSave()
    return {"name": name}


@case("has 1 snapshot(s) (before)", "delete them first")
def the_domain_has_an_internal_snapshot(scene: Scene) -> Asked:
    name = scene.domain(Disk(scene.qcow2(), "qcow2"))
    with scene.libvirt(name) as domain:
        domain.snapshotCreateXML("<domainsnapshot><name>before</name></domainsnapshot>")
    return {"name": name, "format": "raw"}


@case("has 1 snapshot(s) (disk-only)", "delete them first")
def the_domain_has_an_external_snapshot(scene: Scene) -> Asked:
    name = scene.domain(Disk(scene.raw()))
    with scene.libvirt(name) as domain:
        flags = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
        domain.snapshotCreateXML("<domainsnapshot><name>disk-only</name></domainsnapshot>", flags)
    return {"name": name, "format": "raw"}


@case("a block job runs on vda", "blockjob --abort")
def a_block_job_runs(scene: Scene) -> Asked:
    name = scene.domain(Disk(scene.raw(mib=8)), start=True)
    scene.copy_block(name)
    return {"name": name, "mode": "offline", "shutdown": "force"}


@case("is being migrated, saved, dumped or backed up")
def the_domain_is_being_backed_up(scene: Scene) -> Asked:
    name = scene.domain(Disk(scene.raw()), start=True)
    scene.back_up(name)
    return {"name": name, "mode": "offline", "shutdown": "force"}


@case("is running, and shutdown is never")
def the_domain_runs_and_must_not_be_stopped(scene: Scene) -> Asked:
    return {"name": scene.domain(Disk(scene.raw()), start=True), "mode": "offline", "shutdown": "never"}


@case("is paused, so its guest cannot shut down", "resume it")
def the_domain_is_paused(scene: Scene) -> Asked:
    name = scene.domain(Disk(scene.raw()), start=True)
    with scene.libvirt(name) as domain:
        domain.suspend()
    return {"name": name, "mode": "offline"}


@case("the guest runs on", "but the definition names")
def the_domain_runs_on_another_disk_than_it_defines(scene: Scene) -> Asked:
    name = scene.domain(Disk(scene.raw()), start=True)
    with scene.libvirt(name) as domain:
        definition = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
        scene.hv.define(definition.replace("vm.raw", "another.raw"))
    return {"name": name, "mode": "offline", "shutdown": "force"}


@case("transient-vm: is transient")
def the_domain_is_transient(scene: Scene) -> Asked:
    xml = scene.hv.domain_xml("transient-vm", [Disk(scene.raw())], kernel=False)
    with contextlib.closing(scene.hv.connect()) as connection:
        connection.createXML(xml)
    scene.stack.callback(scene.hv.remove, "transient-vm")
    return {"name": "transient-vm", "mode": "offline", "shutdown": "force"}


@case("no-such-vm: no domain of this name or UUID")
def there_is_no_such_domain(scene: Scene) -> Asked:
    return {"name": "no-such-vm"}


@case("has no disk vdq", "it has vda (/")
def the_domain_has_no_such_disk(scene: Scene) -> Asked:
    return {"name": scene.domain(Disk(scene.raw())), "disk": "vdq"}


@case("has no disk /images/unknown.raw")
def the_domain_has_no_disk_at_that_path(scene: Scene) -> Asked:
    return {"name": scene.domain(Disk(scene.raw())), "disk": "/images/unknown.raw"}


# The kind of the disk


@case("vda: is read-only")
def the_disk_is_read_only(scene: Scene) -> Asked:
    return {"name": scene.domain(Disk(scene.raw(), readonly=True))}


@case("vda: is shareable")
def the_disk_is_shareable(scene: Scene) -> Asked:
    return {"name": scene.domain(Disk(scene.raw(), shareable=True))}


@case("vda: is transient")
def the_disk_is_transient(scene: Scene) -> Asked:
    return {"name": scene.defined(lambda xml: xml.replace("</disk>", "<transient/></disk>"), Disk(scene.raw()))}


@case("hdc: is a cdrom")
def the_disk_is_a_cdrom(scene: Scene) -> Asked:
    disk = Disk(scene.raw("image.iso"), target="hdc", device="cdrom", readonly=True)
    return {"name": scene.domain(disk), "disk": "hdc"}


@case("hdc: is a cdrom")
def the_disk_is_an_empty_cdrom(scene: Scene) -> Asked:
    empty = "<disk type='file' device='cdrom'><target dev='hdc' bus='ide'/><readonly/></disk>"
    return {"name": scene.domain(Disk(scene.raw()), extra_devices=empty), "disk": "hdc"}


@case("fda: is a floppy")
def the_disk_is_a_floppy(scene: Scene) -> Asked:
    return {"name": scene.domain(Disk(scene.raw("floppy.raw"), target="fda", device="floppy")), "disk": "fda"}


@case("vda: is on the block device /dev/nothing", "give dest or dest_dir")
def the_disk_is_a_block_device_and_no_place_is_given(scene: Scene) -> Asked:
    return {"name": scene.domain(Disk("/dev/nothing"))}


@case("/dev/nothing: cannot be opened")
def the_disk_is_a_block_device_that_is_missing(scene: Scene) -> Asked:
    return {"name": scene.domain(Disk("/dev/nothing")), "dest_dir": str(scene.images)}


@case("vda: its source is of type network")
def the_disk_is_on_the_network(scene: Scene) -> Asked:
    source = "<source protocol='nbd' name='export'><host name='127.0.0.1' port='10809'/></source>"
    disk = f"<disk type='network'><driver name='qemu' type='raw'/>{source}<target dev='vda' bus='virtio'/></disk>"
    return {"name": scene.domain(extra_devices=disk)}


# The content of the image


@case("vm.raw: found a raw image, asked for qcow2")
def the_definition_says_qcow2_but_the_image_is_raw(scene: Scene) -> Asked:
    return {"name": scene.domain(Disk(scene.raw(), "qcow2")), "format": "raw", "dest": str(scene.images / "new")}


@case("vm.qcow2: found a qcow2 image, asked for vmdk")
def the_definition_says_vmdk_but_the_image_is_qcow2(scene: Scene) -> Asked:
    return {"name": scene.domain(Disk(scene.qcow2(), "vmdk")), "format": "raw"}


@case("has the backing file", "does not name", "trusted=true")
def the_image_has_a_backing_file_that_the_definition_does_not_name(scene: Scene) -> Asked:
    overlay = make_overlay(scene.images / "vm.qcow2", scene.raw("secret"))
    return {"name": scene.domain(Disk(overlay, "qcow2")), "format": "raw"}


@case("middle.qcow2: has the backing file", "secret", "does not name")
def the_backing_file_has_one_that_the_definition_does_not_name(scene: Scene) -> Asked:
    middle = make_overlay(scene.images / "middle.qcow2", scene.raw("secret"))
    overlay = make_overlay(scene.images / "vm.qcow2", middle, "qcow2")
    name = scene.defined(lambda xml: with_backing(xml, (middle, "qcow2")), Disk(overlay, "qcow2"))
    return {"name": name, "format": "raw"}


SAYS_ELSE = ("libvirt's XML names the backing files", "bring the two together first")


@case(*SAYS_ELSE, "none, the images")
def the_definition_says_that_there_is_no_backing_file_but_the_image_has_one(scene: Scene) -> Asked:
    disk = Disk(make_overlay(scene.images / "vm.qcow2", scene.raw("base.raw")), "qcow2")
    return {"name": scene.defined(with_backing, disk), "format": "raw", "trusted": True}


@case(*SAYS_ELSE, "other.raw (raw), the images")
def the_definition_says_another_backing_file_than_the_image(scene: Scene) -> Asked:
    disk, other = Disk(make_overlay(scene.images / "vm.qcow2", scene.raw("base.raw")), "qcow2"), scene.raw("other.raw")
    name = scene.defined(lambda xml: with_backing(xml, (other, "raw")), disk)
    return {"name": name, "format": "raw", "trusted": True}


@case(*SAYS_ELSE, "base.raw (raw), the images none")
def the_definition_says_a_backing_file_and_the_image_has_none(scene: Scene) -> Asked:
    disk, base = Disk(scene.qcow2(), "qcow2"), scene.raw("base.raw")
    return {"name": scene.defined(lambda xml: with_backing(xml, (base, "raw")), disk), "format": "raw"}


@case("keeps its data in", "secret", "does not name")
def the_image_has_a_data_file(scene: Scene) -> Asked:
    image = scene.images / "vm.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-o", f"data_file={scene.images / 'secret'}", image, "4M")
    return {"name": scene.domain(Disk(image, "qcow2")), "format": "raw"}


@case("keeps its data in", "secret", "does not name")
def the_image_is_a_vmdk_with_an_extent_beside_it(scene: Scene) -> Asked:
    scene.raw("secret")
    descriptor = scene.images / "vm.vmdk"
    qemu_img("create", "-q", "-f", "vmdk", "-o", "subformat=monolithicFlat", descriptor, f"{8 * MIB}")
    flat = scene.images / "vm-flat.vmdk"
    flat.unlink()
    descriptor.write_text(descriptor.read_text().replace("vm-flat.vmdk", "secret"))
    return {"name": scene.domain(Disk(descriptor, "vmdk")), "format": "raw"}


@case("something else than a file beside it")
def the_image_is_a_vmdk_with_an_extent_elsewhere(scene: Scene) -> Asked:
    descriptor = scene.images / "vm.vmdk"
    qemu_img("create", "-q", "-f", "vmdk", "-o", "subformat=monolithicFlat", descriptor, f"{8 * MIB}")
    descriptor.write_text(descriptor.read_text().replace("vm-flat.vmdk", "/etc/passwd"))
    return {"name": scene.domain(Disk(descriptor, "vmdk")), "format": "raw", "trusted": True}


@case("the backing chain runs in a circle")
def the_chain_runs_in_a_circle(scene: Scene) -> Asked:
    lower, upper = scene.images / "lower.qcow2", scene.images / "vm.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", lower, "8M")
    qemu_img("create", "-q", "-f", "qcow2", "-b", lower, "-F", "qcow2", upper)
    qemu_img("rebase", "-u", "-f", "qcow2", "-b", upper, "-F", "qcow2", lower)
    return {"name": scene.domain(Disk(upper, "qcow2")), "format": "raw", "trusted": True}


@case("is encrypted", "unencrypted")
def the_image_is_encrypted(scene: Scene) -> Asked:
    image = make_encrypted(scene.images / "vm.qcow2")
    return {"name": scene.domain(Disk(image, "qcow2")), "format": "raw"}


@case("is marked corrupt")
def the_image_is_marked_corrupt(scene: Scene) -> Asked:
    image = scene.qcow2()
    with open(image, "r+b") as stream:
        stream.seek(79)
        stream.write(b"\2")
    return {"name": scene.domain(Disk(image, "qcow2")), "format": "raw"}


@case("holds 1 internal snapshot(s) (inside)")
def the_source_is_to_go_with_its_internal_snapshots(scene: Scene) -> Asked:
    image = scene.qcow2()
    qemu_img("snapshot", "-c", "inside", image)
    return {"name": scene.domain(Disk(image, "qcow2")), "format": "raw", "keep_source": False}


@case("vm.raw: ")
def the_image_is_missing(scene: Scene) -> Asked:
    return {"name": scene.domain(Disk(scene.images / "vm.raw"))}


# Space


@case("not enough space in", "needed", "available")
def there_is_not_enough_space(scene: Scene) -> Asked:
    return {"name": scene.domain(Disk(scene.raw(mib=6))), "dest_dir": str(scene.small_file_system("4m"))}


@case("not enough space in", "needed", "available")
def there_is_not_enough_space_for_what_a_running_domain_has(scene: Scene) -> Asked:
    name = scene.domain(Disk(scene.raw(mib=6)), start=True)
    return {"name": name, "dest_dir": str(scene.small_file_system("4m")), "mode": "offline", "shutdown": "force"}


@case("not enough space in")
def there_is_not_enough_space_for_a_thick_image(scene: Scene) -> Asked:
    name = scene.domain(Disk(scene.raw(mib=1)))
    return {"name": name, "dest_dir": str(scene.small_file_system("4m")), "allocation": "lazy_zeroed_thick"}


@case("a.qcow2, ", "b.qcow2: not enough space in")
def there_is_not_enough_space_for_two_disks_together(scene: Scene) -> Asked:
    disks = [Disk(scene.raw(f"{name}.raw", mib=3), target=f"vd{name}") for name in "ab"]
    return {"name": scene.domain(*disks), "disks": ["vda", "vdb"], "dest_dir": str(scene.small_file_system("5m"))}


CASES.facts["there_is_not_enough_space"] = _figures
CASES.facts["there_is_not_enough_space_for_what_a_running_domain_has"] = _figures
CASES.facts["there_is_not_enough_space_for_a_thick_image"] = _figures


# The wish itself


@case("source and destination are the same file")
def the_destination_is_the_source(scene: Scene) -> Asked:
    return {"name": scene.domain(Disk(scene.raw())), "dest": str(scene.images / "vm.raw")}


@case("source and destination are the same file")
def the_destination_is_the_source_by_another_name(scene: Scene) -> Asked:
    (scene.images / "link").symlink_to(scene.images)
    return {"name": scene.domain(Disk(scene.raw())), "dest": str(scene.images / "link" / "vm.raw")}


@case("dest: the directory", "missing does not exist")
def the_directory_of_the_destination_is_missing(scene: Scene) -> Asked:
    return {"name": scene.domain(Disk(scene.raw())), "dest": str(scene.images / "missing" / "vm.qcow2")}


def _closed(scene: Scene) -> str:
    (scene.images / "private").mkdir(mode=0o700)
    return str(scene.images / "private" / "vm.qcow2")


@case("dest: QEMU runs as the user", "may not enter", "private (mode 0700)", "give it execute permission")
def qemu_may_not_traverse_the_directory(scene: Scene) -> Asked:
    return {"name": scene.domain(Disk(scene.raw())), "dest": _closed(scene)}


@case("dest: QEMU runs as the user", "may not enter", "private (mode 0700)", "give it execute permission")
def qemu_may_not_traverse_the_directory_of_a_live_copy(scene: Scene) -> Asked:
    return {"name": scene.domain(Disk(scene.raw()), start=True), "dest": _closed(scene)}


@case("dest: 'vm.qcow2' is relative")
def the_destination_is_relative(scene: Scene) -> Asked:
    return {"name": scene.domain(Disk(scene.raw())), "dest": "vm.qcow2"}


@case("dest_dir: 'images' is relative")
def the_directory_is_relative(scene: Scene) -> Asked:
    return {"name": scene.domain(Disk(scene.raw())), "dest_dir": "images"}


@case("dest: names one file, but several disks")
def one_destination_is_given_for_two_disks(scene: Scene) -> Asked:
    name = scene.domain(Disk(scene.raw("a.raw")), Disk(scene.raw("b.raw"), target="vdb"))
    return {"name": name, "disks": ["vda", "vdb"], "dest": str(scene.images / "new")}


@case("two disks would become", "same.qcow2")
def two_disks_would_become_one_file(scene: Scene) -> Asked:
    (scene.images / "link").symlink_to(scene.images)
    scene.raw("same.img")
    name = scene.domain(Disk(scene.raw("same.raw")), Disk(scene.images / "link/same.img", target="vdb"))
    return {"name": name, "disks": ["vda", "vdb"]}


@case("line break")
def the_destination_has_a_newline(scene: Scene) -> Asked:
    return {"name": scene.domain(Disk(scene.raw())), "dest": f"{scene.images}/a\nb"}


@case("cannot stand in a domain's XML")
def the_destination_has_a_control_character(scene: Scene) -> Asked:
    return {"name": scene.domain(Disk(scene.raw())), "dest": f"{scene.images}/a\x01b"}


@case("file name has more than 255 bytes")
def the_name_of_the_destination_is_too_long(scene: Scene) -> Asked:
    return {"name": scene.domain(Disk(scene.raw())), "dest": f"{scene.images}/{'x' * 256}"}


@case("shutdown_timeout: 0 s")
def there_is_no_time_to_shut_down(scene: Scene) -> Asked:
    return {"name": scene.domain(Disk(scene.raw())), "shutdown_timeout": 0}


@case("cluster_size", "1000")
def the_cluster_size_is_no_power_of_two(scene: Scene) -> Asked:
    return {"name": scene.domain(Disk(scene.raw())), "cluster_size": "1000"}


@case("compress: raw images cannot be compressed")
def the_format_knows_no_compression(scene: Scene) -> Asked:
    return {"name": scene.domain(Disk(scene.raw())), "format": "raw", "compress": True}


@case("mutually exclusive")
def one_disk_and_several_are_given(scene: Scene) -> Asked:
    return {"name": scene.domain(Disk(scene.raw())), "disk": "vda", "dest": "/x", "dest_dir": "/y"}


# What only stands in the way of a live conversion


@case("is shut off, and method is live", "start the domain")
def the_domain_is_off_and_the_mode_is_live(scene: Scene) -> Asked:
    return {"name": scene.domain(Disk(scene.raw())), "mode": "live"}


@case("format: vdi images are not made below a running guest", "set method to offline")
def the_format_is_none_for_a_live_copy(scene: Scene) -> Asked:
    return {"name": scene.domain(Disk(scene.raw()), start=True), "format": "vdi"}


@case("compress: what is copied below a running guest cannot be compressed", "set method to offline")
def a_live_copy_is_to_be_compressed(scene: Scene) -> Asked:
    return {"name": scene.domain(Disk(scene.raw()), start=True), "compress": True}


@case("preallocation: the zeros of a raw image cannot be written below a running guest", "set method to offline")
def a_live_copy_is_to_be_full_of_zeros(scene: Scene) -> Asked:
    name = scene.domain(Disk(scene.qcow2(), "qcow2"), start=True)
    return {"name": name, "format": "raw", "allocation": "eager_zeroed_thick"}


@case("a block job runs on vda", "blockjob --abort")
def a_foreign_block_job_runs_and_the_mode_is_live(scene: Scene) -> Asked:
    return {**a_block_job_runs(scene), "mode": "live"}


@case("not enough space in", "needed", "available")
def there_is_not_enough_space_for_a_live_copy(scene: Scene) -> Asked:
    name = scene.domain(Disk(scene.raw(mib=6)), start=True)
    return {"name": name, "dest_dir": str(scene.small_file_system("4m"))}


@case("vm.qcow2: exists already: it is left alone")
def an_empty_file_is_at_the_destination_of_a_live_copy(scene: Scene) -> Asked:
    (scene.images / "vm.qcow2").touch()
    return {"name": scene.domain(Disk(scene.raw()), start=True)}


@case("the directory", "does not exist")
def the_directory_of_a_live_copy_is_missing(scene: Scene) -> Asked:
    name = scene.domain(Disk(scene.raw()), start=True)
    return {"name": name, "dest": str(scene.images / "missing" / "vm.qcow2")}


@case("source and destination are the same file")
def the_destination_of_a_live_copy_is_the_source(scene: Scene) -> Asked:
    return {"name": scene.domain(Disk(scene.raw()), start=True), "dest": str(scene.images / "vm.raw")}


@case("is a cdrom, asked to convert a disk")
def a_cdrom_of_a_running_domain_is_meant(scene: Scene) -> Asked:
    cdrom = Disk(scene.raw("cd.iso"), target="hdc", device="cdrom", readonly=True)
    return {"name": scene.domain(Disk(scene.raw()), cdrom, start=True), "disk": "hdc"}


@case("bandwidth: ")
def the_bandwidth_is_no_size(scene: Scene) -> Asked:
    return {"name": scene.domain(Disk(scene.raw())), "bandwidth": "fast"}


@case("bandwidth: ")
def the_bandwidth_is_nothing(scene: Scene) -> Asked:
    return {"name": scene.domain(Disk(scene.raw())), "bandwidth": "0"}


@case("copy_timeout: 0 s is too short")
def there_is_no_time_to_copy_in(scene: Scene) -> Asked:
    return {"name": scene.domain(Disk(scene.raw())), "copy_timeout": 0}


@case("shallow: raw images have no backing file")
def a_raw_image_is_to_keep_a_chain(scene: Scene) -> Asked:
    return {"name": scene.domain(Disk(scene.qcow2(), "qcow2")), "format": "raw", "shallow": True}


# What the host lacks


@case("cannot connect to libvirt", "missing.sock")
def libvirt_is_unreachable(scene: Scene) -> Asked:
    return {"name": "vm", "uri": f"qemu+unix:///system?socket={scene.images}/missing.sock"}


def _without(scene: Scene, library: str) -> dict[str, str]:
    """An environment in which the library cannot be imported."""
    stubs = scene.images / "stubs"
    stubs.mkdir()
    (stubs / f"{library}.py").write_text(f"raise ImportError('no module {library} here')\n")
    return {"PYTHONPATH": str(stubs), "PYTHONDONTWRITEBYTECODE": "1"}


@case("Failed to import the required Python library (lxml)")
def lxml_is_missing(scene: Scene) -> Asked:
    return {"name": scene.domain(Disk(scene.raw())), "environment": _without(scene, "lxml")}


@case("Failed to import the required Python library (libvirt-python)")
def the_libvirt_binding_is_missing(scene: Scene) -> Asked:
    return {"name": scene.domain(Disk(scene.raw())), "environment": _without(scene, "libvirt")}


@case("qemu-img was not found", "install")
def qemu_img_is_missing(scene: Scene) -> Asked:
    """The module looks in the usual places as well, so it gets a namespace in which nothing can be executed there."""
    hidden, python = scene.images / "hidden", scene.images / "python"
    hidden.touch(mode=0o644)
    python.write_text(f'#!/bin/sh -e\nmount --bind {hidden} /usr/bin/qemu-img\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    isolated = scene.images / "isolated"
    isolated.write_text(f'#!/bin/sh -e\nexec unshare --mount {python} "$@"\n')
    isolated.chmod(0o755)
    return {"name": scene.domain(Disk(scene.raw())), "python": isolated}


@pytest.fixture
def deaf(images: Path, make_domain: MakeDomain) -> Guest:
    """A guest that does not obey the power button."""
    disk = Disk(make_image(images / "vm.raw"))
    guest = make_domain([disk], start=True, cmdline_extra="lab.ignore_acpi")
    guest.must("echo alive >/tmp/here")
    return guest


def test_a_guest_that_ignores_acpi_runs_on_after_the_timeout(hv: Hypervisor, images: Path, deaf: Guest) -> None:
    params = {"name": deaf.name, "disk": "vda", "shutdown_timeout": 2, "mode": "offline", "uri": hv.uri}
    files = tree_state(images)
    failed = run_module(MODULE, params)
    assert failed["failed"]
    assert "did not shut down within 2 s" in failed["msg"]
    assert "force" in failed["msg"]
    assert deaf.run("cat /tmp/here") == (0, "alive\n"), "the same guest, not one that was started again"
    assert disk_of(hv, deaf.name) == (str(images / "vm.raw"), "raw")
    assert tree_state(images)["vm.raw"] == files["vm.raw"]
    assert not (images / "vm.qcow2").exists()
    done = run_module(MODULE, {**params, "mode": "offline", "shutdown": "force"})
    assert done.get("changed"), done
    deaf.wait_ready()
    assert deaf.run("cat /tmp/here")[0] != 0
    assert leftovers(hv, deaf.name, images) == []


@pytest.mark.parametrize("hears", ["the power button", "the agent"])
def test_a_guest_that_does_not_hear_yet_is_asked_again_to_shut_down(
    hv: Hypervisor, images: Path, make_domain: MakeDomain, hears: str
) -> None:
    """A second after its start, say, when the power button has no driver, and the agent is no process."""
    agent = hears == "the agent"
    guest = make_domain([Disk(make_image(images / "vm.raw"))], start=True, agent=agent)
    guest.must("kill $(cat /tmp/acpid.pid)")
    if agent:
        guest.must("kill $(cat /tmp/ga.pid)")
    asked = {"name": guest.name, "disk": "vda", "mode": "offline", "shutdown_timeout": 280, "uri": hv.uri}
    with paused_at("virDomainShutdown 1 > virDomainIsActive 1", asked) as run:
        assert is_running(hv, guest.name)
        channel = "-m virtio-serial -p /dev/virtio-ports/org.qemu.guest_agent.0"
        late = f"qemu-ga -d {channel} -t /tmp -f /tmp/ga.pid -l /tmp/ga.log"
        guest.must(late if agent else "acpid -c /etc/acpi -l /dev/null -p /tmp/acpid.pid 2>/dev/null")
    done = run.result()
    assert done.get("changed"), done
    guest.wait_ready()
    assert disk_of(hv, guest.name) == (str(images / "vm.qcow2"), "qcow2")
    assert leftovers(hv, guest.name, images) == []


def test_a_guest_whose_agent_only_says_that_it_is_there_hears_the_power_button(
    hv: Hypervisor, images: Path, make_domain: MakeDomain
) -> None:
    guest = make_domain([Disk(make_image(images / "vm.raw"))], start=True, agent=True)
    feign_an_agent(hv, guest)
    asked = {"name": guest.name, "disk": "vda", "mode": "offline", "shutdown_timeout": 280, "uri": hv.uri}
    done = run_module(MODULE, asked, env=environment(CONSTANTS=constants({"_libvirt.acting": {"_AGENT_PROMPT": 3}})))
    assert done.get("changed"), done
    guest.wait_ready()
    assert disk_of(hv, guest.name) == (str(images / "vm.qcow2"), "qcow2")


def test_a_guest_that_has_been_started_just_now_is_shut_down(
    hv: Hypervisor, images: Path, make_domain: MakeDomain
) -> None:
    guest = make_domain([Disk(make_image(images / "vm.raw"))])
    hv.start(guest.name)
    asked = {"name": guest.name, "disk": "vda", "mode": "offline", "shutdown_timeout": 280, "uri": hv.uri}
    done = run_module(MODULE, asked)
    assert done.get("changed"), done
    guest.wait_ready()
    assert disk_of(hv, guest.name) == (str(images / "vm.qcow2"), "qcow2")


def test_a_guest_that_goes_off_after_the_timeout_is_started_again_by_the_next_run(
    hv: Hypervisor, images: Path, deaf: Guest
) -> None:
    """It was asked to shut down, and nobody can take that back: so that is not forgotten."""
    params = {"name": deaf.name, "disk": "vda", "shutdown_timeout": 1, "mode": "offline", "uri": hv.uri}
    for _again in range(2):
        failed = run_module(MODULE, params)
        assert "If it still goes off later, the next run starts it again" in failed["msg"]
        assert is_running(hv, deaf.name)
    with contextlib.suppress(GuestError):
        deaf.run("power-off")
    deaf.wait_off()
    predicted = run_module(MODULE, params, check=True)
    done = run_module(MODULE, params)
    assert [action.split()[0] for action in done["actions"]] == ["convert", "define", "start"]
    assert predicted["actions"] == done["actions"]
    deaf.wait_ready()
    assert disk_of(hv, deaf.name) == (str(images / "vm.qcow2"), "qcow2")
    assert leftovers(hv, deaf.name, images) == []
    assert not run_module(MODULE, params)["changed"]


def test_a_guest_that_goes_off_under_a_later_task_is_started_again_whatever_the_next_run_is_asked(
    hv: Hypervisor, images: Path, deaf: Guest
) -> None:
    params = {"name": deaf.name, "disk": "vda", "uri": hv.uri}
    failed = run_module(MODULE, {**params, "shutdown_timeout": 1, "mode": "offline"})
    assert "did not shut down within 1 s" in failed["msg"]
    live = run_module(MODULE, {**params, "dest": str(images / "other.qcow2")})
    assert live["disks"][0]["mode"] == "live", live
    again = run_module(MODULE, {**params, "dest": str(images / "other.qcow2")})
    assert not again["changed"]
    for told in (live, again):
        assert sum("was asked to shut down at" in str(said) for said in told["warnings"]) == 1
    assert run_module("vm_disk_resize", {**params, "size": "12M"})["changed"], "others are not held up by it"
    (disk,) = run_module("vm_disk_info", {"names": [deaf.name], "uri": hv.uri})["disks"]
    assert disk["unfinished"]
    with contextlib.suppress(GuestError):
        deaf.run("power-off")
    deaf.wait_off()
    asked = {**params, "dest": str(images / "missing" / "vm.raw"), "format": "raw"}
    refused = run_module(MODULE, asked)
    assert "does not exist" in refused["msg"]
    deaf.wait_ready()
    assert disk_of(hv, deaf.name) == (str(images / "other.qcow2"), "qcow2")
    assert "<metadata" not in definition(hv, deaf.name)
    assert "kvmops" not in definition(hv, deaf.name, 0)
    assert not run_module(MODULE, {**params, "dest": str(images / "other.qcow2")})["changed"]
    with contextlib.closing(hv.connect()) as connection:
        connection.lookupByName(deaf.name).destroy()
    assert not run_module(MODULE, {**params, "dest": str(images / "other.qcow2")})["changed"]
    assert not is_running(hv, deaf.name), "nobody owes it a start any more"
    assert leftovers(hv, deaf.name, images) == []


def test_a_paused_domain_can_be_forced(hv: Hypervisor, images: Path, make_domain: MakeDomain) -> None:
    name = make_domain([Disk(make_image(images / "vm.raw"))], kernel=False).name
    hv.start(name)
    with contextlib.closing(hv.connect()) as connection:
        connection.lookupByName(name).suspend()
    done = run_module(MODULE, {"name": name, "disk": "vda", "mode": "offline", "shutdown": "force", "uri": hv.uri})
    assert done.get("changed"), done
    assert is_running(hv, name)


def test_a_domain_that_is_to_stay_off_stays_off(hv: Hypervisor, images: Path, make_domain: MakeDomain) -> None:
    name = make_domain([Disk(make_image(images / "vm.raw"))], kernel=False).name
    hv.start(name)
    params = {"name": name, "disk": "vda", "mode": "offline", "shutdown": "force", "restart": False, "uri": hv.uri}
    done = run_module(MODULE, params)
    assert [action.split()[0] for action in done["actions"]] == ["destroy", "convert", "define"]
    assert not is_running(hv, name)
    assert not run_module(MODULE, {**params, "restart": True})["changed"], "nobody owes it a start"
    assert not is_running(hv, name)
