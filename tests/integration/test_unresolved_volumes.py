# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The disks of domains that are volumes of a storage pool: theirs also while libvirt does not know the volume."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import libvirt
import pytest
from lab import Disk, Hypervisor, run_module
from lab.fixtures import MakeDomain
from lab.tree import tree_state
from support.image_tools import create, overlay

Module = Callable[..., dict[str, Any]]
DISK = (
    "<disk type='volume' device='disk'><driver name='qemu' type='qcow2'/><source pool='{}' volume='{}'/>"
    "<target dev='vdb' bus='virtio'/></disk>"
)
ISCSI = "<source><host name='192.0.2.1'/><device path='iqn.2024-01.org.example:disks'/></source>"


class MakePool(Protocol):
    """Defines a pool over DIRECTORY, starts it if it is to be ACTIVE, and returns its name."""

    def __call__(self, directory: Path, *, kind: str = "dir", source: str = "", active: bool = False) -> str: ...


@pytest.fixture
def make_pool(hv: Hypervisor, images: Path) -> Iterator[MakePool]:
    made: list[str] = []

    def make(directory: Path, *, kind: str = "dir", source: str = "", active: bool = False) -> str:
        name = f"pool-{images.name}-{len(made)}"
        target = f"<target><path>{directory}</path></target>"
        with contextlib.closing(hv.connect()) as connection:
            pool = connection.storagePoolDefineXML(f"<pool type='{kind}'><name>{name}</name>{source}{target}</pool>")
            made.append(name)
            if active:
                pool.create()
        return name

    yield make
    with contextlib.closing(hv.connect()) as connection:
        for name in made:
            pool = connection.storagePoolLookupByName(name)
            if pool.isActive():
                pool.destroy()
            pool.undefine()


def stopped(pool: MakePool, directory: Path) -> str:
    return pool(directory)


def not_refreshed(pool: MakePool, directory: Path) -> str:
    kept = directory.with_name("kept")
    directory.rename(kept)
    directory.mkdir()
    name = pool(directory, active=True)
    directory.rmdir()
    kept.rename(directory)
    return name


def not_mounted(pool: MakePool, directory: Path) -> str:
    source = "<source><host name='192.0.2.1'/><dir path='/exported'/><format type='nfs'/></source>"
    return pool(directory, kind="netfs", source=source)


STATES = [stopped, not_refreshed, not_mounted]


@pytest.fixture
def volume(images: Path) -> Path:
    (images / "pool").mkdir(mode=0o711)
    return create(images / "pool/vm.qcow2")


@pytest.mark.parametrize("state", STATES)
def test_a_volume_that_libvirt_does_not_know_is_found_by_its_pools_directory(
    state: Any, hv: Hypervisor, volume: Path, make_pool: MakePool, make_domain: MakeDomain
) -> None:
    name = make_domain([], extra_devices=DISK.format(state(make_pool, volume.parent), volume.name)).name
    link = volume.parent.with_name("link.qcow2")
    link.symlink_to(volume)
    convert = {"src_format": "qcow2", "dest": f"{volume}.raw", "format": "raw", "remove_src": True}
    before = tree_state(volume.parent)
    for path in (volume, link):
        for module, params in (
            ("qcow2_image", {"path": str(path), "state": "absent"}),
            ("qcow2_convert", {"src": str(path), **convert}),
        ):
            for check in (True, False):
                result = run_module(module, {**params, "uri": hv.uri}, check=check)
                assert f"in use by defined domain {name} (disk vdb)" in result["msg"]
    assert tree_state(volume.parent) == before


@pytest.mark.parametrize("state", STATES)
def test_another_domain_leaves_the_volume_alone(
    state: Any, module: Module, volume: Path, make_pool: MakePool, make_domain: MakeDomain
) -> None:
    owner = make_domain([], extra_devices=DISK.format(state(make_pool, volume.parent), volume.name)).name
    other = make_domain([Disk(volume, "qcow2")]).name
    before = tree_state(volume.parent)
    for name, params in (
        ("vm_disk_convert", {"format": "raw", "keep_source": False}),
        ("vm_disk_resize", {"size": "5M", "shrink": True}),
        ("vm_disk_resize", {"size": "20M"}),
    ):
        result = module(name, {"name": other, "disk": "vda", **params})
        assert f"in use by defined domain {owner} (disk vdb)" in result["msg"], (name, result)
    assert tree_state(volume.parent) == before


def test_the_overlay_in_a_stopped_pool_protects_its_base(
    hv: Hypervisor, images: Path, make_pool: MakePool, make_domain: MakeDomain
) -> None:
    base = create(images / "base.qcow2")
    (images / "pool").mkdir(mode=0o711)
    overlay(images / "pool/vm.qcow2", base)
    name = make_domain([], extra_devices=DISK.format(make_pool(images / "pool"), "vm.qcow2")).name
    result = run_module("qcow2_image", {"path": str(base), "state": "absent", "uri": hv.uri})
    assert f"in use by defined domain {name} (backing file of vdb)" in result["msg"]
    assert base.exists()


def test_a_disk_of_a_stopped_pool_is_described(
    module: Module, volume: Path, make_pool: MakePool, make_domain: MakeDomain
) -> None:
    name = make_domain([], extra_devices=DISK.format(make_pool(volume.parent), volume.name)).name
    (disk,) = module("vm_disk_info", {"names": [name]})["disks"]
    assert (disk["path"], disk["virtual_size"], disk["problem"]) == (str(volume), 10 << 20, None)


BELOW = (
    "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{}'/><backingStore type='volume'>"
    "<format type='qcow2'/><source pool='{}' volume='{}'/><backingStore/></backingStore>"
    "<target dev='vdb' bus='virtio'/></disk>"
)


@pytest.mark.parametrize("pool", [stopped, lambda make_pool, directory: "gone"], ids=["stopped", "gone"])
def test_a_volume_that_a_definition_names_below_a_disk_is_in_use(
    pool: Any, hv: Hypervisor, volume: Path, make_pool: MakePool, make_domain: MakeDomain
) -> None:
    top = volume.with_name("not-there.qcow2")
    name = make_domain([], extra_devices=BELOW.format(top, pool(make_pool, volume.parent), volume.name)).name
    result = run_module("qcow2_image", {"path": str(volume), "state": "absent", "uri": hv.uri})
    assert f"in use by defined domain {name} (backing file of vdb)" in result["msg"]
    assert volume.exists()


NAMED = {
    "nvram": "<os><loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE_4M.fd</loader><nvram>{}</nvram>",
    "kernel": "<os><kernel>{}</kernel>",
    "qemu:commandline": "<qemu:commandline xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>"
    "<qemu:arg value='-drive'/><qemu:arg value='file={},if=virtio'/></qemu:commandline><os>",
}


@pytest.mark.parametrize("part", NAMED)
def test_an_image_that_a_definition_names_outside_of_its_disks_is_in_use(
    part: str, hv: Hypervisor, volume: Path
) -> None:
    name = f"named-{volume.parent.parent.name}"
    xml = (
        f"<domain type='qemu'><name>{name}</name><memory unit='MiB'>32</memory>{NAMED[part].format(volume)}"
        "<type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features></domain>"
    )
    convert = {"src_format": "qcow2", "dest": f"{volume}.raw", "format": "raw", "remove_src": True}
    tasks: dict[str, dict[str, Any]] = {
        "qcow2_image": {"path": str(volume), "state": "absent"},
        "qcow2_convert": {"src": str(volume), **convert},
    }
    before = tree_state(volume.parent)
    with contextlib.closing(hv.connect()) as connection:
        domain = connection.defineXML(xml)
        try:
            for module, params in tasks.items():
                result = run_module(module, {**params, "uri": hv.uri})
                assert f"in use by defined domain {name} (file named in {part})" in result["msg"]
        finally:
            domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM)
    assert tree_state(volume.parent) == before


# --- where nobody can say which file it is ---------------------------------------------------------------------------


def test_where_a_pool_is_gone_any_image_may_be_the_one(
    hv: Hypervisor, module: Module, volume: Path, make_domain: MakeDomain
) -> None:
    name = make_domain([], extra_devices=DISK.format("gone", volume.name)).name
    told = f"may be in use by defined domain {name} (disk vdb): the volume {volume.name} of the storage pool gone"
    before = tree_state(volume.parent)
    for params in ({"state": "absent"}, {"state": "absent", "allow_dependents": True}):
        result = run_module("qcow2_image", {"path": str(volume), "uri": hv.uri, **params})
        assert told in result["msg"]
        assert "define and start that pool" in result["msg"]
        assert [(user["domain"], user["path"]) for user in result["in_use_by"]] == [(name, None)]
    other = make_domain([Disk(volume, "qcow2")]).name
    for verb, params in (
        ("vm_disk_convert", {"format": "raw", "keep_source": False}),
        ("vm_disk_resize", {"size": "5M", "shrink": True}),
    ):
        assert told in module(verb, {"name": other, "disk": "vda", **params})["msg"]
    assert tree_state(volume.parent) == before
    (disk,) = module("vm_disk_info", {"names": [name]})["disks"]
    assert disk["path"] is None
    assert "the volume vm.qcow2 of the storage pool gone cannot be found" in disk["problem"]
    refused = module("vm_disk_resize", {"name": name, "disk": "vdb", "size": "20M"})
    assert "the storage pool gone cannot be found" in refused["msg"]
    assert run_module("qcow2_image", {"path": str(volume.parent / "new"), "size": "1M", "uri": hv.uri})["changed"]
    hv.remove(other)
    forced = {"path": str(volume), "uri": hv.uri, "state": "absent", "force": True}
    assert run_module("qcow2_image", forced)["changed"], "as for any other domain that is off"


def test_no_module_gives_up_an_image_that_may_be_the_one(
    hv: Hypervisor, module: Module, images: Path, make_domain: MakeDomain
) -> None:
    golden = make_domain([Disk(create(images / "golden.qcow2"), "qcow2")]).name
    overlay(images / "top.qcow2", create(images / "base.qcow2"))
    machine = make_domain([Disk(create(images / "machine.qcow2"), "qcow2")]).name
    linked = make_domain([Disk(overlay(images / "linked.qcow2", images / "base.qcow2"), "qcow2")]).name
    clones = {"source": golden, "clones": [{"name": f"{golden}-clone"}]}
    assert module("vm_linked_clone", clones)["changed"]
    snapshot = {"name": machine, "snapshot": "before"}
    assert module("vm_disk_snapshot", snapshot)["changed"]
    claimant = make_domain([], extra_devices=DISK.format("gone", "vm.qcow2")).name
    given_up = {"allow_dependents": True, "uri": hv.uri}
    before = tree_state(images)
    tasks: list[tuple[str, dict[str, Any]]] = [
        ("vm_linked_clone", {**clones, "state": "absent"}),
        ("vm_disk_snapshot", {**snapshot, "state": "absent"}),
        ("vm_disk_flatten", {"name": linked, "disk": "vda", "trusted": True}),
        ("qcow2_commit", {"path": str(images / "top.qcow2"), "overlay": "remove", **given_up}),
    ]
    for name, params in tasks:
        for check in (True, False):
            told = module(name, params, check=check)
            assert f"may be in use by defined domain {claimant} (disk vdb)" in told["msg"], (name, told)
    assert tree_state(images) == before
    hv.remove(claimant)
    for name, params in tasks[:2]:
        assert module(name, params)["changed"], name


def test_a_volume_of_a_pool_of_devices_is_no_file(
    hv: Hypervisor, module: Module, volume: Path, make_pool: MakePool, make_domain: MakeDomain
) -> None:
    iscsi = make_pool(Path("/dev/disk/by-path"), kind="iscsi", source=ISCSI)
    name = make_domain([], extra_devices=DISK.format(iscsi, "unit:0:0:1")).name
    (disk,) = module("vm_disk_info", {"names": [name]})["disks"]
    assert f"virsh pool-start {iscsi}" in disk["problem"]
    assert run_module("qcow2_image", {"path": str(volume), "state": "absent", "uri": hv.uri})["changed"]
