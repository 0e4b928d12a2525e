# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""vm_disk_info: the disks of all domains or the named ones, whatever their state and whatever their images hold."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import libvirt
import pytest
from lab import Disk, Hypervisor
from lab.fixtures import MakeDomain
from support.scene import MIB, make_image, make_overlay, on_volume, qemu_img, unchanged, with_backing
from support.waits import HELD

Module = Callable[..., dict[str, Any]]
MODULE = "vm_disk_info"


@pytest.fixture
def info(module: Module) -> Callable[..., list[dict[str, Any]]]:
    """The disks that the module returns for these parameters."""

    def look(**params: Any) -> list[dict[str, Any]]:
        found = module(MODULE, params)
        assert "disks" in found, found
        assert found["changed"] is False
        return list(found["disks"])

    return look


Info = Callable[..., list[dict[str, Any]]]


def test_all_domains_are_described_running_or_not(
    hv: Hypervisor, info: Info, images: Path, make_domain: MakeDomain
) -> None:
    running = make_domain([Disk(make_image(images / "a.raw"))], name="a", kernel=False).name
    off = make_domain([Disk(make_image(images / "b.qcow2", "qcow2"), "qcow2")], name="b", kernel=False).name
    hv.start(running)
    with unchanged(hv, images, running, off):
        disks = info()
    assert [(disk["domain"], disk["state"], disk["path"], disk["format"]) for disk in disks] == [
        (running, "running", str(images / "a.raw"), "raw"),
        (off, "shut off", str(images / "b.qcow2"), "qcow2"),
    ]
    for disk in disks:
        assert disk["virtual_size"] == 8 * MIB
        assert disk["actual_size"] == os.stat(disk["path"]).st_blocks * 512
        assert disk["problem"] is None


def test_only_the_named_domains_are_described_each_once(
    hv: Hypervisor, info: Info, images: Path, make_domain: MakeDomain
) -> None:
    uuid = "6b8b4567-327b-43c6-a643-c98069663349"
    for name in ("a", "b"):
        make_domain([Disk(make_image(images / f"{name}.raw"))], name=name, kernel=False)
    wanted = make_domain([Disk(make_image(images / "c.raw"))], name="c", kernel=False, uuid=uuid).name
    assert [(disk["domain"], disk["uuid"]) for disk in info(names=[wanted, uuid])] == [(wanted, uuid)]
    assert [disk["domain"] for disk in info(name=wanted)] == [wanted]
    assert info(names=[]) == []


def test_a_named_domain_must_exist(module: Module) -> None:
    failed = module(MODULE, {"names": ["no-such-vm"]})
    assert failed["failed"]
    assert "no-such-vm: no domain of this name or UUID" in failed["msg"]


def test_every_kind_of_drive_is_described(hv: Hypervisor, info: Info, images: Path, make_domain: MakeDomain) -> None:
    network = (
        "<disk type='network'><driver name='qemu' type='raw'/><source protocol='nbd' name='export'>"
        "<host name='127.0.0.1' port='10809'/></source><target dev='vdb' bus='virtio'/><shareable/></disk>"
        "<disk type='file' device='cdrom'><target dev='hdc' bus='ide'/><readonly/></disk>"
    )
    disks = [Disk(make_image(images / "vm.raw"), readonly=True), Disk("/dev/no-such-device", target="sdb")]
    name = make_domain(disks, kernel=False, extra_devices=network).name
    found = {disk["target"]: disk for disk in info(name=name)}
    assert {target: (disk["device"], disk["type"], disk["bus"]) for target, disk in found.items()} == {
        "vda": ("disk", "file", "virtio"),
        "vdb": ("disk", "network", "virtio"),
        "sdb": ("disk", "block", "scsi"),
        "hdc": ("cdrom", "file", "ide"),
    }
    assert found["vda"]["readonly"]
    assert found["vdb"]["shareable"]
    assert (found["hdc"]["path"], found["hdc"]["problem"], found["hdc"]["backing_chain"]) == (None, None, [])
    assert found["hdc"]["readonly"]
    assert found["vdb"]["path"] is None
    assert "/dev/no-such-device" in found["sdb"]["problem"]


@pytest.mark.parametrize("running", [False, True], ids=["off", "running"])
def test_the_chain_is_described_top_first(
    hv: Hypervisor, info: Info, images: Path, make_domain: MakeDomain, running: bool
) -> None:
    base = make_image(images / "base.raw")
    top = make_overlay(images / "vm.qcow2", make_overlay(images / "middle.qcow2", base), "qcow2")
    name = make_domain([Disk(top, "qcow2")], kernel=False).name
    if running:
        hv.start(name)
    (disk,) = info(name=name)
    assert [(image["path"], image["format"]) for image in disk["backing_chain"]] == [
        (str(top), "qcow2"),
        (str(images / "middle.qcow2"), "qcow2"),
        (str(base), "raw"),
    ]
    assert [image["backing_file"] for image in disk["backing_chain"]] == [str(images / "middle.qcow2"), str(base), None]
    assert {image["virtual_size"] for image in disk["backing_chain"]} == {8 * MIB}


def test_a_broken_chain_is_a_problem_of_that_disk_alone(info: Info, images: Path, make_domain: MakeDomain) -> None:
    top = make_overlay(images / "vm.qcow2", make_image(images / "base.raw"))
    (images / "base.raw").unlink()
    disks = [Disk(top, "qcow2"), Disk(make_image(images / "good.raw"), target="vdb"), Disk(images / "no", target="vdc")]
    name = make_domain(disks, kernel=False).name
    broken, good, missing = info(name=name)
    assert "base.raw" in broken["problem"]
    assert [image["path"] for image in broken["backing_chain"]] == [str(top)]
    assert broken["virtual_size"] == 8 * MIB
    assert good["problem"] is None
    assert str(images / "no") in missing["problem"]
    assert (missing["virtual_size"], missing["actual_size"], missing["backing_chain"]) == (None, None, [])


def test_a_format_that_the_content_contradicts_is_a_problem(info: Info, images: Path, make_domain: MakeDomain) -> None:
    name = make_domain([Disk(make_image(images / "vm.raw"), "qcow2")], kernel=False).name
    (disk,) = info(name=name)
    assert disk["format"] == "qcow2"
    assert "found a raw image, asked for qcow2" in disk["problem"]


def test_a_raw_disk_that_begins_like_an_image_stays_raw(info: Info, images: Path, make_domain: MakeDomain) -> None:
    image = images / "vm.raw"
    qemu_img("create", "-q", "-f", "qcow2", "-b", "/etc/passwd", "-F", "raw", image, "1G")
    os.truncate(image, 4 * MIB)
    (disk,) = info(name=make_domain([Disk(image)], kernel=False).name)
    assert (disk["format"], disk["virtual_size"], disk["problem"]) == ("raw", 4 * MIB, None)
    assert len(disk["backing_chain"]) == 1


@pytest.mark.parametrize("trap", ["fifo", "circle", "/dev/zero"])
def test_a_hostile_overlay_is_a_problem_and_does_not_hang(
    module: Module, images: Path, make_domain: MakeDomain, trap: str
) -> None:
    top = images / "vm.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", top, "8M")
    below = {"fifo": images / "fifo", "circle": top, "/dev/zero": Path("/dev/zero")}[trap]
    if trap == "fifo":
        os.mkfifo(below)
    image_format = "qcow2" if trap == "circle" else "raw"
    qemu_img("rebase", "-u", "-f", "qcow2", "-b", below, "-F", image_format, top)
    name = make_domain([Disk(top, "qcow2")], kernel=False).name
    (disk,) = module(MODULE, {"name": name})["disks"]
    assert disk["problem"]
    assert disk["virtual_size"] == 8 * MIB


def test_the_users_of_a_shared_file_are_named(
    hv: Hypervisor, info: Info, images: Path, make_domain: MakeDomain
) -> None:
    base = make_image(images / "base.raw")
    one = make_domain([Disk(base)], name="one", kernel=False).name
    two = make_domain([Disk(make_overlay(images / "two.qcow2", base), "qcow2")], name="two", kernel=False).name
    hv.start(two)
    (disk,) = info(name=one)
    (user,) = disk["users"]
    assert (user["domain"], user["running"], user["target"], user["role"]) == (two, True, "vda", "backing file of")
    (disk,) = info(name=two)
    assert disk["users"] == []


def test_a_block_job_is_seen(hv: Hypervisor, info: Info, images: Path, make_domain: MakeDomain) -> None:
    disks = [Disk(make_image(images / "vm.raw", mib=8)), Disk(make_image(images / "other.raw"), target="vdb")]
    name = make_domain(disks, kernel=False).name
    hv.start(name)
    assert [disk["job"] for disk in info(name=name)] == [False, False]
    with contextlib.closing(hv.connect()) as connection:
        xml = f"<disk type='file'><source file='{images / 'copy.raw'}'/><driver type='raw'/></disk>"
        bandwidth = {libvirt.VIR_DOMAIN_BLOCK_COPY_BANDWIDTH: int(HELD)}
        flags = libvirt.VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB
        connection.lookupByName(name).blockCopy("vda", xml, bandwidth, flags)
    assert [disk["job"] for disk in info(name=name)] == [True, False]


def test_a_volume_is_described_by_its_file(hv: Hypervisor, info: Info, images: Path, make_domain: MakeDomain) -> None:
    source = make_image(images / "vm.raw")
    hv.pool("described", images)
    with contextlib.closing(hv.connect()) as connection:
        pool = connection.storagePoolLookupByName("described")
        try:
            name = make_domain([], kernel=False).name
            hv.remove(name)
            hv.define(on_volume(hv.domain_xml(name, [Disk(source)], kernel=False), source, "described"))
            (disk,) = info(name=name)
            assert (disk["type"], disk["path"], disk["virtual_size"]) == ("volume", str(source), 8 * MIB)
        finally:
            pool.destroy()
            pool.undefine()


def test_the_chain_of_the_definition_is_no_reason_to_open_anything(
    hv: Hypervisor, info: Info, images: Path, make_domain: MakeDomain
) -> None:
    top = make_overlay(images / "vm.qcow2", make_image(images / "base.raw"))
    name = make_domain([], kernel=False).name
    hv.remove(name)
    hv.define(with_backing(hv.domain_xml(name, [Disk(top, "qcow2")], kernel=False), (images / "no-such-file", "raw")))
    (disk,) = info(name=name)
    assert disk["problem"] is None
    assert [image["path"] for image in disk["backing_chain"]] == [str(top), str(images / "base.raw")]


def test_domains_that_come_and_go_meanwhile_are_no_failure(
    hv: Hypervisor, module: Module, images: Path, make_domain: MakeDomain
) -> None:
    source = make_image(images / "vm.raw")
    steady = make_domain([Disk(source)], name="a-steady", kernel=False).name
    fleeting = [hv.domain_xml(f"z-{number}", [Disk(images / f"{number}")], kernel=False) for number in range(12)]
    done = threading.Event()

    def churn() -> None:
        with contextlib.closing(hv.connect()) as connection:
            while not done.is_set():
                for domain in [connection.defineXML(xml) for xml in fleeting]:
                    domain.undefine()

    def flicker() -> None:
        with contextlib.closing(hv.connect()) as connection:
            domain = connection.lookupByName(steady)
            while not done.is_set():
                domain.create()
                domain.destroy()

    people = [threading.Thread(target=churn), threading.Thread(target=flicker)]
    for person in people:
        person.start()
    try:
        looks = [module(MODULE, {}) for _look in range(8)]
    finally:
        done.set()
        for person in people:
            person.join()
    for look in looks:
        assert not look.get("failed"), look
        assert steady in {disk["domain"] for disk in look["disks"]}


def test_libvirt_must_be_reachable(module: Module, images: Path) -> None:
    failed = module(MODULE, {"uri": f"qemu+unix:///system?socket={images}/missing.sock"})
    assert failed["failed"]
    assert "cannot connect to libvirt" in failed["msg"]


@pytest.mark.parametrize(("library", "package"), [("lxml", "lxml"), ("libvirt", "libvirt-python")])
def test_a_missing_library_is_named(
    module: Module, images: Path, make_domain: MakeDomain, library: str, package: str
) -> None:
    make_domain([Disk(make_image(images / "vm.raw"))], kernel=False)
    (images / f"{library}.py").write_text("raise ImportError('not installed')\n")
    failed = module(MODULE, {}, env={"PYTHONPATH": str(images), "PYTHONDONTWRITEBYTECODE": "1"})
    assert failed["failed"]
    assert f"Failed to import the required Python library ({package})" in failed["msg"]
