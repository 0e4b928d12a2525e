# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""No module writes, replaces or removes an image that others read, wherever those are known."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import libvirt
import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._files import base_note as _base_note
from lab import Disk, Hypervisor, run_module, tree_state
from lab.fixtures import MakeDomain
from support.damage import leak
from support.image_tools import MIB, NOBODY, create, overlay, qemu_img, qemu_io
from unit.test_architecture import MODULES

#: A clone, and its disk, which other images read in turn.
CLONE = "second-golden"
DISK = f"{CLONE}.qcow2"
#: What each module is asked that would write, replace or remove a base: the name of the base, and the parameters that
#: come to its path; a module for domains gets the one whose disk it is.
WRITES: list[tuple[str, str, dict[str, Any]]] = [
    ("qcow2_image", "full", {"size": "20M"}),
    ("qcow2_image", "full", {"lazy_refcounts": True}),
    ("qcow2_image", "full", {"state": "absent", "force": True}),
    ("qcow2_image", "plain", {"size": "5M", "shrink": True}),
    ("qcow2_image", "plain", {"backing_file": "BASE/../other", "backing_format": "qcow2"}),
    ("qcow2_check", "full", {"repair": "leaks"}),
    ("qcow2_snapshot", "full", {"snapshot": "after"}),
    ("qcow2_snapshot", "full", {"snapshot": "before", "state": "absent"}),
    ("qcow2_snapshot", "full", {"snapshot": "before", "state": "reverted"}),
    ("qcow2_convert", "plain", {"dest": "BASE.raw", "format": "raw", "remove_src": True}),
    ("qcow2_convert", "plain", {"src": "BASE/../other", "dest": "BASE", "update": "always"}),
    ("vm_disk_convert", DISK, {"format": "raw", "keep_source": False}),
    ("vm_disk_resize", DISK, {"size": "20M"}),
    ("vm_disk", DISK, {"size": "20M"}),
    ("vm_disk", DISK, {"path": "BASE", "state": "absent", "remove_image": True, "force": True}),
    ("vm_linked_clone", DISK, {"state": "absent"}),
    ("qcow2_commit", "merged", {"path": "BASE/../top"}),
]
BASES = ("full", "plain", "merged", DISK)
#: Modules that write no image which others may read.
READS_ONLY = {
    "qcow2_compare",
    "qcow2_image_info",
    "storage_capacity_info",
    "vm_disk_backup",
    "vm_disk_backup_info",
    "vm_disk_info",
    "vm_disk_restore",
}
#: What is written has the same content for those who read it: the image of a clone gets what it read from its base, and
#: what is reclaimed was not read. And a bitmap only tells what was written; that of an overlay is copied into its base
#: before a merge.
KEEPS_CONTENT = {"qcow2_bitmap", "vm_disk_flatten", "vm_disk_reclaim"}
#: Writes the base by merging a snapshot into it, which has to be taken first.
MERGES = {"vm_disk_snapshot"}


@dataclass
class Place:
    """Bases, one of them the disk of a domain that was cloned from *golden*, and how their overlays are known."""

    hv: Hypervisor
    images: Path
    make_domain: MakeDomain
    stack: contextlib.ExitStack
    params: dict[str, Any] = field(default_factory=dict)
    golden: str = ""

    @property
    def bases(self) -> list[Path]:
        return [self.images / "bases" / name for name in BASES]

    def asked(self, module: str, name: str, params: dict[str, Any]) -> dict[str, Any]:
        """The parameters of a row of WRITES, in full."""
        base = str(self.images / "bases" / name)
        whole = {key: _path(value, base) if isinstance(value, str) else value for key, value in params.items()}
        if module == "vm_linked_clone":
            whole = {"source": self.golden, "clones": [{"name": CLONE}], **whole}
        elif module.startswith("vm_"):
            whole = {"name": CLONE, "disk": "vda", **whole}
        elif module == "qcow2_convert":
            whole = {"src": base, "src_format": "qcow2", **whole}
        else:
            whole = {"path": base, **whole}
        return {**whole, **self.params, "uri": self.hv.uri}

    def overlays(self, directory: str) -> list[Path]:
        """An overlay of each base."""
        place = self.images / directory
        place.mkdir(mode=0o711)
        return [overlay(place / f"on-{base.name}", str(base)) for base in self.bases]

    def clone(self) -> None:
        """Makes the clone whose disk is one of the bases."""
        self.golden = self.make_domain([Disk(create(self.images / "disk.qcow2"), "qcow2")], kernel=False).name
        params = {"source": self.golden, "clones": [{"name": CLONE}], "mode": "full"}
        self.stack.callback(self.hv.remove, CLONE)
        where = {"disk_dir": str(self.bases[0].parent), "uri": self.hv.uri}
        assert run_module("vm_linked_clone", {**params, **where}).get("changed")

    def domain(self, paths: list[Path]) -> str:
        disks = [Disk(path, "qcow2", target) for path, target in zip(paths, ("vda", "vdb", "vdc", "vdd"))]
        return self.make_domain(disks, name="clone", kernel=False).name


def _path(value: str, base: str) -> str:
    return os.path.normpath(value.replace("BASE", base)) if value.startswith("BASE") else value


def beside_it(place: Place) -> None:
    for base in place.bases:
        overlay(base.with_name(f"on-{base.name}"), base.name)


def in_a_named_directory(place: Place) -> None:
    place.params["search_paths"] = [str(place.overlays("far")[0].parent)]


def where_it_is_noted(place: Place) -> None:
    for base, path in zip(place.bases, place.overlays("far")):
        _base_note.protect(str(base), [str(path)])


def in_a_pool(place: Place, *, active: bool = True) -> None:
    directory = place.overlays("pool")[0].parent
    name = f"pool-{place.images.name}"
    place.hv.pool(name, directory)
    connection = place.stack.enter_context(contextlib.closing(place.hv.connect()))
    pool = connection.storagePoolLookupByName(name)
    place.stack.callback(pool.undefine)
    if active:
        place.stack.callback(pool.destroy)
    else:
        pool.destroy()


def in_a_pool_that_is_not_started(place: Place) -> None:
    in_a_pool(place, active=False)


def in_a_domain_that_is_off(place: Place) -> None:
    place.domain(place.overlays("far"))


def in_a_snapshot_of_a_domain(place: Place) -> None:
    """The domain has other disks now than it had when the snapshot was taken."""
    paths = place.overlays("far")
    name = place.domain(paths)
    with contextlib.closing(place.hv.connect()) as connection:
        domain = connection.lookupByName(name)
        domain.snapshotCreateXML("<domainsnapshot><name>before</name></domainsnapshot>")
        xml = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
        for path in paths:
            xml = xml.replace(str(path), str(create(path.with_name(f"new-{path.name}"), "qcow2", MIB)))
        connection.defineXML(xml)


def in_a_running_domain_without_definition(place: Place) -> None:
    name = place.domain(place.overlays("far"))
    with contextlib.closing(place.hv.connect()) as connection:
        domain = connection.lookupByName(name)
        domain.create()
        domain.undefine()


PLACES = [
    beside_it,
    in_a_named_directory,
    where_it_is_noted,
    in_a_pool,
    in_a_pool_that_is_not_started,
    in_a_domain_that_is_off,
    in_a_snapshot_of_a_domain,
    in_a_running_domain_without_definition,
]


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image with a snapshot, written to since, and with leaked clusters."""
    path = create(tmp_path_factory.mktemp("golden") / "full", "qcow2", 10 * MIB)
    qemu_io(path, "write -P 0x11 1M 1M")
    qemu_img("snapshot", "-c", "before", path)
    qemu_io(path, "write -P 0x22 1M 512k")
    leak(path)
    return path


@pytest.fixture
def place(hv: Hypervisor, images: Path, make_domain: MakeDomain, golden: Path) -> Iterator[Place]:
    with contextlib.ExitStack() as stack:
        found = Place(hv, images, make_domain, stack)
        (images / "bases").mkdir(mode=0o711)
        full, plain, merged, _disk = found.bases
        shutil.copyfile(golden, full)
        create(plain, "qcow2", 10 * MIB)
        shutil.copyfile(plain, images / "bases" / "other")
        overlay(merged.with_name("top"), create(merged, "qcow2", 10 * MIB).name)
        qemu_io(merged.with_name("top"), "write -P 0x55 0 64k")
        yield found


@pytest.mark.parametrize("arrange", PLACES)
def test_a_base_with_an_overlay_is_left_alone_by_every_module(place: Place, arrange: Callable[[Place], None]) -> None:
    place.clone()
    arrange(place)
    before = tree_state(place.images)
    for module, base, params in WRITES:
        asked = place.asked(module, base, params)
        for check in (True, False) if arrange is in_a_named_directory else (False,):
            result = run_module(module, asked, check=check)
            assert result.get("failed"), f"{module} {asked}: {result}"
            facts = result["failed_clones"][0] if "failed_clones" in result else result
            users = [user["domain"] for user in facts.get("in_use_by", [])]
            by_name = facts.get("dependents") == [str(path) for path in place.images.rglob(f"on-{base}")]
            assert by_name or any(user.startswith("clone") for user in users), f"{module} {asked}: {result}"
        assert tree_state(place.images) == before, f"{module} {asked} wrote something"


@pytest.mark.parametrize(
    "arrange", [beside_it, where_it_is_noted, in_a_pool_that_is_not_started, in_a_snapshot_of_a_domain]
)
def test_no_snapshot_is_merged_into_a_base_with_another_overlay(place: Place, arrange: Callable[[Place], None]) -> None:
    place.clone()
    asked = {"name": CLONE, "snapshot": "s", "uri": place.hv.uri}
    assert run_module("vm_disk_snapshot", asked).get("changed")
    arrange(place)
    before = tree_state(place.images)
    result = run_module("vm_disk_snapshot", {**asked, "state": "absent"})
    assert result.get("failed"), result
    users = [user["domain"] for user in result.get("in_use_by", [])]
    by_name = result.get("dependents") == [str(path) for path in place.images.rglob(f"on-{DISK}")]
    assert by_name or any(user.startswith("clone") for user in users), result
    assert tree_state(place.images) == before


def test_every_module_that_writes_images_is_asked() -> None:
    assert {module for module, _base_note, _params in WRITES} | READS_ONLY | KEEPS_CONTENT | MERGES == {*MODULES}


@pytest.mark.parametrize("row", range(len(WRITES)))
def test_each_of_these_would_have_been_done_for_an_image_that_nobody_reads(place: Place, row: int) -> None:
    """So it is for the sake of the overlays alone that they are refused."""
    module, base, params = WRITES[row]
    if base == DISK:
        place.clone()
    result = run_module(module, place.asked(module, base, params))
    assert result.get("changed"), f"{module}: {result}"


# --- bases of linked clones ---------------------------------------------------------------------------------------


@dataclass
class Golden:
    """A domain that is off, and linked clones of it in another directory."""

    hv: Hypervisor
    name: str
    image: Path
    directory: Path

    def clones(self, *names: str, **params: Any) -> dict[str, Any]:
        asked = {"source": self.name, "clones": [{"name": name} for name in names], "disk_dir": str(self.directory)}
        result = run_module("vm_linked_clone", {**asked, "uri": self.hv.uri, **params})
        assert not result.get("failed"), result["msg"]
        return result

    def info(self, path: Path | None = None, **params: Any) -> dict[str, Any]:
        """What is said of the base where no libvirt answers, and nobody names the clones' directory."""
        asked = {"paths": [str(path or self.image)], "dependents": True, "uri": NOBODY, **params}
        image = run_module("qcow2_image_info", asked)["images"][0]
        return {name: image[name] for name in ("dependents", "protected_base", "unused_base")}

    def paths(self, *names: str) -> list[str]:
        return [str(self.directory / f"{name}.qcow2") for name in names]


@pytest.fixture
def source(hv: Hypervisor, images: Path, make_domain: MakeDomain) -> Iterator[Golden]:
    image = create(images / "golden.qcow2")
    image.chmod(0o664)
    name = make_domain([Disk(image, "qcow2")], name="golden", kernel=False).name
    (images / "clones").mkdir(mode=0o711)
    yield Golden(hv, name, image, images / "clones")
    for clone in ("one", "two"):
        hv.remove(clone)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def test_a_base_is_read_only_until_its_last_clone_has_gone(source: Golden) -> None:
    assert source.info() == {"dependents": [], "protected_base": False, "unused_base": False}
    source.clones("one", "two")
    assert source.info() == {"dependents": source.paths("one", "two"), "protected_base": True, "unused_base": False}
    source.clones("one", state="absent")
    assert (source.info()["dependents"], mode(source.image)) == (source.paths("two"), 0o444)
    source.clones("two", state="absent")
    assert source.info() == {"dependents": [], "protected_base": False, "unused_base": True}
    assert mode(source.image) == 0o664
    told = run_module("qcow2_image_info", {"paths": [str(source.image)], "dependents": True, "uri": NOBODY})
    assert told["images"][0]["unused_since"].startswith("20")


def test_a_base_whose_clones_were_removed_by_hand_is_unused(source: Golden) -> None:
    source.clones("one")
    source.hv.remove("one")
    (source.directory / "one.qcow2").unlink()
    assert source.info() == {"dependents": [], "protected_base": True, "unused_base": True}
    assert mode(source.image) == 0o444, "whoever looks changes nothing"


def test_what_was_never_cloned_is_no_unused_base(source: Golden) -> None:
    by_hand = overlay(source.image.with_name("by-hand"), source.image.name)
    assert source.info()["dependents"] == [str(by_hand)]
    by_hand.unlink()
    assert source.info() == {"dependents": [], "protected_base": False, "unused_base": False}


def test_the_machine_of_a_protected_base_does_not_start(source: Golden) -> None:
    source.clones("one")
    with contextlib.closing(source.hv.connect()) as connection, pytest.raises(libvirt.libvirtError, match="denied"):
        connection.lookupByName(source.name).create()
    source.clones("one", state="absent")
    source.hv.start(source.name)


def test_a_machine_that_runs_on_a_base_is_warned_of(source: Golden) -> None:
    source.clones("one", protect_base=False)
    asked = {"names": [source.name, "one"], "uri": source.hv.uri}
    found = run_module("vm_disk_info", asked)
    assert [disk["dependents"] for disk in found["disks"]] == [source.paths("one"), []]
    assert "warnings" not in found, "it is off"
    source.hv.start(source.name)
    warning = str(run_module("vm_disk_info", asked)["warnings"][0])
    assert f"{source.name} is running on {source.image} (vda), which 1 image(s) read" in warning
    assert source.paths("one")[0] in warning


def test_a_base_is_removed_with_what_is_noted_of_it(source: Golden) -> None:
    source.clones("one")
    asked = {"path": str(source.image), "state": "absent", "force": True, "uri": source.hv.uri}
    assert run_module("qcow2_image", asked)["dependents"] == source.paths("one")
    assert run_module("qcow2_image", {**asked, "allow_dependents": True})["changed"]
    assert sorted(path.name for path in source.image.parent.iterdir()) == ["clones"]
