# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""vm_disk_convert below a running guest: it writes all the while, and nothing of it is lost."""

from __future__ import annotations

import contextlib
import os
import pwd
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from lab import Disk, Guest, Hypervisor, run_module, start_module
from lab.fixtures import MakeDomain
from lab.tree import file_digest
from support.block_devices import MakeDevice
from support.guest_writes import acknowledged, file_system, start_writing, stop_writing
from support.injection import wait_in
from support.scene import (
    MIB,
    content,
    definition,
    disk_of,
    leftovers,
    make_image,
    make_overlay,
    qemu_img,
    with_backing,
)
from support.waits import HELD

Module = Callable[..., dict[str, Any]]
MODULE = "vm_disk_convert"


@dataclass
class Journey:
    """A guest that writes while its disk goes raw → qcow2 → raw."""

    guest: Guest
    directory: Path
    before: str
    process: int
    predicted: dict[str, Any]
    untouched_by_check: bool
    there: dict[str, Any]
    between: tuple[str, str]
    again: dict[str, Any]
    back: dict[str, Any]
    acked: list[int]
    after: str
    process_after: int


@pytest.fixture(scope="module")
def journey(hv: Hypervisor) -> Iterator[Journey]:
    directory = hv.images / "live"
    directory.mkdir(mode=0o711)
    source = file_system(directory / "vm.raw")
    os.chown(source, 4321, 4321)
    source.chmod(0o640)
    xml = hv.domain_xml("live", [Disk(source, serial="DATA", cache="none")], vnc_password="sesame")
    guest = hv.boot(xml)
    start_writing(guest)
    params = {"name": "live", "disk": "vda", "uri": hv.uri}
    before, process = definition(hv, "live"), hv.qemu_pid("live")
    names = {path.name for path in directory.iterdir()}
    predicted = run_module(MODULE, params, check=True, diff=True)
    untouched = definition(hv, "live") == before and {path.name for path in directory.iterdir()} == names
    acked = [acknowledged(guest)]
    run = start_module(MODULE, {**params, "bandwidth": HELD}, diff=True)
    wait_in(run, lambda: "<mirror" in definition(hv, "live", 0), "the copy")
    acked.append(acknowledged(guest, acked[-1]))  # while it is copied
    with contextlib.closing(hv.connect()) as connection:
        connection.lookupByName("live").blockJobSetSpeed("vda", 0, 0)
    there = run.result()
    between = disk_of(hv, "live")
    acked.append(acknowledged(guest, acked[-1]))
    again = run_module(MODULE, params)
    back = run_module(MODULE, {**params, "format": "raw", "mode": "live", "dest": str(directory / "back.raw")})
    acked.append(stop_writing(guest))
    yield Journey(
        *(guest, directory, before, process, predicted, untouched, there, between, again, back, acked),
        after=definition(hv, "live"),
        process_after=hv.qemu_pid("live"),
    )
    hv.remove("live")


def test_the_guest_never_stops_and_loses_no_record(journey: Journey) -> None:
    assert journey.process == journey.process_after
    assert journey.there["changed"], journey.there
    assert journey.back["changed"], journey.back
    assert journey.acked == sorted(set(journey.acked))


def test_a_running_domain_is_converted_live_unless_told_otherwise(journey: Journey) -> None:
    (disk,) = journey.there["disks"]
    assert (disk["mode"], disk["path"], disk["format"]) == ("live", str(journey.directory / "vm.qcow2"), "qcow2")
    assert (disk["previous_path"], disk["previous_format"]) == (str(journey.directory / "vm.raw"), "raw")
    assert disk["downtime_seconds"] is None
    assert [action.split()[0] for action in journey.there["actions"]] == ["copy", "switch"]
    assert journey.between == (str(journey.directory / "vm.qcow2"), "qcow2")


def test_check_mode_of_a_live_conversion_predicts_it_and_writes_nothing(journey: Journey) -> None:
    assert journey.untouched_by_check
    assert journey.predicted["changed"]
    assert journey.predicted["actions"] == journey.there["actions"]
    assert journey.predicted["diff"] == journey.there["diff"]
    assert journey.predicted["disks"][0]["mode"] == "live"


def test_the_second_run_on_a_running_domain_changes_nothing(journey: Journey) -> None:
    assert not journey.again["changed"]
    assert journey.again["actions"] == []


def test_only_the_disk_changes_in_the_definition(journey: Journey) -> None:
    before, after = (ElementTree.fromstring(xml) for xml in (journey.before, journey.after))
    for tree in (before, after):
        disk = tree.find("devices/disk")
        assert disk is not None
        for name in ("source", "driver", "backingStore"):
            for element in disk.findall(name):
                disk.remove(element)
    texts = ["".join(ElementTree.tostring(tree, encoding="unicode").split()) for tree in (before, after)]
    assert texts[0] == texts[1]
    assert "sesame" in journey.after


def test_the_new_image_has_the_owner_that_the_old_one_has_at_rest(hv: Hypervisor, journey: Journey) -> None:
    old = os.stat(journey.directory / "vm.raw")
    assert (old.st_uid, old.st_gid, old.st_mode & 0o777) == (4321, 4321, 0o640)
    assert leftovers(hv, "live", journey.directory) == []


def test_the_new_disk_is_there_after_a_stop_and_a_start(hv: Hypervisor, journey: Journey) -> None:
    journey.guest.must("umount /data; sync")
    subprocess.run(["virsh", "-q", "-c", hv.uri, "destroy", "live"], check=True)
    new = os.stat(journey.directory / "back.raw")
    assert (new.st_uid, new.st_gid, new.st_mode & 0o777) == (4321, 4321, 0o640)
    assert disk_of(hv, "live") == (str(journey.directory / "back.raw"), "raw")
    hv.start("live")
    journey.guest.wait_ready()
    said = journey.guest.must("check /data/records; sha256sum -c /data/SUMS")
    assert int(said.split()[1]) >= journey.acked[-1]


# The chain, several disks, and other circumstances


def owners(*paths: Path) -> list[tuple[int, int]]:
    return [(path.stat().st_uid, path.stat().st_gid) for path in paths]


@pytest.fixture
def chained(hv: Hypervisor, images: Path, make_domain: MakeDomain) -> tuple[Guest, Path, Path]:
    """A guest that writes to an overlay of a base with a file system."""
    base, top = file_system(images / "base.raw"), images / "top.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", top)
    os.chown(base, 1234, 1234)
    guest = make_domain([Disk(top, "qcow2")], start=True)
    start_writing(guest)
    return guest, base, top


@pytest.mark.parametrize("shallow", [False, True], ids=["flat", "shallow"])
def test_a_disk_with_a_chain_is_copied_with_all_of_it_or_over_the_same_base(
    hv: Hypervisor, module: Module, chained: tuple[Guest, Path, Path], shallow: bool
) -> None:
    guest, base, top = chained
    before = file_digest(base)
    owned = owners(base)
    dest = top.with_name("new.qcow2")
    params = {"name": guest.name, "disk": "vda", "dest": str(dest), "shallow": shallow}
    predicted = module(MODULE, params, check=True)
    done = module(MODULE, params)
    assert done.get("changed"), done
    stop_writing(guest)
    expected = [str(dest), str(base)] if shallow else [str(dest)]
    assert [image["path"] for image in done["disks"][0]["backing_chain"]] == expected
    assert [image["path"] for image in predicted["disks"][0]["backing_chain"]] == expected
    assert owners(base) == owned
    assert file_digest(base) == before
    assert not module(MODULE, params)["changed"]
    assert (dest.stat().st_blocks < top.stat().st_blocks * 1.5) or not shallow
    if not shallow:
        base.rename(base.with_name("away.raw"))
    restart(hv, guest)
    assert int(guest.must("check /data/records").split()[1]) > 0
    guest.must("sha256sum -c /data/SUMS")


def restart(hv: Hypervisor, guest: Guest) -> None:
    subprocess.run(["virsh", "-q", "-c", hv.uri, "destroy", guest.name], check=True)
    hv.start(guest.name)
    guest.wait_ready()


def test_an_overlay_keeps_its_base_off_line_too(
    hv: Hypervisor, module: Module, images: Path, make_domain: MakeDomain
) -> None:
    base, top = make_image(images / "base.raw"), images / "top.qcow2"
    make_overlay(top, base)
    seen = content(top, "qcow2")
    name = make_domain([], kernel=False).name
    hv.remove(name)
    hv.define(with_backing(hv.domain_xml(name, [Disk(top, "qcow2")], kernel=False), (base, "raw")))
    dest = images / "new.qcow2"
    params = {"name": name, "disk": "vda", "dest": str(dest), "shallow": True, "cluster_size": "128K"}
    done = module(MODULE, params)
    assert done.get("changed"), done
    assert [image["path"] for image in done["disks"][0]["backing_chain"]] == [str(dest), str(base)]
    assert done["disks"][0]["mode"] == "offline"
    assert content(dest, "qcow2") == seen
    assert f"<source file='{base}'/>" in definition(hv, name)
    assert dest.stat().st_size < 3 * MIB, "what only the base holds was not copied"
    assert not module(MODULE, params)["changed"]


def test_a_paused_guest_stays_paused_and_has_its_new_disk(
    hv: Hypervisor, module: Module, images: Path, make_domain: MakeDomain
) -> None:
    source = file_system(images / "vm.raw")
    guest = make_domain([Disk(source)], start=True)
    start_writing(guest)
    virsh = ["virsh", "-q", "-c", hv.uri]
    subprocess.run([*virsh, "suspend", guest.name], check=True)
    before = content(source, "raw")
    done = module(MODULE, {"name": guest.name, "disk": "vda"})
    assert done["disks"][0]["mode"] == "live"
    domstate = subprocess.run([*virsh, "domstate", guest.name], check=True, capture_output=True, text=True)
    assert domstate.stdout.strip() == "paused"
    assert content(images / "vm.qcow2", "qcow2") == before
    subprocess.run([*virsh, "resume", guest.name], check=True)
    stop_writing(guest)


def test_several_disks_of_a_running_domain_are_copied_in_one_call(
    hv: Hypervisor, module: Module, images: Path, make_domain: MakeDomain
) -> None:
    source = file_system(images / "vm.raw")
    others = [make_image(images / f"{name}.qcow2", "qcow2", seed=name) for name in ("with space", "a,b", "-dash:é")]
    targets = ["vda", "vdb", "sdc", "vdd"]
    disks = [Disk(source), *(Disk(path, "qcow2", target) for path, target in zip(others, targets[1:], strict=True))]
    guest = make_domain(disks, start=True)
    start_writing(guest)
    seen = [content(path, "qcow2") for path in others]
    (images / "new").mkdir()
    params = {"name": guest.name, "disks": [*targets[:2], str(others[1]), "vdd"], "dest_dir": str(images / "new")}
    done = module(MODULE, {**params, "keep_source": False, "bandwidth": "100M", "cluster_size": "128K"})
    assert done.get("changed"), done
    stop_writing(guest)
    assert [disk["mode"] for disk in done["disks"]] == ["live"] * 4
    assert not source.exists()
    for path, target, before in zip(others, targets[1:], seen, strict=True):
        new = images / "new" / path.name
        assert disk_of(hv, guest.name, target) == (str(new), "qcow2")
        assert content(new, "qcow2") == before
        assert not path.exists()
        assert '"cluster-size": 131072' in qemu_img("info", "-U", "--output=json", new)
    assert leftovers(hv, guest.name, images) == []
    assert not module(MODULE, params)["changed"]


@pytest.mark.parametrize(
    ("image_format", "allocation"),
    [("raw", "lazy_zeroed_thick"), ("qcow2", "lazy_zeroed_thick"), ("qcow2", "eager_zeroed_thick")],
)
def test_the_space_of_a_live_copy_is_reserved_where_that_is_wanted(
    hv: Hypervisor, module: Module, images: Path, make_domain: MakeDomain, image_format: str, allocation: str
) -> None:
    source = make_image(images / "vm.img", "qcow2" if image_format == "raw" else "raw", size_mib=64)
    name = make_domain([Disk(source, "qcow2" if image_format == "raw" else "raw")], kernel=False).name
    hv.start(name)
    before = content(source, "qcow2" if image_format == "raw" else "raw")
    done = module(MODULE, {"name": name, "disk": "vda", "format": image_format, "allocation": allocation})
    assert done.get("changed"), done
    dest = images / f"vm.{image_format}"
    assert dest.stat().st_blocks * 512 >= 64 * MIB
    assert content(dest, image_format) == before


def test_a_hypervisor_that_does_not_change_owners_can_use_the_live_copy(static_hv: Hypervisor) -> None:
    user = pwd.getpwnam("libvirt-qemu")
    source = make_image(static_hv.images / "vm.raw")
    os.chown(source, user.pw_uid, user.pw_gid)
    source.chmod(0o600)
    static_hv.define(static_hv.domain_xml("vm", [Disk(source)], kernel=False))
    static_hv.start("vm")
    done = run_module(MODULE, {"name": "vm", "disk": "vda", "uri": static_hv.uri})
    assert done.get("changed"), done
    status = (static_hv.images / "vm.qcow2").stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (user.pw_uid, user.pw_gid, 0o600)
    static_hv.remove("vm")


# To a block device


@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
def test_a_running_disk_moves_to_a_block_device_only_where_that_is_meant(
    hv: Hypervisor,
    module: Module,
    images: Path,
    make_domain: MakeDomain,
    device: MakeDevice,
    image_format: str,
) -> None:
    source = make_image(images / "vm.qcow2", "qcow2")
    dest = device(8 if image_format == "raw" else 12)
    name = make_domain([Disk(source, "qcow2")], kernel=False).name
    hv.start(name)
    seen = content(source, "qcow2")
    params = {"name": name, "disk": "vda", "dest": dest, "format": image_format}
    before = definition(hv, name)
    refused = module(MODULE, params)
    assert "is a block device, whose content would be overwritten: set block_device=true" in refused["msg"]
    assert definition(hv, name) == before
    done = module(MODULE, {**params, "block_device": True})
    assert done.get("changed"), done
    assert f"<source dev='{dest}'/>" in definition(hv, name)
    assert "<disk type='block' device='disk'>" in definition(hv, name)
    assert (done["disks"][0]["path"], done["disks"][0]["format"]) == (dest, image_format)
    assert not module(MODULE, {**params, "block_device": True})["changed"]
    qemu_img("convert", "-U", "-f", image_format, "-O", "raw", dest, images / "seen")
    assert file_digest(images / "seen") == seen
    assert Path(dest).is_block_device()
    assert not Path("/dev", f".{Path(dest).name}.kvmops").exists()
    assert leftovers(hv, name, images) == []
    hv.remove(name)


def test_a_block_device_that_does_not_fit_is_refused(
    hv: Hypervisor, module: Module, images: Path, make_domain: MakeDomain, device: MakeDevice
) -> None:
    source = make_image(images / "vm.raw", mib=6)
    name = make_domain([Disk(source)], kernel=False).name
    larger, smaller = device(9), device(2)
    asked = {"name": name, "disk": "vda", "block_device": True}
    off = module(MODULE, {**asked, "dest": larger})
    assert "only copied to a block device while its guest runs" in off["msg"]
    hv.start(name)
    cases = {
        "as raw both must have the same size": {"dest": larger, "format": "raw"},
        "choose a larger device": {"dest": smaller},
        "asked for a block device, and is something else": {"dest": str(images / "new.qcow2")},
        "needs dest": {},
        "a block device is fully allocated already": {"dest": larger, "preallocation": "full"},
    }
    before = definition(hv, name)
    for said, more in cases.items():
        assert said in module(MODULE, {**asked, **more})["msg"]
    subprocess.run(["mkfs.ext4", "-q", larger], check=True)
    (images / "mounted").mkdir()
    subprocess.run(["mount", larger, images / "mounted"], check=True)
    try:
        assert "is in use: mounted" in module(MODULE, {**asked, "dest": larger})["msg"]
    finally:
        subprocess.run(["umount", images / "mounted"], check=True)
    assert definition(hv, name) == before
    assert leftovers(hv, name, images) == []
