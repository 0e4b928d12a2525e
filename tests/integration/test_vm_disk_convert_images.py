# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""vm_disk_convert and the new image: owner and attributes, layout, the fate of the old one, the chain below it."""

from __future__ import annotations

import contextlib
import os
import pwd
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lab import Disk, Hypervisor, run_module, tree_state
from lab.fixtures import MakeDomain
from lab.tree import file_digest
from support.scene import (
    content,
    definition,
    disk_of,
    is_running,
    leftovers,
    make_image,
    make_overlay,
    qemu_img,
    with_backing,
)

Module = Callable[..., dict[str, Any]]
MODULE = "vm_disk_convert"


def dress(path: Path) -> None:
    """Gives an image an owner, a mode, an extended attribute and an ACL that no default has."""
    subprocess.run(["setfacl", "-m", "u:4321:r", path], check=True)
    os.setxattr(path, "user.ticket", b"4711")
    os.chmod(path, 0o640)
    os.chown(path, 1234, 2345)


def dress_of(path: Path) -> tuple[Any, ...]:
    names = [name for name in sorted(os.listxattr(path)) if not name.startswith("trusted.libvirt.")]
    status = os.stat(path)
    return status.st_uid, status.st_gid, oct(status.st_mode), [(name, os.getxattr(path, name)) for name in names]


@pytest.mark.parametrize("running", [False, True], ids=["off", "running"])
def test_owner_mode_acl_and_attributes_follow_the_source(
    hv: Hypervisor, module: Module, images: Path, make_domain: MakeDomain, running: bool
) -> None:
    source = make_image(images / "vm.raw")
    dress(source)
    worn = dress_of(source)
    assert len(worn[3]) == 2
    name = make_domain([Disk(source)], kernel=False).name
    if running:
        hv.start(name)
        assert os.stat(source).st_uid != 1234, "a hypervisor with dynamic ownership takes the image over"
    done = module(MODULE, {"name": name, "disk": "vda", "mode": "offline", "shutdown": "force", "restart": False})
    assert done.get("changed"), done
    assert dress_of(images / "vm.qcow2") == worn
    assert dress_of(source) == worn


def test_a_hypervisor_that_does_not_change_owners_can_start_the_new_image(static_hv: Hypervisor) -> None:
    user = pwd.getpwnam("libvirt-qemu")
    source = make_image(static_hv.images / "vm.raw")
    os.chown(source, user.pw_uid, user.pw_gid)
    os.chmod(source, 0o600)
    static_hv.define(static_hv.domain_xml("vm", [Disk(source)], kernel=False))
    static_hv.start("vm")
    done = run_module(
        MODULE, {"name": "vm", "disk": "vda", "mode": "offline", "shutdown": "force", "uri": static_hv.uri}
    )
    assert done.get("changed"), done
    assert is_running(static_hv, "vm")
    status = os.stat(static_hv.images / "vm.qcow2")
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (user.pw_uid, user.pw_gid, 0o600)
    static_hv.remove("vm")


def test_the_source_goes_only_when_asked_and_the_domain_runs_without_it(
    hv: Hypervisor, module: Module, images: Path, make_domain: MakeDomain
) -> None:
    source = make_image(images / "vm.raw")
    name = make_domain([Disk(source)], kernel=False).name
    hv.start(name)
    params = {"name": name, "disk": "vda", "mode": "offline", "shutdown": "force", "keep_source": False}
    predicted = module(MODULE, params, check=True)
    done = module(MODULE, params)
    assert predicted["actions"] == done["actions"]
    assert [action.split()[0] for action in done["actions"]] == ["destroy", "convert", "define", "start", "remove"]
    assert is_running(hv, name)
    assert sorted(os.listdir(images)) == ["vm.qcow2"]
    assert not module(MODULE, params)["changed"]


def test_the_source_stays_when_the_domain_does_not_start_from_the_new_image(
    hv: Hypervisor, module: Module, images: Path, make_domain: MakeDomain
) -> None:
    source = make_image(images / "vm.raw")
    private = images / "private"
    private.mkdir(mode=0o700)
    name = make_domain([Disk(source)], kernel=False).name
    # Of a domain that says as whom its QEMU runs, only its start tells whether that may pass a directory.
    own_user = "<seclabel type='dynamic' model='dac' relabel='yes'/></domain>"
    hv.define(definition(hv, name).replace("</domain>", own_user))
    hv.start(name)
    before, digest = definition(hv, name), file_digest(source)
    params = {
        "name": name,
        "disk": "vda",
        "mode": "offline",
        "shutdown": "force",
        "keep_source": False,
        "dest_dir": str(private),
    }
    failed = module(MODULE, params)
    assert failed["failed"]
    assert f"{name}: cannot start the domain" in failed["msg"]
    assert is_running(hv, name), "it runs again, on its old disk"
    assert (definition(hv, name), file_digest(source)) == (before, digest)
    assert os.listdir(private) == []
    assert leftovers(hv, name, images) == []


def test_the_new_image_of_an_off_domain_is_in_place_before_the_source_goes(
    hv: Hypervisor, module: Module, images: Path, make_domain: MakeDomain
) -> None:
    source = make_image(images / "vm.raw")
    before = content(source, "raw")
    name = make_domain([Disk(source)], kernel=False).name
    module(MODULE, {"name": name, "disk": "vda", "keep_source": False})
    assert sorted(os.listdir(images)) == ["vm.qcow2"]
    assert disk_of(hv, name) == (str(images / "vm.qcow2"), "qcow2")
    assert content(images / "vm.qcow2", "qcow2") == before


def test_a_source_of_several_files_goes_with_its_extents(
    hv: Hypervisor, module: Module, images: Path, make_domain: MakeDomain
) -> None:
    raw, source = make_image(images / "vm.raw"), images / "vm.vmdk"
    before = content(raw, "raw")
    qemu_img("convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=monolithicFlat", raw, source)
    assert sorted(os.listdir(images)) == ["vm-flat.vmdk", "vm.raw", "vm.vmdk"]
    raw.unlink()
    name = make_domain([Disk(source, "vmdk")], kernel=False).name
    params = {"name": name, "disk": "vda", "keep_source": False, "trusted": True}
    done = module(MODULE, params)
    assert done.get("changed"), done
    assert os.listdir(images) == ["vm.qcow2"]
    assert content(images / "vm.qcow2", "qcow2") == before
    assert not module(MODULE, params)["changed"]


def test_a_source_stays_whose_extent_another_domain_has(
    hv: Hypervisor, module: Module, images: Path, make_domain: MakeDomain
) -> None:
    raw, source = make_image(images / "vm.raw"), images / "vm.vmdk"
    qemu_img("convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=monolithicFlat", raw, source)
    other = make_domain([Disk(images / "vm-flat.vmdk")], kernel=False).name
    name = make_domain([Disk(source, "vmdk")], kernel=False).name
    refused = module(MODULE, {"name": name, "disk": "vda", "keep_source": False, "trusted": True})
    assert f"vm-flat.vmdk: in use by defined domain {other}" in refused["msg"]
    assert sorted(os.listdir(images)) == ["vm-flat.vmdk", "vm.raw", "vm.vmdk"]


def test_a_raw_image_made_below_a_running_guest_has_holes_unless_a_warning_says_that_it_has_none(
    hv: Hypervisor, module: Module, images: Path, make_domain: MakeDomain
) -> None:
    source = make_image(images / "vm.qcow2", "qcow2")
    name = make_domain([Disk(source, "qcow2")], kernel=False).name
    hv.start(name)
    result = module(MODULE, {"name": name, "disk": "vda", "format": "raw", "mode": "live"})
    (disk,) = result["disks"]
    (new,) = disk["backing_chain"]
    has_holes = new["actual_size"] < new["virtual_size"]
    assert has_holes is ("will occupy all of its" not in str(result.get("warnings")))


def test_a_raw_image_of_a_disk_that_passes_discards_on_has_holes(
    hv: Hypervisor, module: Module, images: Path, make_domain: MakeDomain
) -> None:
    source = make_image(images / "vm.qcow2", "qcow2")
    name = make_domain([Disk(source, "qcow2", discard="unmap")], kernel=False).name
    hv.start(name)
    result = module(MODULE, {"name": name, "disk": "vda", "format": "raw", "mode": "live"})
    (disk,) = result["disks"]
    (new,) = disk["backing_chain"]
    assert new["actual_size"] < new["virtual_size"]
    assert "will occupy all of its" not in str(result.get("warnings"))


@pytest.mark.parametrize("mode", ["live", "offline"])
def test_a_source_that_is_a_link_goes_with_what_it_links_to(
    hv: Hypervisor, module: Module, images: Path, make_domain: MakeDomain, mode: str
) -> None:
    store = images / "store"
    store.mkdir(mode=0o711)
    file = make_image(store / "disk.raw")
    make_image(store / "other.raw")
    source = images / "vm.raw"
    source.symlink_to(file)
    before = content(file, "raw")
    pool = f"store-{images.name}"
    hv.pool(pool, store)
    name = make_domain([Disk(source)], kernel=False).name
    try:
        if mode == "live":
            hv.start(name)
        params = {"name": name, "disk": "vda", "mode": mode, "keep_source": False}
        done = module(MODULE, params)
        assert done.get("changed"), done
        assert done["disks"][0]["path"] == str(images / "vm.qcow2")
        assert sorted(os.listdir(images)) == ["store", "vm.qcow2"]
        assert os.listdir(store) == ["other.raw"]
        assert content(images / "vm.qcow2", "qcow2") == before
        assert leftovers(hv, name, images) == []
        assert not module(MODULE, params)["changed"]
        with contextlib.closing(hv.connect()) as connection:
            assert connection.storagePoolLookupByName(pool).listVolumes() == ["other.raw"]
    finally:
        with contextlib.closing(hv.connect()) as connection:
            connection.storagePoolLookupByName(pool).destroy()
            connection.storagePoolLookupByName(pool).undefine()


@pytest.mark.parametrize(
    ("options", "image_format", "holds"),
    [
        ({"preallocation": "falloc"}, "qcow2", lambda path: os.stat(path).st_blocks * 512 >= 8 << 20),
        ({"allocation": "eager_zeroed_thick"}, "qcow2", lambda path: os.stat(path).st_blocks * 512 >= 8 << 20),
        ({"preallocation": "full"}, "raw", lambda path: os.stat(path).st_blocks * 512 >= 8 << 20),
        ({"allocation": "thin"}, "raw", lambda path: os.stat(path).st_blocks * 512 < 4 << 20),
        ({"cluster_size": "2M"}, "qcow2", lambda path: '"cluster-size": 2097152' in info(path)),
        ({"compress": True}, "qcow2", lambda path: os.stat(path).st_blocks * 512 < 1 << 20),
        (
            {"compress": True, "compression_type": "zstd"},
            "qcow2",
            lambda path: '"compression-type": "zstd"' in info(path),
        ),
    ],
    ids=["falloc", "eager_zeroed_thick", "raw full", "raw thin", "cluster_size", "compress", "zstd"],
)
def test_the_new_image_is_laid_out_as_asked(
    module: Module,
    images: Path,
    make_domain: MakeDomain,
    options: dict[str, Any],
    image_format: str,
    holds: Callable[[Path], bool],
) -> None:
    old_format = "raw" if image_format == "qcow2" else "qcow2"
    source = make_image(images / f"vm.{old_format}", old_format)
    name = make_domain([Disk(source, old_format)], kernel=False).name
    done = module(MODULE, {"name": name, "disk": "vda", "format": image_format, **options})
    assert done.get("changed"), done
    dest = images / f"vm.{image_format}"
    assert holds(dest)
    qemu_img("compare", "-f", old_format, "-F", image_format, source, dest)


def info(path: Path) -> str:
    return qemu_img("info", "--output=json", "-f", "qcow2", path)


def test_an_overlay_of_an_off_domain_becomes_independent_and_its_base_stays_as_it_was(
    hv: Hypervisor, module: Module, images: Path, make_domain: MakeDomain
) -> None:
    base = make_image(images / "base.qcow2", "qcow2")
    middle = make_overlay(images / "middle.qcow2", base, "qcow2")
    top = make_overlay(images / "vm.qcow2", middle, "qcow2")
    os.chmod(base, 0o440)
    os.chown(base, 1234, 2345)
    before, digest = tree_state(images), content(top, "qcow2")
    name = make_domain([], kernel=False).name
    hv.remove(name)
    xml = hv.domain_xml(name, [Disk(top, "qcow2")], kernel=False)
    hv.define(with_backing(xml, (middle, "qcow2"), (base, "qcow2")))
    done = module(MODULE, {"name": name, "disk": "vda", "dest": str(images / "flat.qcow2")})
    assert done.get("changed"), done
    assert done["disks"][0]["backing_chain"][0]["backing_file"] is None
    assert len(done["disks"][0]["backing_chain"]) == 1
    after = tree_state(images)
    assert {path: after[path] for path in before if path != "."} == {
        path: before[path] for path in before if path != "."
    }
    base.unlink()
    middle.unlink()
    assert content(images / "flat.qcow2", "qcow2") == digest


def test_an_overlay_of_a_running_domain_becomes_independent(
    hv: Hypervisor, module: Module, images: Path, make_domain: MakeDomain
) -> None:
    base = make_image(images / "base.raw")
    top = make_overlay(images / "vm.qcow2", base)
    digest, base_digest = content(top, "qcow2"), file_digest(base)
    name = make_domain([Disk(top, "qcow2")], kernel=False).name
    hv.start(name)
    status = os.stat(base)
    done = module(MODULE, {"name": name, "disk": "vda", "format": "raw", "mode": "offline", "shutdown": "force"})
    assert done.get("changed"), done
    assert is_running(hv, name)
    assert content(images / "vm.raw", "raw") == digest
    assert file_digest(base) == base_digest
    assert os.stat(base).st_mode == status.st_mode


def test_references_that_the_definition_does_not_name_are_followed_when_trusted(
    module: Module, images: Path, make_domain: MakeDomain
) -> None:
    base = make_image(images / "base.raw")
    top = make_overlay(images / "vm.qcow2", base)
    digest = content(top, "qcow2")
    name = make_domain([Disk(top, "qcow2")], kernel=False).name
    done = module(MODULE, {"name": name, "disk": "vda", "format": "raw", "trusted": True})
    assert done.get("changed"), done
    assert content(images / "vm.raw", "raw") == digest


def test_images_are_not_compared_where_nobody_wants_it(module: Module, images: Path, make_domain: MakeDomain) -> None:
    name = make_domain([Disk(make_image(images / "vm.raw"))], kernel=False).name
    done = module(MODULE, {"name": name, "disk": "vda", "verify": False})
    assert done["changed"]
    assert not done["disks"][0]["verified"]


def test_two_disks_fit_where_both_together_fit(
    hv: Hypervisor, module: Module, images: Path, make_domain: MakeDomain
) -> None:
    sources = [make_image(images / f"{target}.raw", mib=3, seed=target) for target in ("vda", "vdb")]
    name = make_domain([Disk(path, target=path.stem) for path in sources], kernel=False).name
    hv.start(name)
    small = images / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=9m,mode=0711", "tmpfs", small], check=True)
    try:
        params = {
            "name": name,
            "disks": ["vda", "vdb"],
            "dest_dir": str(small),
            "mode": "offline",
            "shutdown": "force",
            "restart": False,
        }
        done = module(MODULE, params)
        assert done.get("changed"), done
        for source in sources:
            qemu_img("compare", "-f", "raw", "-F", "qcow2", source, small / f"{source.stem}.qcow2")
    finally:
        subprocess.run(["umount", small], check=True)
