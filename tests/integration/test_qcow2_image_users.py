# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qcow2_image leaves alone what somebody uses: a running guest, a process, a domain that is off, an overlay."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab import Disk, Guest, Hypervisor
from lab.fixtures import MakeDomain
from lab.tree import tree_state
from support.image_tools import (
    MIB,
    create,
    done,
    info,
    names,
    opened_by_a_process,
    overlay,
    qemu_img,
    refused,
)


@pytest.fixture
def running(hv: Hypervisor, images: Path, make_domain: MakeDomain) -> Guest:
    """A guest that runs from base.qcow2, through an overlay, beside a raw disk."""
    create(images / "base.qcow2")
    overlay(images / "disk.qcow2", "base.qcow2")
    create(images / "data.raw", "raw")
    guest = make_domain([Disk(images / "disk.qcow2", "qcow2"), Disk(images / "data.raw", "raw", "vdb")])
    hv.start(guest.name)
    return guest


@pytest.fixture
def pool(hv: Hypervisor, images: Path) -> Iterator[Path]:
    """A directory that is a libvirt pool."""
    directory = images / "pool"
    directory.mkdir(mode=0o711)
    name = f"pool-{images.name}"
    hv.pool(name, directory)
    yield directory
    with contextlib.closing(hv.connect()) as connection:
        found = connection.storagePoolLookupByName(name)
        found.destroy()
        found.undefine()


def volumes(hv: Hypervisor, directory: Path) -> list[str]:
    with contextlib.closing(hv.connect()) as connection:
        return sorted(connection.storagePoolLookupByTargetPath(str(directory)).listVolumes())


# --- in use -----------------------------------------------------------------------------------------------------


def test_images_of_a_running_guest_are_neither_changed_nor_removed(
    hv: Hypervisor, images: Path, running: Guest
) -> None:
    backing = {"backing_file": str(images / "base.qcow2"), "backing_format": "qcow2"}
    attempts: list[tuple[str, dict[str, Any]]] = [
        ("disk.qcow2", {"size": "20M", **backing}),
        ("disk.qcow2", {"lazy_refcounts": True, **backing}),
        ("disk.qcow2", {"state": "absent", "force": True, "allow_dependents": True}),
        ("data.raw", {"format": "raw", "size": "20M"}),
        ("data.raw", {"format": "raw", "size": "5M", "shrink": True}),
        ("data.raw", {"state": "absent"}),
        ("base.qcow2", {"size": "20M", "allow_dependents": True}),
        ("base.qcow2", {"state": "absent", "force": True, "allow_dependents": True}),
    ]
    before = tree_state(images)
    for name, params in attempts:
        for check in (True, False):
            result = refused(images / name, uri=hv.uri, check=check, **params)
            assert f"running domain {running.name}" in result["msg"]
            assert {user["domain"] for user in result["in_use_by"]} == {running.name}
            assert all(user["running"] for user in result["in_use_by"])
    assert tree_state(images) == before


def test_an_image_of_a_running_guest_that_is_as_wanted_is_no_change(
    hv: Hypervisor, images: Path, running: Guest
) -> None:
    before = tree_state(images)
    wanted: dict[str, Any] = {"size": "10M", "mode": "0600", "owner": "1234", "uri": hv.uri}
    assert not done(images / "disk.qcow2", **wanted)["changed"], "libvirt owns it for the time"
    assert not done(images / "data.raw", format="raw", **wanted)["changed"]
    assert tree_state(images) == before


def test_a_guests_lock_is_respected_where_libvirt_does_not_know_the_guest(images: Path, running: Guest) -> None:
    before = tree_state(images)
    for name, params in (("disk.qcow2", {"state": "absent"}), ("data.raw", {"format": "raw", "size": "20M"})):
        result = refused(images / name, **params)
        assert "in use by a process that libvirt does not know" in result["msg"]
        assert result["in_use_by"] == []
    overlay_of_it = {"backing_file": str(images / "data.raw"), "backing_format": "raw"}
    assert "is open for writing" in refused(images / "clone", **overlay_of_it)["msg"]
    assert tree_state(images) == before


def test_a_base_that_running_guests_only_read_gets_another_overlay(
    hv: Hypervisor, images: Path, running: Guest
) -> None:
    clone = {"backing_file": str(images / "base.qcow2"), "backing_format": "qcow2", "uri": hv.uri}
    assert done(images / "clone.qcow2", **clone)["changed"]
    assert not done(images / "clone.qcow2", **clone)["changed"]


def test_a_shareable_disk_of_a_running_guest_is_known_by_libvirt(
    hv: Hypervisor, images: Path, make_domain: MakeDomain
) -> None:
    """QEMU takes no exclusive lock on it (HAZARDS B4)."""
    disk = create(images / "shared.raw", "raw")
    guest = make_domain([Disk(disk, "raw", shareable=True)])
    hv.start(guest.name)
    before = tree_state(images)
    result = refused(disk, format="raw", size="20M", uri=hv.uri)
    assert guest.name in result["msg"]
    assert tree_state(images) == before


def test_the_disk_of_a_domain_that_is_off_may_grow_and_is_removed_only_by_force(
    hv: Hypervisor, images: Path, make_domain: MakeDomain
) -> None:
    disk = create(images / "disk.qcow2")
    guest = make_domain([Disk(disk, "qcow2")])
    assert done(disk, size="20M", uri=hv.uri)["changed"]
    before = tree_state(images)
    result = refused(disk, state="absent", uri=hv.uri)
    assert f"defined domain {guest.name} (disk vda)" in result["msg"]
    assert [(user["domain"], user["running"]) for user in result["in_use_by"]] == [(guest.name, False)]
    assert tree_state(images) == before
    assert done(disk, state="absent", force=True, uri=hv.uri)["changed"]
    assert not disk.exists()


def test_a_link_to_a_domains_disk_is_that_disk(hv: Hypervisor, images: Path, make_domain: MakeDomain) -> None:
    disk, link = create(images / "disk.qcow2"), images / "link.qcow2"
    link.symlink_to(disk.name)
    guest = make_domain([Disk(link, "qcow2")])
    for path in (disk, link):
        assert guest.name in refused(path, state="absent", uri=hv.uri)["msg"]
    assert names(images) == ["disk.qcow2", "link.qcow2"]


def test_an_image_that_a_process_has_open_is_left_alone(tmp_path: Path) -> None:
    path = create(tmp_path / "disk")
    with opened_by_a_process(path):
        before = tree_state(tmp_path)
        assert "in use by a process" in refused(path, size="20M")["msg"]
        assert "in use by a process" in refused(path, state="absent", force=True)["msg"]
        assert not done(path, size="10M")["changed"]
        assert tree_state(tmp_path) == before
    assert done(path, size="20M")["changed"]


# --- dependents -------------------------------------------------------------------------------------------------


def plain(directory: Path, base: Path) -> Path:
    return overlay(directory / "clone.qcow2", str(base))


def relative(directory: Path, base: Path) -> Path:
    return overlay(directory / "clone.qcow2", os.path.relpath(base, directory))


def through_a_link(directory: Path, base: Path) -> Path:
    link = directory / "golden-link"
    link.symlink_to(base)
    return overlay(directory / "clone.qcow2", str(link))


def with_a_dotted_name(directory: Path, base: Path) -> Path:
    return overlay(directory / ".clone", f"{base.parent}/../{base.parent.name}/./{base.name}")


def in_qed(directory: Path, base: Path) -> Path:
    clone = directory / "clone.qed"
    qemu_img("create", "-q", "-f", "qed", "-b", str(base), "-F", "qcow2", clone)
    return clone


def as_data_file(directory: Path, base: Path) -> Path:
    data = directory / "its.data"
    create(directory / "clone.qcow2", "qcow2", MIB, "-o", f"data_file={data}")
    data.unlink()
    os.link(base, data)
    return directory / "clone.qcow2"


@pytest.mark.parametrize("make", [plain, relative, through_a_link, with_a_dotted_name, in_qed, as_data_file])
def test_a_base_with_an_overlay_beside_it_is_neither_changed_nor_removed(make: Any, tmp_path: Path) -> None:
    base = create(tmp_path / "golden.qcow2")
    clone = make(tmp_path, base)
    before = tree_state(tmp_path)
    for params in ({"size": "20M"}, {"state": "absent", "force": True}):
        result = refused(base, **params)
        assert result["dependents"] == [str(clone)]
        assert "allow_dependents=true" in result["msg"]
    assert tree_state(tmp_path) == before


def test_check_mode_predicts_that_a_base_is_left_alone(tmp_path: Path) -> None:
    base = create(tmp_path / "golden.qcow2")
    clone = plain(tmp_path, base)
    for params in ({"size": "20M"}, {"lazy_refcounts": True}, {"state": "absent"}):
        assert refused(base, check=True, **params)["dependents"] == [str(clone)]
    assert not done(base, size="10M")["changed"], "what is as wanted is no write"


def test_dependents_are_given_up_only_when_the_task_says_so(tmp_path: Path) -> None:
    base = create(tmp_path / "golden.qcow2")
    plain(tmp_path, base)
    assert done(base, size="20M", allow_dependents=True)["changed"]
    assert done(base, state="absent", allow_dependents=True)["changed"]
    assert names(tmp_path) == ["clone.qcow2"]


def test_overlays_are_found_in_search_paths(tmp_path: Path) -> None:
    (tmp_path / "clones").mkdir()
    base = create(tmp_path / "golden.qcow2")
    clone = relative(tmp_path / "clones", base)
    before = tree_state(tmp_path)
    found = refused(base, state="absent", search_paths=[str(tmp_path / "clones")])
    assert found["dependents"] == [str(clone)]
    assert "search_paths" in refused(base, state="absent", search_paths=[str(tmp_path / "misspelt")])["msg"]
    assert tree_state(tmp_path) == before


def test_overlays_are_found_in_libvirts_pools(hv: Hypervisor, images: Path, pool: Path) -> None:
    base = create(images / "golden.qcow2")
    clone = plain(pool, base)
    before = tree_state(images)
    assert refused(base, state="absent", uri=hv.uri)["dependents"] == [str(clone)]
    assert tree_state(images) == before


def test_overlays_of_domains_are_found_wherever_they_are(hv: Hypervisor, images: Path, make_domain: MakeDomain) -> None:
    (images / "elsewhere").mkdir(mode=0o711)
    base = create(images / "golden.qcow2")
    guest = make_domain([Disk(plain(images / "elsewhere", base), "qcow2")])
    before = tree_state(images)
    assert f"{guest.name} (backing file of vda)" in refused(base, state="absent", uri=hv.uri)["msg"]
    assert "1 image(s) read it" in refused(base, size="20M", uri=hv.uri)["msg"]
    assert tree_state(images) == before


def test_many_dependents_are_counted_and_all_returned(tmp_path: Path) -> None:
    base = create(tmp_path / "golden.qcow2")
    clones = [overlay(tmp_path / f"clone{number}.qcow2", "golden.qcow2") for number in range(8)]
    result = refused(base, state="absent")
    assert result["dependents"] == [str(clone) for clone in clones]
    assert "8 image(s) read it" in result["msg"]
    assert "and 3 more" in result["msg"]


# --- pools ------------------------------------------------------------------------------------------------------


def test_a_pool_sees_what_comes_and_goes(hv: Hypervisor, pool: Path) -> None:
    path = pool / "disk.qcow2"
    assert done(path, size="2M", uri=hv.uri)["changed"]
    assert volumes(hv, pool) == ["disk.qcow2"]
    assert done(path, state="absent", uri=hv.uri)["changed"]
    assert volumes(hv, pool) == []


def test_a_guest_boots_with_a_disk_that_the_module_made(hv: Hypervisor, images: Path, make_domain: MakeDomain) -> None:
    disk = images / "disk.qcow2"
    done(disk, size="24M", allocation="lazy_zeroed_thick", uri=hv.uri)
    guest = make_domain([Disk(disk, "qcow2")], start=True)
    assert guest.disk_size("vda") == info(disk)["virtual-size"] == 24 * MIB
