# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""vm_linked_clone refuses with a reason, and then nothing has changed: no file, no definition, no state of a domain."""

from __future__ import annotations

import subprocess

import pytest
from lab import Disk
from support.arranged import Asked, Cases, Scene
from support.scene import make_encrypted, make_overlay, qemu_img

MODULE = "vm_linked_clone"
CASES = Cases(MODULE, clones=[{"name": "refused-clone"}])
case = CASES.case


@pytest.mark.parametrize("name", CASES)
def test_is_refused_and_nothing_changed(scene: Scene, name: str) -> None:
    CASES.assert_refused(name, scene)


# The source


@case("no domain of this name or UUID")
def an_unknown_source(_scene: Scene) -> Asked:
    return {"source": "no-such-vm"}


@case("is running: asked to clone it", "protect_base forbids that: shut it down first")
def a_running_source(scene: Scene) -> Asked:
    return {"source": scene.domain(Disk(scene.raw()), start=True)}


@case("is running: asked to clone it", "a copy of a disk that changes is inconsistent")
def a_running_source_to_be_copied(scene: Scene) -> Asked:
    return {"source": scene.domain(Disk(scene.raw()), start=True), "mode": "full", "protect_base": False}


@case("is a disk of the running domain", "shut that down first")
def an_image_on_which_another_machine_runs(scene: Scene) -> Asked:
    disk = Disk(scene.qcow2(), "qcow2")
    scene.domain(disk, start=True)
    return {"source": scene.domain(disk)}


@case("is open for writing")
def an_image_that_somebody_writes(scene: Scene) -> Asked:
    path = scene.qcow2()
    writer = subprocess.Popen(["qemu-io", "-f", "qcow2", path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    scene.stack.callback(writer.communicate)
    assert writer.stdin is not None
    assert writer.stdout is not None
    writer.stdin.write(b"length\n")
    writer.stdin.flush()
    writer.stdout.readline()
    return {"source": scene.domain(Disk(path, "qcow2"))}


@case("has 1 snapshot(s) (before)", "delete them first")
def a_source_with_a_snapshot(scene: Scene) -> Asked:
    name = scene.domain(Disk(scene.qcow2(), "qcow2"))
    with scene.libvirt(name) as domain:
        domain.snapshotCreateXML("<domainsnapshot><name>before</name></domainsnapshot>", 0)
    return {"source": name}


@case("has a managed-save image", "virsh managedsave-remove")
def a_source_that_was_saved(scene: Scene) -> Asked:
    name = scene.domain(Disk(scene.raw()), start=True)
    with scene.libvirt(name) as domain:
        domain.managedSave(0)
    return {"source": name}


@case("is encrypted")
def an_encrypted_base(scene: Scene) -> Asked:
    path = make_encrypted(scene.images / "vm.qcow2")
    return {"source": scene.domain(Disk(path, "qcow2"))}


@case("asked for a raw image, but its content begins like qcow2")
def a_base_of_another_format_than_declared(scene: Scene) -> Asked:
    return {"source": scene.domain(Disk(scene.qcow2("vm.raw"), "raw"))}


@case("found a raw image, asked for qcow2")
def a_raw_base_that_is_said_to_be_qcow2(scene: Scene) -> Asked:
    return {"source": scene.domain(Disk(scene.raw(), "qcow2"))}


@case("no such image")
def a_base_that_is_missing(scene: Scene) -> Asked:
    return {"source": scene.domain(Disk(scene.images / "gone.qcow2", "qcow2"))}


@case("which the definition of", "does not name for vda")
def a_backing_file_that_nobody_named(scene: Scene) -> Asked:
    return {"source": scene.domain(Disk(make_overlay(scene.images / "vm.qcow2", scene.raw("base.raw")), "qcow2"))}


@case("no such image")
def a_backing_file_that_is_missing(scene: Scene) -> Asked:
    base = scene.raw("base.raw")
    top = make_overlay(scene.images / "vm.qcow2", base)
    base.unlink()
    return {"source": scene.domain(Disk(top, "qcow2")), "trusted": True}


@case("keeps its data in")
def a_base_with_a_data_file(scene: Scene) -> Asked:
    path = scene.images / "vm.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-o", f"data_file={scene.images}/data.raw", path, "4M")
    return {"source": scene.domain(Disk(path, "qcow2"))}


@case("there is nothing to clone")
def a_source_without_a_disk(scene: Scene) -> Asked:
    return {"source": scene.domain()}


@case("its source is of type network")
def a_disk_somewhere_else(scene: Scene) -> Asked:
    disk = (
        "<disk type='network' device='disk'><driver name='qemu' type='raw'/>"
        "<source protocol='nbd' name='x'><host name='localhost' port='1'/></source><target dev='vda' bus='virtio'/>"
        "</disk>"
    )
    return {"source": scene.domain(extra_devices=disk)}


# What is asked


@case("disk_sizes: vda: asked for 4194304 bytes", "a smaller disk cuts off its end")
def a_disk_smaller_than_its_base(scene: Scene) -> Asked:
    return {"source": scene.domain(Disk(scene.qcow2(), "qcow2")), "disk_sizes": {"vda": "4M"}}


@case("has no such disk to clone: it has vda")
def a_size_for_no_disk(scene: Scene) -> Asked:
    return {"source": scene.domain(Disk(scene.qcow2(), "qcow2")), "disk_sizes": {"vdz": "4G"}}


@case("does not exist: create it first")
def a_directory_that_is_missing(scene: Scene) -> Asked:
    return {"source": scene.domain(Disk(scene.qcow2(), "qcow2")), "disk_dir": str(scene.images / "none")}


@case("QEMU runs as the user", "which may not enter", "(mode 0700)")
def a_directory_that_qemu_may_not_pass(scene: Scene) -> Asked:
    closed = scene.images / "closed" / "inner"
    closed.mkdir(parents=True, mode=0o755)
    closed.parent.chmod(0o700)
    return {"source": scene.domain(Disk(scene.qcow2(), "qcow2")), "disk_dir": str(closed)}


@case("the same names: twice")
def a_name_that_is_there_twice(scene: Scene) -> Asked:
    return {"source": scene.domain(Disk(scene.qcow2(), "qcow2")), "clones": [{"name": "twice"}, {"name": "twice"}]}


@case("is that of the domain", "choose another")
def the_address_of_the_source_itself(scene: Scene) -> Asked:
    name = scene.domain(Disk(scene.qcow2(), "qcow2"), mac="52:54:00:00:77:01")
    return {"source": name, "clones": [{"name": f"{name}-clone", "mac": "52:54:00:00:77:01"}]}


@case("metadata: the element x has no namespace")
def metadata_that_libvirt_would_not_keep(scene: Scene) -> Asked:
    name = scene.domain(Disk(scene.qcow2(), "qcow2"))
    return {"source": name, "clones": [{"name": f"{name}-clone", "metadata": "<x/>"}]}


@case("would be the socket", "at most 107 bytes: choose a shorter name")
def a_name_too_long_for_its_sockets(scene: Scene) -> Asked:
    return {"source": scene.domain(Disk(scene.qcow2(), "qcow2")), "clones": [{"name": "n" * 100}]}


@case("not enough space in")
def copies_without_room(scene: Scene) -> Asked:
    small = scene.small_file_system("1m")
    return {"source": scene.domain(Disk(scene.raw())), "mode": "full", "disk_dir": str(small)}


@case("and max_overcommit is 0.001")
def more_than_may_be_promised(scene: Scene) -> Asked:
    return {"source": scene.domain(Disk(scene.qcow2(), "qcow2")), "disk_sizes": {"vda": "4T"}, "max_overcommit": 0.001}


@case("is not a directory: give a directory to search")
def a_search_path_that_is_missing(_scene: Scene) -> Asked:
    return {"source": "any", "search_paths": ["/nonexistent"]}


@case("cannot connect to libvirt")
def no_libvirt(_scene: Scene) -> Asked:
    return {"source": "any", "uri": "qemu+unix:///system?socket=/nonexistent"}


@case("nothing in its definition says that this module made it")
def the_removal_of_what_is_no_clone(scene: Scene) -> Asked:
    name = scene.domain(Disk(scene.raw()))
    return {"source": scene.domain(Disk(scene.qcow2(), "qcow2")), "clones": [{"name": name}], "state": "absent"}
