# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""vm_disk_snapshot refuses with a reason, and then nothing has changed: no file, no definition, no state."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from lab import Disk, run_module
from support.arranged import Asked, Cases, Scene
from support.scene import make_image, make_overlay, qemu_img

MODULE = "vm_disk_snapshot"
CASES = Cases(MODULE, snapshot="s")
case = CASES.case


@pytest.mark.parametrize("name", CASES)
def test_is_refused_and_nothing_changed(scene: Scene, name: str) -> None:
    CASES.assert_refused(name, scene)


def _the_clone(refused: dict[str, Any]) -> None:
    assert [Path(path).name for path in refused["dependents"]] == ["clone.qcow2"]


def _figures(refused: dict[str, Any]) -> None:
    assert refused["required_bytes"] > refused["available_bytes"]


def _the_domain(refused: dict[str, Any]) -> None:
    assert refused["in_use_by"][0]["domain"].startswith("other-")


CASES.facts = {
    "a_linked_clone_of_the_image_below": _the_clone,
    "a_linked_clone_of_the_overlay": _the_clone,
    "the_image_below_has_no_room": _figures,
    "no_room_for_an_overlay": _figures,
    "another_domain_has_the_image_below": _the_domain,
}


# What is taken


@case("has no disk vdq: it has vda (/")
def a_disk_that_is_not_there(scene: Scene) -> Asked:
    return {"name": scene.domain(Disk(scene.raw())), "disks": ["vdq"]}


@case("is transient: it has no definition")
def a_transient_domain(scene: Scene) -> Asked:
    name = scene.domain(Disk(scene.raw()), start=True)
    with scene.libvirt(name) as domain:
        domain.undefine()
    return {"name": name}


@case("has a managed-save image, which would resume on other images")
def a_managed_save(scene: Scene) -> Asked:
    name = scene.domain(Disk(scene.raw()), start=True)
    with scene.libvirt(name) as domain:
        domain.managedSave()
    return {"name": name}


@case("has checkpoints (c), which a change of the images would break")
def a_checkpoint(scene: Scene) -> Asked:
    name = scene.domain(Disk(scene.qcow2(), "qcow2"), start=True)
    with scene.libvirt(name) as domain:
        domain.checkpointCreateXML("<domaincheckpoint><name>c</name></domaincheckpoint>", 0)
    return {"name": name}


@case("a block job runs on vda: wait until it is over")
def a_block_job_of_somebody_else(scene: Scene) -> Asked:
    name = scene.domain(Disk(scene.raw()), start=True)
    scene.copy_block(name)
    return {"name": name}


@case("hdc: is a cdrom, asked to snapshot a disk")
def a_cdrom(scene: Scene) -> Asked:
    disk = Disk(scene.raw("cd.raw"), target="hdc", device="cdrom", readonly=True)
    return {"name": scene.domain(Disk(scene.raw()), disk), "disks": ["hdc"]}


@case("vdb: is shareable", "not snapshotted", "name in disks those that the snapshot is to be of")
def a_shareable_disk_among_all(scene: Scene) -> Asked:
    shared = Disk(scene.raw("shared.raw"), target="vdb", shareable=True)
    return {"name": scene.domain(Disk(scene.raw()), shared)}


@case("has no disk that could be written to")
def nothing_but_read_only_disks(scene: Scene) -> Asked:
    return {"name": scene.domain(Disk(scene.raw(), readonly=True))}


@case("vda: is encrypted", "not snapshotted")
def an_encrypted_disk(scene: Scene) -> Asked:
    secret = "<secret type='passphrase' uuid='0f0e0d0c-0b0a-4908-8706-050403020100'/>"
    change = f"<encryption format='luks'>{secret}</encryption><target dev="
    return {"name": scene.defined(lambda xml: xml.replace("<target dev=", change, 1), Disk(scene.raw()))}


@case("vm.s.qcow2: exists already: it is left alone")
def a_file_where_the_overlay_is_to_be(scene: Scene) -> Asked:
    (scene.images / "vm.s.qcow2").touch()
    return {"name": scene.domain(Disk(scene.raw()))}


@case("vm.raw: is missing, or is not a file")
def an_image_that_is_gone(scene: Scene) -> Asked:
    name = scene.domain(Disk(scene.raw()))
    (scene.images / "vm.raw").unlink()
    return {"name": name}


@case("has a snapshot s already, inside of images")
def an_internal_snapshot_of_that_name(scene: Scene) -> Asked:
    name = scene.domain(Disk(scene.qcow2(), "qcow2"))
    with scene.libvirt(name) as domain:
        domain.snapshotCreateXML("<domainsnapshot><name>s</name></domainsnapshot>", 0)
    return {"name": name}


@case("nobody", "no domain")
def a_domain_that_is_not_there(scene: Scene) -> Asked:
    return {"name": "nobody"}


@case("not enough space in", "needed ")
def no_room_for_an_overlay(scene: Scene) -> Asked:
    small = scene.small_file_system("768k")
    return {"name": scene.domain(Disk(make_image(small / "vm.raw", mib=0)))}


# What is merged


def taken(scene: Scene, *, start: bool = False, disk: Disk | None = None) -> Asked:
    """A domain with a snapshot, which is to be removed."""
    name = scene.domain(disk or Disk(scene.raw()), start=start)
    asked = {"name": name, "snapshot": "s", "uri": scene.hv.uri}
    done = run_module(MODULE, asked)
    assert done.get("changed"), done
    return {**asked, "state": "absent"}


def write_overlay(path: Path, mib: int) -> None:
    argv = ["qemu-io", "-f", "qcow2", "-c", f"write -P 7 2M {mib}M", str(path)]
    subprocess.run(argv, check=True, capture_output=True)


@case("vm.raw: 1 image(s) read it as their backing file", "clone.qcow2", "which can destroy them", "keep the snapshot")
def a_linked_clone_of_the_image_below(scene: Scene) -> Asked:
    asked = taken(scene, start=True)
    make_overlay(scene.images / "clone.qcow2", scene.images / "vm.raw")
    return asked


@case("vm.s.qcow2: 1 image(s) read it as their backing file", "clone.qcow2")
def a_linked_clone_of_the_overlay(scene: Scene) -> Asked:
    asked = taken(scene)
    elsewhere = scene.images / "elsewhere"
    elsewhere.mkdir()
    make_overlay(elsewhere / "clone.qcow2", scene.images / "vm.s.qcow2", "qcow2")
    return {**asked, "search_paths": [str(elsewhere)]}


@case("vm.raw: in use by defined domain other-", "asked to merge")
def another_domain_has_the_image_below(scene: Scene) -> Asked:
    asked = taken(scene)
    scene.domain(Disk(scene.images / "vm.raw"), name="other")
    return asked


@case("vm.raw: its mode 0444 does not let QEMU", "asked to merge", "chmod u+w")
def an_image_below_a_guest_that_nobody_may_write(scene: Scene) -> Asked:
    asked = taken(scene, start=True)
    (scene.images / "vm.raw").chmod(0o444)
    return asked


@case("vm.raw: its mode 0400 does not let QEMU")
def an_image_below_a_guest_that_its_owner_may_only_read(scene: Scene) -> Asked:
    asked = taken(scene, start=True)
    (scene.images / "vm.raw").chmod(0o400)
    return asked


@case("vm.raw: its mode 0444 does not let QEMU")
def an_image_that_would_become_the_disk_of_a_domain_that_is_off(scene: Scene) -> Asked:
    asked = taken(scene)
    (scene.images / "vm.raw").chmod(0o444)
    return asked


@case("vm.t.qcow2: its mode 0444 does not let QEMU", "vm.s.qcow2 into")
def an_overlay_above_the_merged_one_that_nobody_may_write(scene: Scene) -> Asked:
    asked = taken(scene, start=True)
    for snapshot in ("t", "u"):
        done = run_module("vm_disk_snapshot", {**asked, "snapshot": snapshot, "state": "present"})
        assert done.get("changed"), done
    (scene.images / "vm.t.qcow2").chmod(0o444)
    return asked


@case("in use by a process that libvirt does not know")
def somebody_has_the_overlay_open(scene: Scene) -> Asked:
    asked = taken(scene)
    argv = ["qemu-io", "-f", "qcow2", str(scene.images / "vm.s.qcow2")]
    writer = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    scene.stack.callback(writer.communicate)
    assert writer.stdin is not None
    assert writer.stdout is not None
    writer.stdin.write(b"length\n")
    writer.stdin.flush()
    writer.stdout.readline()
    return asked


@case("below ", "the overlay of the snapshot s, is ", "other.raw", "the chain was changed")
def a_chain_that_somebody_changed(scene: Scene) -> Asked:
    asked = taken(scene)
    other, overlay = scene.raw("other.raw"), scene.images / "vm.s.qcow2"
    qemu_img("rebase", "-u", "-f", "qcow2", "-b", other, "-F", "raw", overlay)
    return {**asked, "trusted": True}


@case("has the backing file", "base.raw, which neither the definition", "nor a snapshot names", "set trusted=true")
def a_reference_that_nobody_vouches_for(scene: Scene) -> Asked:
    clone = make_overlay(scene.images / "vm.qcow2", scene.raw("base.raw"))
    return taken(scene, disk=Disk(clone, "qcow2"))


@case("disk.qcow2: keeps its data in", "disk.data, which neither the definition", "set trusted=true")
def a_data_file_that_nobody_vouches_for(scene: Scene) -> Asked:
    disk = scene.images / "disk.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-o", f"data_file={scene.images}/disk.data", disk, "8M")
    return taken(scene, disk=Disk(disk, "qcow2"))


@case("holds 1 internal snapshot(s) (before), which would be lost with it")
def an_internal_snapshot_in_the_overlay(scene: Scene) -> Asked:
    asked = taken(scene)
    qemu_img("snapshot", "-c", "before", scene.images / "vm.s.qcow2")
    return asked


@case("holds 1 dirty bitmap(s) (changes), which would be lost with it")
def a_dirty_bitmap_in_the_overlay(scene: Scene) -> Asked:
    asked = taken(scene)
    qemu_img("bitmap", "--add", "-f", "qcow2", scene.images / "vm.s.qcow2", "changes")
    return asked


@case("not enough space in", "needed ")
def the_image_below_has_no_room(scene: Scene) -> Asked:
    """Only where the module looks: for libvirt, which changes no image of a domain that is off, all is as it was."""
    small = scene.images / "small"
    small.mkdir()
    asked = taken(scene, disk=Disk(make_image(small / "vm.raw", mib=1)))
    write_overlay(small / "vm.s.qcow2", 6)
    aside = small.rename(small.with_name("aside"))
    small.mkdir()
    scene.small_file_system("8m", exist_ok=True)
    for path in aside.iterdir():
        subprocess.run(["cp", "-a", "--sparse=always", path, small], check=True)
    return asked


@case("its snapshot s is of vdb, which the domain no longer has: attach the disk again")
def a_disk_that_was_taken_away(scene: Scene) -> Asked:
    name = scene.domain(Disk(scene.raw()), Disk(scene.raw("data.raw"), target="vdb"))
    asked = {"name": name, "snapshot": "s", "uri": scene.hv.uri}
    assert run_module(MODULE, asked).get("changed")
    subprocess.run(
        ["virsh", "-q", "-c", scene.hv.uri, "detach-disk", name, "vdb", "--config"], check=True, capture_output=True
    )
    return {**asked, "state": "absent"}


@case("its snapshot s is not one of disks alone in files of their own: delete it with virsh")
def an_internal_snapshot_that_is_to_go(scene: Scene) -> Asked:
    return {**an_internal_snapshot_of_that_name(scene), "state": "absent"}


@case("other snapshots (later) build on it", "delete it with virsh snapshot-delete")
def an_overlay_of_a_branch(scene: Scene) -> Asked:
    """As libvirt leaves it where a domain went back to a snapshot before others."""
    asked = taken(scene)
    assert run_module(MODULE, {**asked, "snapshot": "later", "state": "present"}).get("changed")
    branch = make_overlay(scene.images / "branch.qcow2", scene.images / "vm.raw")
    with scene.libvirt(asked["name"]) as domain:
        xml = domain.XMLDesc(2)
        start, end = xml.index("<source file="), xml.index("<target dev=")
        scene.hv.define(xml[:start] + f"<source file='{branch}'/>" + xml[end:])
    return asked


# What is gone back to


@case("has no snapshot s to revert to; it has: none")
def a_way_back_to_nothing(scene: Scene) -> Asked:
    return {"name": scene.domain(Disk(scene.raw())), "state": "reverted"}
