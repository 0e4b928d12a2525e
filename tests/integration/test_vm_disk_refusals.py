# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""vm_disk refuses what would harm another domain, an image or a guest, and then changes nothing."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest
from lab import Disk, Hypervisor
from lab.fixtures import MakeDomain
from support.scene import MIB, definition, make_encrypted, make_image, make_overlay, qemu_img, unchanged

Module = Callable[..., dict[str, Any]]
MODULE = "vm_disk"


class Place:
    """A domain that is off with one disk, an image that nobody has, and the wish to attach it."""

    def __init__(self, hv: Hypervisor, module: Module, images: Path, make_domain: MakeDomain) -> None:
        self.hv, self.module, self.images, self.make_domain = hv, module, images, make_domain
        self.root = make_image(images / "root.raw", seed="root")
        self.name = make_domain([Disk(self.root)], kernel=False).name
        self.image = make_image(images / "data.raw")

    def run(self, **params: Any) -> dict[str, Any]:
        return self.module(MODULE, {"name": self.name, "path": str(self.image), "format": "raw", **params})

    def refused(self, *words: str, besides: str | None = None, **params: Any) -> dict[str, Any]:
        asked = {"name": self.name, "path": str(self.image), "format": "raw", **params}
        asked = {name: value for name, value in asked.items() if value is not None}
        with unchanged(self.hv, self.images, self.name, *([besides] if besides else [])):
            for check in (True, False):
                result = self.module(MODULE, asked, check=check)
                assert result.get("failed"), result
                for word in words:
                    assert word in result["msg"], result["msg"]
        return result

    def attached(self, **params: Any) -> None:
        done = self.run(**params)
        assert done.get("changed"), done


@pytest.fixture
def place(hv: Hypervisor, module: Module, images: Path, make_domain: MakeDomain) -> Place:
    return Place(hv, module, images, make_domain)


@contextlib.contextmanager
def domain_of(place: Place) -> Iterator[libvirt.virDomain]:
    with contextlib.closing(place.hv.connect()) as connection:
        yield connection.lookupByName(place.name)


# The image


def test_the_image_of_another_domain_is_left_to_it(place: Place) -> None:
    other = place.make_domain([Disk(place.image)], name="other", kernel=False).name
    result = place.refused("in use by", other, besides=other)
    assert [user["domain"] for user in result["in_use_by"]] == [other]


def test_domains_share_an_image_where_both_say_so(place: Place) -> None:
    place.make_domain([Disk(place.image, shareable=True)], name="other", kernel=False)
    place.refused("in use by")
    place.attached(shareable=True)


def test_domains_read_an_image_together(place: Place) -> None:
    place.make_domain([Disk(place.image, readonly=True)], name="other", kernel=False)
    place.refused("in use by")
    place.attached(readonly=True)


def test_a_medium_may_be_in_many_drives(place: Place) -> None:
    place.make_domain([Disk(place.image, target="hdc", device="cdrom")], name="other", kernel=False)
    place.attached(device="cdrom", disk="hdc")


def test_an_image_that_a_program_has_open_is_left_to_it(place: Place) -> None:
    command = ["qemu-nbd", "-t", "-f", "raw", "-k", str(place.images / "socket"), str(place.image)]
    with subprocess.Popen(command) as server:
        try:
            while not (place.images / "socket").exists():
                pass
            assert place.refused("a process that libvirt does not know")["in_use_by"] == []
        finally:
            server.terminate()


def test_an_image_with_overlays_is_only_read(place: Place) -> None:
    overlay = make_overlay(place.images / "overlay.qcow2", place.image)
    assert place.refused("readonly=true")["dependents"] == [str(overlay)]
    place.attached(readonly=True)


def test_an_image_that_was_cut_short_is_not_attached(place: Place) -> None:
    image = make_image(place.images / "cut.qcow2", "qcow2")
    os.truncate(image, image.stat().st_size - 2 * MIB)
    place.refused("was cut short", path=str(image), format="qcow2")


def test_an_image_of_another_format_is_not_attached(place: Place) -> None:
    image = make_image(place.images / "data.qcow2", "qcow2")
    place.refused("begins like qcow2", path=str(image), format="raw")
    place.refused("found a raw image, asked for qcow2", format="qcow2")


def test_a_planted_reference_is_not_followed(place: Place) -> None:
    overlay = make_overlay(place.images / "planted.qcow2", place.image)
    place.refused("which the task does not name", path=str(overlay), format="qcow2")
    place.attached(path=str(overlay), format="qcow2", backing_file=str(place.image), backing_format="raw")


def test_an_image_that_is_larger_or_reads_another_file_is_no_match(place: Place) -> None:
    place.refused("a disk is not made smaller here", size="4M")
    overlay = make_overlay(place.images / "overlay.qcow2", place.image)
    asked: dict[str, Any] = {"path": str(overlay), "format": "qcow2", "backing_format": "raw"}
    place.refused("asked for", "correct backing_file", **asked, backing_file=str(place.root))
    place.refused("cluster_size is 65536", **asked, backing_file=str(place.image), cluster_size="128K")


def test_a_missing_image_needs_a_size(place: Place) -> None:
    place.refused("give the size", path=str(place.images / "none.raw"))


def test_an_encrypted_image_needs_a_secret_of_libvirt(place: Place) -> None:
    vault = make_encrypted(place.images / "vault.qcow2")
    missing = "6c3e2b1c-7c43-4e3c-9c55-0d3c0f0f0f0f"
    asked: dict[str, Any] = {"path": str(vault), "format": "qcow2"}
    place.refused("give libvirt_secret", **asked, encryption={"secret": "sesame"})
    place.refused("give libvirt_secret", **asked)
    place.refused("libvirt has no secret", **asked, libvirt_secret=missing)
    place.refused("is not encrypted", libvirt_secret=missing)


def test_an_encrypted_image_is_made_and_attached_with_the_secret_of_libvirt(place: Place) -> None:
    path = place.images / "vault.qcow2"
    with contextlib.closing(place.hv.connect()) as connection:
        secret = connection.secretDefineXML("<secret ephemeral='no' private='no'><usage type='none'/></secret>")
        try:
            secret.setValue(b"sesame")
            encryption = {"encryption": {"secret": "sesame", "iter_time": 10}, "libvirt_secret": secret.UUIDString()}
            asked: dict[str, Any] = {"path": str(path), "format": "qcow2", "size": "4M", **encryption}
            place.attached(**asked)
            assert not place.run(**asked)["changed"]
            assert secret.UUIDString() in definition(place.hv, place.name)
            place.hv.start(place.name)
            assert not place.run(**asked)["changed"]
        finally:
            secret.undefine()


def test_a_device_is_not_attached(place: Place) -> None:
    fifo = place.images / "fifo"
    os.mkfifo(fifo)
    place.refused("is not a regular file", path=str(fifo))


# The domain


def test_a_target_that_another_disk_has_is_not_given_away(place: Place) -> None:
    place.refused("vda: is taken by", disk="vda")


def test_a_disk_is_not_moved_to_another_target_or_bus(place: Place) -> None:
    place.attached(disk="vdc")
    place.refused("as vdc already", disk="vdd")
    place.refused("its bus is virtio, asked for scsi", bus="scsi")
    place.refused("its device is disk, asked for cdrom", device="cdrom")


def test_what_qemu_could_not_do_is_refused_before(place: Place) -> None:
    qcow2: dict[str, Any] = {"path": str(place.images / "new.qcow2"), "format": "qcow2", "size": "1M"}
    place.refused("set cache=none or directsync", io="native")
    place.refused("cannot be written by several guests", **qcow2, shareable=True)
    place.refused("has no thread 3", iothread=3)
    place.refused("has none: use bus virtio", bus="scsi", iothread=1)
    place.refused("a burst goes beyond a limit", throttle={"read_iops_max": 5})
    place.refused("is less than the limit", throttle={"read_iops": 9, "read_iops_max": 5})
    place.refused("exclude each other", throttle={"read_iops": 9, "total_iops": 5})
    place.refused("has at most 20", serial="x" * 21)


def test_an_order_of_devices_excludes_one_of_kinds(place: Place) -> None:
    place.refused("<boot dev='hd'/>", boot_order=2)


def test_a_task_that_means_no_disk_is_refused(place: Place) -> None:
    place.refused("says neither which disk nor which image", path=None, format=None)
    place.refused("has no disk vdx", path=None, disk="vdx")
    place.refused("is not the target of a disk", disk="nvme0")
    place.refused("is not on bus scsi", disk="vdb", bus="scsi")
    place.refused("says not which image", path=None, disk="vda", state="absent", remove_image=True)
    place.refused("goes with state=absent", remove_image=True)


def test_a_saved_domain_keeps_its_disks(place: Place) -> None:
    place.hv.start(place.name)
    with domain_of(place) as domain:
        domain.managedSave()
    place.refused("has a managed-save image")


def test_a_transient_domain_has_no_definition_to_change(place: Place) -> None:
    with contextlib.closing(place.hv.connect()) as connection:
        xml = connection.lookupByName(place.name).XMLDesc()
        connection.lookupByName(place.name).undefine()
        connection.createXML(xml)
    assert "is transient" in place.run()["msg"]


# A disk that is to go


def test_the_disk_that_a_domain_boots_from_stays_unless_forced(place: Place) -> None:
    gone: dict[str, Any] = {"path": str(place.root), "state": "absent"}
    place.refused("is what the domain boots from", **gone)
    done = place.run(**gone, force=True)
    assert done.get("changed"), done


def test_a_disk_in_a_snapshot_stays(place: Place) -> None:
    root, image = (make_image(place.images / f"{name}.qcow2", "qcow2") for name in ("first", "second"))
    disks = [Disk(root, "qcow2"), Disk(image, "qcow2", "vdb")]
    name = place.make_domain(disks, name="kept", kernel=False).name
    with contextlib.closing(place.hv.connect()) as connection:
        connection.lookupByName(name).snapshotCreateXML("<domainsnapshot><name>before</name></domainsnapshot>")
    asked = {"name": name, "path": str(image), "format": "qcow2", "state": "absent"}
    result = place.refused("is in 1 snapshot(s) of the domain (before)", besides=name, **asked)
    assert result["snapshots"] == ["before"]


def test_a_disk_with_a_block_job_stays(place: Place) -> None:
    image = make_image(place.images / "data.qcow2", "qcow2", mib=8, size_mib=16)
    asked: dict[str, Any] = {"path": str(image), "format": "qcow2"}
    place.attached(**asked)
    place.hv.start(place.name)
    copy = place.images / "copy.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", copy, "16M")
    destination = f"<disk type='file'><driver type='qcow2'/><source file='{copy}'/></disk>"
    flags = libvirt.VIR_DOMAIN_BLOCK_COPY_REUSE_EXT | libvirt.VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB
    with domain_of(place) as domain:
        domain.blockCopy("vdb", destination, {"bandwidth": 1}, flags)
        result = place.run(**asked, state="absent", force=True)
        assert result["block_jobs"] == ["vdb"]
        assert "a block job runs on vdb" in result["msg"]
        domain.blockJobAbort("vdb")


def test_an_image_that_another_domain_has_is_not_removed_and_its_disk_stays(place: Place) -> None:
    place.attached(shareable=True)
    other = place.make_domain([Disk(place.image, shareable=True)], name="other", kernel=False).name
    place.refused("in use by", other, state="absent", remove_image=True, besides=other)
