# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""storage_capacity_info: what file systems and pools have, hold and promise, each image counted once."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest
from lab import Disk, Hypervisor
from lab.fixtures import MakeDomain
from lab.module import run_module
from lab.tree import tree_state
from support.effort import run_within
from support.file_systems import in_memory, mounted
from support.image_tools import NOBODY, SILENT, allocated, create, overlay, qemu_img
from support.scene import MIB, make_image, unchanged

MODULE = "storage_capacity_info"
Module = Callable[..., dict[str, Any]]
Facts = dict[str, Any]


@pytest.fixture
def small(images: Path) -> Iterator[Path]:
    """A file system of 40 MiB, with nothing on it."""
    with in_memory(images / "small", 40) as place:
        yield place


def look(*paths: Path, **params: Any) -> list[Facts]:
    """The file systems as the module returns them where no libvirt answers."""
    wish = {"paths": [str(path) for path in paths], "uri": NOBODY, **params}
    before = [tree_state(path) for path in paths if path.is_dir()]
    found = run_module(MODULE, wish)
    assert not found.get("failed"), found["msg"]
    assert found["changed"] is False
    assert [tree_state(path) for path in paths if path.is_dir()] == before
    return list(found["filesystems"])


def only(found: list[Facts]) -> Facts:
    assert len(found) == 1, [one["mount"] for one in found]
    return found[0]


def promised(system: Facts) -> dict[str, int]:
    """What each image adds, by its name."""
    assert system["promised"] == sum(image["promised"] for image in system["images"])
    return {os.path.basename(image["path"]): image["promised"] for image in system["images"]}


def by_name(system: Facts) -> dict[str, Facts]:
    return {os.path.basename(image["path"]): image for image in system["images"]}


def below(directory: Path, system: Facts) -> Facts:
    """SYSTEM with nothing but the images below DIRECTORY: others may lie on it, which are no business of the test."""
    images = [image for image in system["images"] if image["path"].startswith(f"{directory}/")]
    return {**system, "images": images, "promised": sum(image["promised"] for image in images)}


def reflinked(source: Path, copy: Path) -> Path:
    subprocess.run(["cp", "--reflink=always", source, copy], check=True)
    subprocess.run(["sync", "-f", copy], check=True)
    return copy


def full(path: Path, mib: int) -> Path:
    path.write_bytes(os.urandom(mib * MIB))
    subprocess.run(["sync", "-f", path], check=True)
    return path


# --- one file system --------------------------------------------------------------------------------------------


def test_a_file_system_is_described_as_the_kernel_does(small: Path) -> None:
    create(small / "thin.qcow2", "qcow2", 20 * MIB)
    full(small / "thick.raw", 8)
    system = only(look(small))
    used = int(subprocess.run(["df", "--output=used", "-B1", small], capture_output=True, check=True).stdout.split()[1])
    assert (system["mount"], system["device"], system["type"]) == (str(small), "images", "tmpfs")
    assert (system["size"], system["used"], system["available"]) == (40 * MIB, used, 40 * MIB - used)
    assert promised(system) == {"thin.qcow2": 20 * MIB, "thick.raw": 8 * MIB}
    assert (system["ratio"], system["limit"], system["over_limit"]) == (0.7, 1.2, False)
    assert only(look(small, limit=0.69))["over_limit"]
    assert not only(look(small, limit=0.7))["over_limit"]
    create(small / "more.raw", "raw", 21 * MIB)
    system = only(look(small))
    assert (system["ratio"], system["over_limit"]) == (1.225, True)


def test_an_image_counts_once_whatever_leads_to_it(small: Path, images: Path) -> None:
    path = create(small / "a.raw", "raw", 10 * MIB)
    (small / "below").mkdir()
    os.link(path, small / "below" / "b.raw")
    (small / "c.raw").symlink_to(path)
    (images / "link").symlink_to(small)
    system = only(look(small, images / "link", small / "below", small / "c.raw", recurse=True))
    assert list(promised(system).values()) == [10 * MIB]


def test_a_chain_promises_the_disk_of_its_top_and_what_is_below_it_holds(small: Path) -> None:
    base = make_image(small / "base.qcow2", "qcow2", mib=2)
    for name in ("one", "two"):
        overlay(small / f"{name}.qcow2", base)
    overlay(small / "top.qcow2", small / "two.qcow2")
    system = only(look(small))
    held = {name: allocated(small / name) for name in ("base.qcow2", "two.qcow2")}
    assert promised(system) == {**held, "one.qcow2": 8 * MIB, "top.qcow2": 8 * MIB}
    assert 2 * MIB <= held["base.qcow2"] < 8 * MIB
    images = by_name(system)
    assert [images[name]["grows"] for name in ("base.qcow2", "two.qcow2", "one.qcow2")] == [False, False, True]
    assert images["base.qcow2"]["dependents"] == [str(small / "one.qcow2"), str(small / "two.qcow2")]
    assert images["top.qcow2"]["backing_file"] == str(small / "two.qcow2")
    assert images["base.qcow2"]["writable"]
    base.chmod(0o444)
    assert not by_name(only(look(small)))["base.qcow2"]["writable"]


def test_an_overlay_counts_where_it_lies_and_its_base_where_that_does(small: Path, images: Path) -> None:
    base = make_image(small / "base.raw", mib=2)
    with in_memory(images / "fast", 16) as fast:
        overlay(fast / "clone.qcow2", base, "raw")
        alone = only(look(fast))
        assert (alone["mount"], promised(alone)) == (str(fast), {"clone.qcow2": 8 * MIB})
        both = {system["mount"]: promised(system) for system in look(fast, small)}
    assert both == {str(fast): {"clone.qcow2": 8 * MIB}, str(small): {"base.raw": 2 * MIB}}


def test_a_base_in_another_directory_is_counted_and_never_opened(small: Path) -> None:
    for name in ("golden", "clones"):
        (small / name).mkdir()
    base = make_image(small / "golden" / "base.qcow2", "qcow2", mib=2)
    overlay(small / "clones" / "a.qcow2", base)
    os.utime(base, (1, 1))
    os.chmod(base, 0)
    system = only(look(small / "clones"))
    assert promised(system) == {"a.qcow2": 8 * MIB, "base.qcow2": allocated(base)}
    assert by_name(system)["base.qcow2"]["format"] is None
    assert base.stat().st_atime == 1


def test_an_image_that_holds_more_than_its_disk_promises_that(small: Path) -> None:
    path = make_image(small / "disk.qcow2", "qcow2", mib=4, size_mib=4)
    for number in range(2):
        qemu_img("snapshot", "-c", f"s{number}", path)
        command = f"write -P {number + 1} 0 {4 * MIB}"
        subprocess.run(["qemu-io", "-f", "qcow2", "-c", command, path], check=True, capture_output=True)
    assert promised(only(look(small))) == {"disk.qcow2": allocated(path)}
    assert allocated(path) > 12 * MIB


def test_a_preallocated_image_counts_what_it_holds(small: Path) -> None:
    path = create(small / "thick.qcow2", "qcow2", 8 * MIB, "-o", "preallocation=full")
    assert promised(only(look(small))) == {"thick.qcow2": allocated(path)}
    assert allocated(path) > 8 * MIB


def test_an_external_data_file_promises_in_the_place_of_its_image(small: Path) -> None:
    (small / "data").mkdir()
    path = small / "disk.qcow2"
    create(path, "qcow2", 20 * MIB, "-o", f"data_file={small}/data/disk.raw")
    assert promised(only(look(small))) == {"disk.qcow2": allocated(path), "disk.raw": 20 * MIB}
    assert promised(only(look(small, recurse=True))) == {"disk.qcow2": allocated(path), "disk.raw": 20 * MIB}


def test_directories_below_count_where_that_is_asked_and_links_are_not_followed(small: Path, images: Path) -> None:
    (small / "a" / "b").mkdir(parents=True)
    create(small / "a" / "b" / "deep.raw", "raw", 2 * MIB)
    (images / "elsewhere").mkdir()
    create(images / "elsewhere" / "far.raw", "raw", MIB)
    (small / "link").symlink_to(images / "elsewhere")
    with in_memory(small / "other", 8) as other:
        create(other / "other.raw", "raw", MIB)
        assert promised(only(look(small))) == {}
        assert promised(only(look(small, recurse=True))) == {"deep.raw": 2 * MIB}


def test_broken_images_are_told_one_by_one(small: Path) -> None:
    (small / "torn.qcow2").write_bytes(b"QFI\xfb" + bytes(4096 - 4))
    (small / "notes.txt").write_text("not an image\n")
    (small / "empty.raw").touch()
    base = make_image(small / "base.qcow2", "qcow2")
    overlay(small / "orphan.qcow2", base)
    base.unlink()
    os.mkfifo(small / "fifo")
    (small / "nowhere").symlink_to("gone")
    images = by_name(only(look(small)))
    assert sorted(images) == ["empty.raw", "orphan.qcow2", "torn.qcow2"], "notes.txt is no image"
    assert images["orphan.qcow2"]["problem"] == f"{small}/orphan.qcow2: it needs {base}, which is missing"
    assert images["orphan.qcow2"]["missing"] == [str(base)]
    assert images["orphan.qcow2"]["promised"] == 8 * MIB
    assert "torn.qcow2" in images["torn.qcow2"]["problem"]
    assert (images["torn.qcow2"]["format"], images["torn.qcow2"]["promised"]) == (None, 4096)
    assert images["empty.raw"]["problem"] is None


@pytest.mark.parametrize("name", ["a b", "a,b", "a:b", "-a", "a\\b", "ä", "<script>"])
def test_odd_names_are_just_names(name: str, small: Path) -> None:
    (small / name).mkdir()
    base = create(small / name / f"{name}.qcow2", "qcow2", MIB)
    overlay(small / name / f"{name} over.qcow2", base)
    assert promised(only(look(small / name))) == {f"{name}.qcow2": allocated(base), f"{name} over.qcow2": MIB}
    with in_memory(small / f"{name} mount", 4) as place:
        assert only(look(place))["mount"] == str(place)


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"paths": ["relative"]}, "paths: 'relative' is relative"),
        ({"paths": ["/nonexistent/images"]}, "paths: /nonexistent/images does not exist: name a directory"),
        ({"paths": ["/"], "limit": 0}, "limit: 0 is not a ratio"),
        ({"paths": ["/"], "limit": "nan"}, "limit: nan is not a ratio"),
        ({"pools": ["default"]}, "cannot connect to libvirt"),
        ({}, "cannot connect to libvirt"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_the_reason(params: Facts, reason: str) -> None:
    found = run_module(MODULE, {"uri": SILENT, **params})
    assert found["failed"]
    assert reason in found["msg"]


def test_a_directory_that_may_not_be_read_is_told(small: Path, images: Path) -> None:
    (small / "closed").mkdir(mode=0)
    small.chmod(0o755)
    wish = {"uri": NOBODY, "recurse": True}
    found = run_module(MODULE, {**wish, "paths": [str(small)]}, as_user=65533)
    assert found["failures"] == [{"path": f"{small}/closed", "msg": "Permission denied"}]
    found = run_module(MODULE, {**wish, "paths": [f"{small}/closed"]}, as_user=65533)
    assert "closed cannot be read: the task runs as 65533" in found["msg"]
    assert "set become=true, or run it as a user who may" in found["msg"]


# --- file systems that share extents -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_what_images_share_counts_once_where_they_only_hold_it(kind: str, images: Path) -> None:
    with mounted(images / kind, kind) as place:
        base = full(place / "base.raw", 8)
        copy = reflinked(base, place / "copy.raw")
        alone = full(place / "alone.raw", 2)
        growing = by_name(only(look(place)))
        assert [growing[name]["promised"] for name in ("base.raw", "copy.raw")] == [8 * MIB, 8 * MIB]
        assert [growing[path.name]["shared_size"] for path in (base, copy, alone)] == [8 * MIB, 8 * MIB, 0]

        for path in (base, copy):
            overlay(path.with_suffix(".qcow2"), path, "raw")
        held = by_name(only(look(place)))
        assert [held[path.name]["promised"] for path in (base, copy)] == [8 * MIB, 0]
        assert [held[path.name]["actual_size"] for path in (base, copy)] == [8 * MIB, 8 * MIB]

        with copy.open("r+b") as stream:  # it parts from the other in its first two mebibytes
            stream.write(os.urandom(2 * MIB))
        subprocess.run(["sync", "-f", copy], check=True)
        parted = by_name(only(look(place)))
        assert [parted[path.name]["promised"] for path in (base, copy)] == [8 * MIB, 2 * MIB]


def test_subvolumes_of_btrfs_are_one_file_system(images: Path) -> None:
    with mounted(images / "pool", "btrfs") as place:
        for name in ("one", "two"):
            subprocess.run(["btrfs", "-q", "subvolume", "create", place / name], check=True)
            create(place / name / f"{name}.raw", "raw", 4 * MIB)
        assert (place / "one").stat().st_dev != (place / "two").stat().st_dev
        system = only(look(place / "one", place / "two"))
        assert (system["mount"], promised(system)) == (str(place), {"one.raw": 4 * MIB, "two.raw": 4 * MIB})
        assert promised(only(look(place, recurse=True))) == {"one.raw": 4 * MIB, "two.raw": 4 * MIB}


def test_where_nothing_can_be_shared_nothing_is_said_of_it(images: Path) -> None:
    with mounted(images / "plain", "ext4", 16) as place:
        full(place / "disk.raw", 1)
        assert by_name(only(look(place)))["disk.raw"]["shared_size"] is None


# --- libvirt ----------------------------------------------------------------------------------------------------


def test_images_are_found_where_domains_and_pools_have_them(
    hv: Hypervisor, module: Module, images: Path, make_domain: MakeDomain
) -> None:
    for name in ("of a domain", "of a pool", "unknown", "named"):
        (images / name).mkdir(mode=0o711)
        make_image(images / name / f"{name}.raw", mib=1)
    liar = create(images / "of a domain" / "liar.raw", "qcow2", 100 * MIB)
    disks = [Disk(images / "of a domain" / "of a domain.raw"), Disk(liar, target="vdb")]
    domain = make_domain(disks, kernel=False).name
    hv.pool("of-files", images / "of a pool")
    try:
        with unchanged(hv, images, domain):
            found = module(MODULE, {"paths": [str(images / "named")], "uri": hv.uri})
        system = below(images, only(found["filesystems"]))
        assert promised(system) == {
            "liar.raw": max(liar.stat().st_size, allocated(liar)),
            **{f"{name}.raw": 8 * MIB for name in ("of a domain", "of a pool", "named")},
        }
        assert by_name(system)["liar.raw"]["format"] == "raw"
        assert by_name(system)["of a domain.raw"]["domains"] == [domain]
        assert system["pools"] == []

        pool = below(images, only(module(MODULE, {"pools": ["of-files"], "uri": hv.uri})["filesystems"]))
        everything = module(MODULE, {"uri": hv.uri})["filesystems"]
        here = below(images, next(one for one in everything if one["mount"] == system["mount"]))
        for one in (pool, here):
            assert one["pools"] == ["of-files"]
            assert promised(one) == {name: size for name, size in promised(system).items() if name != "named.raw"}
    finally:
        with contextlib.closing(hv.connect()) as connection:
            stopped = connection.storagePoolLookupByName("of-files")
            stopped.destroy()
            refused = module(MODULE, {"pools": ["of-files"], "uri": hv.uri})
            stopped.undefine()
    assert "of-files: the storage pool is not active: start it first" in refused["msg"]
    refused = module(MODULE, {"pools": ["of-files"], "uri": hv.uri})
    assert "of-files: cannot find the storage pool" in refused["msg"]


def test_a_disk_behind_a_link_counts_where_it_really_lies(
    hv: Hypervisor, module: Module, images: Path, small: Path, make_domain: MakeDomain
) -> None:
    (images / "link.raw").symlink_to(make_image(small / "disk.raw", mib=1))
    name = make_domain([Disk(images / "link.raw")], kernel=False).name
    found = {one["mount"]: one for one in module(MODULE, {"uri": hv.uri})["filesystems"]}
    assert list(promised(found[str(small)]).values()) == [8 * MIB]
    assert found[str(small)]["images"][0]["domains"] == [name]


def test_a_base_that_a_running_domain_writes_promises_its_disk(
    hv: Hypervisor, module: Module, images: Path, make_domain: MakeDomain
) -> None:
    base = make_image(images / "base.raw", mib=1)
    name = make_domain([Disk(base)], kernel=False).name
    overlay(images / "clone.qcow2", base, "raw")

    def found() -> dict[str, int]:
        return promised(below(images, only(module(MODULE, {"paths": [str(images)], "uri": hv.uri})["filesystems"])))

    assert found() == {"base.raw": MIB, "clone.qcow2": 8 * MIB}
    hv.start(name)
    assert found() == {"base.raw": 8 * MIB, "clone.qcow2": 8 * MIB}


def test_a_pool_without_files_is_counted_as_libvirt_tells() -> None:
    """libvirt's test driver has volume groups that nobody has to make."""
    with contextlib.closing(libvirt.open("test:///default")) as connection:
        capacity = connection.storagePoolLookupByName("default-pool").info()[1]
    definition = (
        "<node><pool type='logical'><name>vg</name><source><name>vg</name></source>"
        f"<target><path>/dev/vg</path></target><capacity>{capacity}</capacity>"
        "<volume><name>thin</name><capacity>90000</capacity><allocation>10</allocation>"
        "<target><format type='raw'/></target></volume>"
        "<volume><name>thick</name><capacity>10000</capacity><allocation>20000</allocation></volume></pool></node>"
    )
    path = Path("/tmp") / f"kvmops-test-driver-{os.getpid()}.xml"
    path.write_text(definition)
    try:
        found = run_module(MODULE, {"pools": ["vg"], "uri": f"test://{path}"})
    finally:
        path.unlink()
    system = only(found["filesystems"])
    assert (system["mount"], system["device"], system["type"], system["pools"]) == (None, "/dev/vg", "logical", ["vg"])
    assert promised(system) == {"thin": 90000, "thick": 20000}
    assert system["ratio"] == round(110000 / system["size"], 4)


# --- many -------------------------------------------------------------------------------------------------------


def test_a_thousand_images_are_counted_within_a_second_or_two(images: Path) -> None:
    base = create(images / "base.qcow2", "qcow2", MIB)
    first = overlay(images / "0.qcow2", base)
    for number in range(1, 1000):
        shutil.copyfile(first, images / f"{number}.qcow2")
    system = only(run_within(5, MODULE, {"paths": [str(images)], "uri": NOBODY})["filesystems"])
    ours = [image for image in system["images"] if re.fullmatch(rf"{images}/\d+\.qcow2", image["path"])]
    assert len(ours) == 1000
    assert by_name(system)["base.qcow2"]["promised"] == allocated(base)
    assert len(by_name(system)["base.qcow2"]["dependents"]) == 1000
