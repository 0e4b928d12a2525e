# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""vm_disk_resize: a guest sees the new size at once, or at its next start, and finds its data as it was."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import libvirt
import pytest
from lab import Disk, Guest, Hypervisor, build_boot_disk, run_module, tree_state
from lab.fixtures import MakeDomain
from support.injection import environment
from support.scene import (
    MIB,
    content,
    definition,
    leftovers,
    make_encrypted,
    make_image,
    make_overlay,
    qemu_img,
    state,
    unchanged,
)
from support.stand_in import listening

Module = Callable[..., dict[str, Any]]
MODULE = "vm_disk_resize"
ODD = "-a, b:ü 'c'.raw"


def virtual_size(path: Path, image_format: str) -> int:
    found = json.loads(qemu_img("info", "-U", "-f", image_format, "--output=json", "--", path))
    return int(found["virtual-size"])


def allocated(path: Path) -> int:
    return path.stat().st_blocks * 512


def done(result: dict[str, Any], previous: int, size: int, mode: str) -> dict[str, Any]:
    """The facts of the disk, which was resized."""
    assert result.get("changed"), result
    (disk,) = result["disks"]
    assert isinstance(disk, dict)
    assert (disk["previous_size"], disk["virtual_size"], disk["mode"]) == (previous, size, mode)
    assert disk["backing_chain"][0]["virtual_size"] == size
    target = disk["target"]
    assert result["diff"] == {
        "before": {target: {"virtual_size": previous}},
        "after": {target: {"virtual_size": size}},
    }
    return disk


# A guest that runs


@dataclass
class Live:
    """A booted guest: its own raw disk, qcow2, an overlay, an odd name, SCSI."""

    guest: Guest
    directory: Path
    images: dict[str, Path]
    definition: str

    @contextlib.contextmanager
    def as_it_is(self) -> Iterator[None]:
        """Asserts that the block changed neither the definition nor the length of an image; the guest may write."""

        def look() -> tuple[Any, ...]:
            sizes = {path: path.stat().st_size for path in self.directory.iterdir()}
            return sizes, definition(self.guest.hv, self.guest.name), state(self.guest.hv, self.guest.name)

        before = look()
        yield
        assert look() == before

    def resize(self, disk: str, size: str, **options: Any) -> dict[str, Any]:
        check, env, python = options.pop("check", False), options.pop("env", None), options.pop("python", None)
        params = {"name": self.guest.name, "uri": self.guest.hv.uri, "disk": disk, "size": size, **options}
        return run_module(MODULE, params, check=check, env=env, python=python)

    def size(self, target: str) -> int:
        """In MiB: the tests before have grown it, whichever they were."""
        return self.guest.disk_size(target) // MIB

    @contextlib.contextmanager
    def domain(self) -> Iterator[libvirt.virDomain]:
        with contextlib.closing(self.guest.hv.connect()) as connection:
            yield connection.lookupByName(self.guest.name)


@pytest.fixture(scope="module")
def live(hv: Hypervisor) -> Iterator[Live]:
    directory = hv.images / "resized-live"
    directory.mkdir(mode=0o711)
    images = {
        "vda": build_boot_disk(directory / "root.raw"),
        "vdb": make_image(directory / "vm.qcow2", "qcow2"),
        "vdc": make_overlay(directory / "overlay.qcow2", make_image(directory / "base.raw")),
        "vdd": make_image(directory / ODD),
        "sda": make_image(directory / "scsi.raw"),
    }
    disks = [
        Disk(path, "qcow2" if path.suffix == ".qcow2" else "raw", target, boot_order=1 if target == "vda" else None)
        for target, path in images.items()
    ]
    guest = hv.boot(hv.domain_xml("resized-live", disks, kernel=False))
    yield Live(guest, directory, images, definition(hv, guest.name))
    hv.remove(guest.name)


def test_check_mode_predicts_and_touches_nothing(live: Live) -> None:
    size = live.size("vdd")
    with live.as_it_is():
        predicted = live.resize("vdd", f"{size + 4}M", check=True)
    assert live.size("vdd") == size
    done(predicted, size * MIB, (size + 4) * MIB, "live")
    assert predicted["actions"] == live.resize("vdd", f"{size + 4}M")["actions"]


@pytest.mark.parametrize("target", ["vdb", "vdc", "vdd", "sda"])
def test_a_running_guest_sees_the_new_size_at_once(live: Live, target: str) -> None:
    path = live.images[target]
    image_format = "qcow2" if path.suffix == ".qcow2" else "raw"
    before = virtual_size(path, image_format)
    larger = before + 8 * MIB
    disk = done(live.resize(target, str(larger)), before, larger, "live")
    assert (disk["path"], disk["format"], disk["domain"]) == (str(path), image_format, live.guest.name)
    assert live.guest.disk_size(target) == larger
    assert virtual_size(path, image_format) == larger
    again = live.resize(str(path), str(larger))
    assert not again["changed"]
    assert again["disks"][0]["virtual_size"] == larger
    assert (again["disks"][0]["previous_size"], again["disks"][0]["mode"]) == (None, None)


def test_the_guest_writes_where_there_was_nothing_and_keeps_what_was(live: Live) -> None:
    size = live.guest.disk_size("vda")
    live.resize("vda", "+8M", from_size=str(size))
    assert live.guest.disk_size("vda") == size + 8 * MIB
    live.guest.must("cd /data && sha256sum -c SHA256SUMS")
    at = size // MIB
    live.guest.must("pattern /tmp/tail 4 tail")
    live.guest.must(f"dd if=/tmp/tail of=/dev/vda bs=1M seek={at} conv=fsync,notrunc")
    read = f"dd if=/dev/vda bs=1M skip={at} count=4 | cmp - /tmp/tail"
    live.guest.must(read)


def test_a_paused_guest_has_it_when_it_goes_on(live: Live) -> None:
    size = live.size("vdd")
    with live.domain() as domain:
        domain.suspend()
        try:
            done(live.resize("vdd", f"{size + 4}M"), size * MIB, (size + 4) * MIB, "live")
            assert domain.state()[0] == libvirt.VIR_DOMAIN_PAUSED
        finally:
            domain.resume()
    assert live.size("vdd") == size + 4


def test_a_growth_alone_grows_every_time_and_one_from_a_size_once(live: Live) -> None:
    size = live.size("vdd")
    for before in (size, size + 1):
        predicted = live.resize("vdd", "+1M", check=True)
        done(predicted, before * MIB, (before + 1) * MIB, "live")
        assert live.resize("vdd", "+1M")["actions"] == predicted["actions"]
    assert live.resize("vdd", "+2M", from_size=f"{size + 2}M")["changed"]
    assert not live.resize("vdd", "+2M", from_size=f"{size + 2}M")["changed"]
    refused = live.resize("vdd", "+2M", from_size=f"{size + 3}M")
    assert f"has {size + 4} MiB, asked to grow from {size + 3} MiB to {size + 5} MiB" in refused["msg"]
    assert refused["virtual_size"] == (size + 4) * MIB
    assert live.size("vdd") == size + 4


@pytest.mark.parametrize("shrink", [False, True])
def test_a_disk_is_never_shrunk_under_its_guest(live: Live, shrink: bool) -> None:
    size = live.size("vdc")
    with live.as_it_is():
        refused = live.resize("vdc", f"{size // 2}M", shrink=shrink)
    assert "while it is running: a disk is never shrunk under its guest" in refused["msg"]
    assert live.size("vdc") == size


def test_a_running_disk_grows_within_what_its_file_system_may_promise(live: Live) -> None:
    system, larger = os.statvfs(live.directory), f"{live.size('vdb') + 4}M"
    with live.as_it_is():
        refused = live.resize("vdb", larger, max_overcommit=1e-6)
    assert refused["filesystem_bytes"] == system.f_blocks * system.f_frsize
    assert "is not a ratio" in live.resize("vdb", larger, max_overcommit="nan")["msg"]
    assert live.resize("vdb", larger, max_overcommit=1000)["changed"]


def test_one_call_does_it_and_qemu_img_is_not_run(live: Live, tmp_path: Path) -> None:
    log, points = tmp_path / "log", tmp_path / "points"
    python = listening(tmp_path, log)
    env = environment(POINTS=str(points))
    for target in ("vdb", "vdd"):
        points.unlink(missing_ok=True)
        assert live.resize(target, "+8M", env=env, python=python)["changed"]
        assert [point for point in points.read_text().splitlines() if "Resize" in point] == ["virDomainBlockResize 1"]
    assert not log.exists(), log.read_text()


def test_space_under_a_guest_is_not_reserved(live: Live) -> None:
    larger = live.size("vdd") + 8
    refused = live.resize("vdd", f"{larger}M", preallocation="falloc")
    assert "cannot be reserved" in refused["msg"]
    thick = live.images["vdd"]
    subprocess.run(["fallocate", "-l", str(thick.stat().st_size), thick], check=True)
    grown = live.resize("vdd", f"{larger}M")
    assert grown["changed"]
    assert any("what is added while its guest runs is not" in str(said) for said in grown["warnings"])
    assert allocated(thick) < larger * MIB


def test_the_size_stays_when_the_domain_is_stopped_and_started(live: Live) -> None:
    sizes = {target: live.guest.disk_size(target) for target in live.images}
    hv, name = live.guest.hv, live.guest.name
    with live.domain() as domain:
        domain.destroy()
    hv.start(name)
    live.guest.wait_ready()
    assert {target: live.guest.disk_size(target) for target in live.images} == sizes
    live.guest.must("cd /data && sha256sum -c SHA256SUMS")
    assert definition(hv, name) == live.definition
    assert leftovers(hv, name, live.directory) == []


# A domain that is off


@pytest.mark.parametrize("image_format", ["raw", "qcow2", "qed"])
def test_a_disk_that_is_off_grows_and_keeps_its_content(
    hv: Hypervisor, module: Module, images: Path, make_domain: MakeDomain, image_format: str
) -> None:
    path = make_image(images / "vm.img", image_format)
    os.chmod(path, 0o640)
    before = content(path, image_format)
    name = make_domain([Disk(path, image_format)], kernel=False).name
    defined, dress = definition(hv, name), (path.stat().st_uid, path.stat().st_mode, path.stat().st_ino)
    params = {"name": name, "disk": "vda", "size": "16M"}
    with unchanged(hv, images, name):
        predicted = module(MODULE, params, check=True)
    result = module(MODULE, params)
    assert predicted["actions"] == result["actions"]
    assert predicted["diff"] == result["diff"]
    assert predicted["disks"][0]["virtual_size"] == 16 * MIB
    done(result, 8 * MIB, 16 * MIB, "offline")
    assert virtual_size(path, image_format) == 16 * MIB
    assert definition(hv, name) == defined
    assert (path.stat().st_uid, path.stat().st_mode, path.stat().st_ino) == dress
    assert leftovers(hv, name, images) == []
    with unchanged(hv, images, name):
        assert not module(MODULE, params)["changed"]
    if image_format == "qed":
        return
    shrunk = module(MODULE, {**params, "size": "8M", "shrink": True})
    done(shrunk, 16 * MIB, 8 * MIB, "offline")
    assert content(path, image_format) == before


def test_an_overlay_grows_alone_and_its_backing_file_is_not_written(
    hv: Hypervisor, module: Module, images: Path, make_domain: MakeDomain
) -> None:
    base = make_image(images / "base.raw")
    overlay = make_overlay(images / "vm.qcow2", base)
    before, base_before = content(overlay, "qcow2"), tree_state(images)["base.raw"]
    name = make_domain([Disk(overlay, "qcow2")], kernel=False).name
    params = {"name": name, "disk": "vda", "size": "16M", "trusted": True}
    disk = done(module(MODULE, params), 8 * MIB, 16 * MIB, "offline")
    assert [image["path"] for image in disk["backing_chain"]] == [str(overlay), str(base)]
    assert tree_state(images)["base.raw"] == base_before
    assert not module(MODULE, params)["changed"]
    done(module(MODULE, {**params, "size": "8M", "shrink": True}), 16 * MIB, 8 * MIB, "offline")
    assert content(overlay, "qcow2") == before


def test_an_odd_name_and_a_volume_of_a_pool_are_resized_and_the_pool_knows(
    hv: Hypervisor, module: Module, images: Path, make_domain: MakeDomain
) -> None:
    directory = images / "odd, pool: ü"
    directory.mkdir(mode=0o711)
    path = make_image(directory / ODD)
    pool = f"odd-{images.name}"
    hv.pool(pool, directory)
    volume = f"<disk type='volume'><source pool='{pool}' volume=\"{ODD}\"/><target dev='vdb' bus='virtio'/></disk>"
    name = make_domain([], kernel=False, extra_devices=volume).name
    try:
        done(module(MODULE, {"name": name, "disk": "vdb", "size": "16M"}), 8 * MIB, 16 * MIB, "offline")
        with contextlib.closing(hv.connect()) as connection:
            found = connection.storagePoolLookupByName(pool)
            assert found.storageVolLookupByName(ODD).info()[1] == 16 * MIB
    finally:
        with contextlib.closing(hv.connect()) as connection:
            found = connection.storagePoolLookupByName(pool)
            found.destroy()
            found.undefine()
    assert os.listdir(directory) == [path.name]


def test_a_raw_disk_whose_guest_wrote_a_header_is_grown_as_raw(
    module: Module, images: Path, make_domain: MakeDomain
) -> None:
    victim = make_image(images / "victim")
    hostile = images / "vm.raw"
    qemu_img("create", "-q", "-f", "qcow2", "-o", f"data_file={images / 'tmp'},data_file_raw=on", hostile, "8M")
    (images / "tmp").unlink()
    (images / "tmp").symlink_to(victim)
    before = tree_state(images)["victim"]
    os.truncate(hostile, 8 * MIB)
    name = make_domain([Disk(hostile)], kernel=False).name
    done(module(MODULE, {"name": name, "disk": "vda", "size": "16M"}), 8 * MIB, 16 * MIB, "offline")
    assert hostile.stat().st_size == 16 * MIB
    assert tree_state(images)["victim"] == before


@pytest.mark.parametrize(
    ("made", "asked", "reserved"),
    [
        (("raw", "falloc"), {}, True),
        (("raw", "off"), {}, False),
        (("raw", "full"), {"preallocation": "off"}, False),
        (("raw", "off"), {"allocation": "lazy_zeroed_thick"}, True),
        (("qcow2", "full"), {}, True),
        (("qcow2", "metadata"), {}, False),
        (("qcow2", "off"), {"preallocation": "full"}, True),
    ],
    ids=str,
)
def test_what_is_added_is_allocated_like_the_rest_or_as_asked(
    module: Module, images: Path, make_domain: MakeDomain, made: tuple[str, str], asked: dict[str, str], reserved: bool
) -> None:
    image_format, policy = made
    path = images / "vm"
    qemu_img("create", "-q", "-f", image_format, "-o", f"preallocation={policy}", path, "4M")
    before = allocated(path)
    name = make_domain([Disk(path, image_format)], kernel=False).name
    done(module(MODULE, {"name": name, "disk": "vda", "size": "12M", **asked}), 4 * MIB, 12 * MIB, "offline")
    added = allocated(path) - before
    assert added >= 8 * MIB if reserved else added < MIB
    if policy == "metadata":
        assert path.stat().st_size >= 12 * MIB, "the new part has its tables"


def test_an_encrypted_disk_grows_while_libvirt_has_given_qemu_its_secret(
    hv: Hypervisor, module: Module, images: Path
) -> None:
    disks = [
        Disk(make_encrypted(images / "vm.qcow2"), "qcow2"),
        Disk(make_encrypted(images / "vm.luks", "luks"), target="vdb"),
    ]
    name = f"encrypted-{images.name}"
    key = "6cc17ff6-63d6-4ce5-ac17-063586f18ff4"
    encryption = f"<encryption format='luks'><secret type='passphrase' uuid='{key}'/></encryption>"
    with contextlib.closing(hv.connect()) as connection:
        secret = connection.secretDefineXML(f"<secret><uuid>{key}</uuid></secret>")
        try:
            secret.setValue(b"sesame")
            xml = hv.domain_xml(name, disks, kernel=False)
            hv.define(xml.replace("<target dev=", f"{encryption}<target dev="))
            hv.start(name)
            for target in ("vda", "vdb"):
                done(module(MODULE, {"name": name, "disk": target, "size": "16M"}), 4 * MIB, 16 * MIB, "live")
                assert connection.lookupByName(name).blockInfo(target)[0] == 16 * MIB
            connection.lookupByName(name).destroy()
            for target in ("vda", "vdb"):
                assert not module(MODULE, {"name": name, "disk": target, "size": "16M"})["changed"]
                refused = module(MODULE, {"name": name, "disk": target, "size": "17M"})
                assert "is encrypted" in refused["msg"]
        finally:
            hv.remove(name)
            secret.undefine()


def test_snapshots_do_not_stand_in_the_way_of_growing_and_keep_their_size(
    hv: Hypervisor, module: Module, images: Path, make_domain: MakeDomain
) -> None:
    path = make_image(images / "vm.qcow2", "qcow2")
    before = content(path, "qcow2")
    name = make_domain([Disk(path, "qcow2")], kernel=False).name
    with contextlib.closing(hv.connect()) as connection:
        domain = connection.lookupByName(name)
        snapshot = domain.snapshotCreateXML("<domainsnapshot><name>before</name></domainsnapshot>")
        done(module(MODULE, {"name": name, "disk": "vda", "size": "16M"}), 8 * MIB, 16 * MIB, "offline")
        domain.revertToSnapshot(snapshot)
        assert virtual_size(path, "qcow2") == 8 * MIB
        assert content(path, "qcow2") == before
        snapshot.delete()


def test_dependents_that_are_given_up_do_not_stand_in_the_way(
    module: Module, images: Path, make_domain: MakeDomain
) -> None:
    base = make_image(images / "base.raw")
    make_overlay(images / "overlay.qcow2", base)
    name = make_domain([Disk(base)], kernel=False).name
    params = {"name": name, "disk": "vda", "size": "16M", "allow_dependents": True}
    done(module(MODULE, params), 8 * MIB, 16 * MIB, "offline")


# What a file system may promise


def test_a_file_system_promises_as_much_as_it_may_and_no_more(
    hv: Hypervisor, module: Module, images: Path, make_domain: MakeDomain
) -> None:
    small = images / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m,mode=0711", "tmpfs", small], check=True)
    try:
        elsewhere = small / "elsewhere"
        elsewhere.mkdir(mode=0o711)
        path = make_image(small / "vm.qcow2", "qcow2")
        os.link(path, small / "same.qcow2")
        make_image(small / "other.qcow2", "qcow2")
        make_image(elsewhere / "far.raw")
        # A raw disk counts as its length, whatever its guest wrote into it.
        liar = small / "liar.raw"
        qemu_img("create", "-q", "-f", "qcow2", liar, "1M")
        os.truncate(liar, 8 * MIB)
        far = make_domain([Disk(elsewhere / "far.raw"), Disk(liar, target="vdb")], kernel=False, name="far").name
        name = make_domain([Disk(path, "qcow2")], kernel=False).name
        params = {"name": name, "disk": "vda", "max_overcommit": 1.2}
        for check in (True, False):
            with unchanged(hv, images, name, far):
                refused = module(MODULE, {**params, "size": "25M"}, check=check)
            assert "4 image(s) on the file system of" in refused["msg"]
            assert "49 MiB (51380224 bytes), which is 1.23 times the 40 MiB" in refused["msg"]
            assert "max_overcommit is 1.2: ask for 24 MiB or less" in refused["msg"]
            facts = ("required_bytes", "available_bytes", "promised_bytes", "filesystem_bytes")
            assert [refused[fact] // MIB for fact in facts] == [25, 24, 32, 40]
        done(module(MODULE, {**params, "size": "24M"}), 8 * MIB, 24 * MIB, "offline")
        beyond = {**params, "max_overcommit": 0.1}
        assert not module(MODULE, {**beyond, "size": "24M"})["changed"], "what changes nothing is not measured"
        assert module(MODULE, {**beyond, "size": "23M", "shrink": True})["changed"], "nor what promises less"
    finally:
        subprocess.run(["umount", small], check=True)


def test_an_image_is_made_and_grown_within_what_its_file_system_may_promise(module: Module, images: Path) -> None:
    small = images / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", small], check=True)
    try:
        params = {"path": str(small / "vm.qcow2"), "max_overcommit": 1}
        refused = module("qcow2_image", {**params, "size": "41M"})
        assert "1 image(s) on the file system of" in refused["msg"]
        assert os.listdir(small) == []
        for size in ("20M", "20M", "40M"):
            assert not module("qcow2_image", {**params, "size": size}).get("failed")
        refused = module("qcow2_image", {**params, "size": "41M"})
        assert (refused["required_bytes"], refused["available_bytes"]) == (41 * MIB, 40 * MIB)
        other = module("qcow2_image", {**params, "path": str(small / "other.raw"), "format": "raw", "size": "512"})
        assert "2 image(s)" in other["msg"]
        assert "is not a ratio" in module("qcow2_image", {**params, "max_overcommit": 0, "size": "40M"})["msg"]
        assert os.listdir(small) == ["vm.qcow2"]
    finally:
        subprocess.run(["umount", small], check=True)
