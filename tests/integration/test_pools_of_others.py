# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A storage pool with an entry that libvirt cannot read: libvirt stops such a pool when it is told to refresh it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from lab import Disk, Hypervisor, run_module
from lab.fixtures import MakeDomain
from support.image_tools import create

Module = Callable[..., dict[str, Any]]


def no_device(path: Path) -> None:
    os.mknod(path, 0o020600, os.makedev(10, 255))


def input_error(path: Path) -> None:
    path.symlink_to("/proc/self/mem")


@pytest.fixture(params=[no_device, input_error])
def pool(request: pytest.FixtureRequest, hv: Hypervisor, images: Path) -> Iterator[Path]:
    """The directory of a pool that was active before the entry `bad` came."""
    directory = images / "pool"
    directory.mkdir(mode=0o711)
    create(directory / "vm.qcow2")
    hv.pool(f"pool-{images.name}", directory)
    request.param(directory / "bad")
    yield directory
    (directory / "bad").unlink(missing_ok=True)
    with contextlib.closing(hv.connect()) as connection:
        found = connection.storagePoolLookupByName(f"pool-{images.name}")
        if found.isActive():
            found.destroy()
        found.undefine()


def volumes(hv: Hypervisor, directory: Path) -> list[str]:
    """The volumes of the pool, which is active, and alone: no trial is left."""
    with contextlib.closing(hv.connect()) as connection:
        (found,) = [one for one in connection.listAllStoragePools() if str(directory) in one.XMLDesc()]
        assert found.isActive()
        return sorted(found.listVolumes())


def assert_warned(result: dict[str, Any], directory: Path) -> None:
    assert result.get("changed"), result
    (warning,) = [told for warning in result["warnings"] if "storage pool" in (told := str(warning))]
    assert f"the storage pool pool-{directory.parent.name} could not be refreshed: it stays active" in warning
    assert f"{directory}/bad" in warning


def test_the_pool_stays_active_and_is_named(hv: Hypervisor, pool: Path) -> None:
    params: dict[str, Any] = {"path": str(pool / "new.qcow2"), "uri": hv.uri}
    convert = {"src": str(pool / "vm.qcow2"), "src_format": "qcow2", "dest": str(pool / "vm.raw"), "format": "raw"}
    assert_warned(run_module("qcow2_image", {**params, "size": "1M"}), pool)
    assert volumes(hv, pool) == ["vm.qcow2"]
    assert_warned(run_module("qcow2_convert", {**convert, "uri": hv.uri}), pool)
    assert_warned(run_module("qcow2_image", {**params, "state": "absent"}), pool)
    assert volumes(hv, pool) == ["vm.qcow2"]
    (pool / "bad").unlink()
    assert not run_module("qcow2_image", {**params, "size": "1M"}).get("warnings")
    assert volumes(hv, pool) == ["new.qcow2", "vm.qcow2", "vm.raw"]


def test_the_pool_stays_active_below_the_disk_of_a_domain(
    hv: Hypervisor, module: Module, pool: Path, make_domain: MakeDomain
) -> None:
    name = make_domain([Disk(pool / "vm.qcow2", "qcow2")]).name
    assert_warned(module("vm_disk_resize", {"name": name, "disk": "vda", "size": "20M"}), pool)
    assert_warned(module("vm_disk_convert", {"name": name, "disk": "vda", "format": "raw"}), pool)
    clones = {"source": name, "clones": [{"name": f"{name}-clone"}], "mode": "full"}
    assert_warned(module("vm_linked_clone", clones), pool)
    assert_warned(module("vm_linked_clone", {**clones, "state": "absent"}), pool)
    assert volumes(hv, pool) == ["vm.qcow2"]
