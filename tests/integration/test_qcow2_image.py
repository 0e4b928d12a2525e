# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qcow2_image makes an image, brings an existing one to what is wanted, and says what it cannot change."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from lab.tree import tree_state
from support.image_tools import (
    KIB,
    MIB,
    allocated,
    content,
    create,
    done,
    image,
    info,
    names,
    opened_by_a_process,
    overlay,
    predicted,
    qemu_img,
    qemu_io,
    refused,
    settled,
    specific,
)

FORMATS = ["raw", "qcow2", "qcow", "qed", "vmdk", "vdi", "vhdx", "vpc", "parallels"]


# --- creation ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
def test_an_image_is_made_in_every_format(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"disk.{name}"
    result = predicted(path, format=name, size="10M")
    assert result["actions"] == [f"create {name} image {path} of 10 MiB"]
    assert (info(path, name)["format"], info(path, name)["virtual-size"]) == (name, 10 * MIB)
    assert (result["image"]["format"], result["image"]["virtual_size"]) == (name, 10 * MIB)
    assert names(tmp_path) == [path.name]


@pytest.mark.parametrize("name", FORMATS)
def test_an_odd_number_of_sectors_is_kept_in_every_format(name: str, tmp_path: Path) -> None:
    size = MIB + 512
    done(tmp_path / "disk", format=name, size=str(size))
    assert not done(tmp_path / "disk", format=name, size=str(size))["changed"]
    assert info(tmp_path / "disk", name)["virtual-size"] == size


@pytest.mark.parametrize(
    ("params", "data", "written"),
    [
        ({}, False, False),
        ({"preallocation": "off"}, False, False),
        ({"allocation": "thin"}, False, False),
        ({"preallocation": "falloc"}, True, False),
        ({"allocation": "lazy_zeroed_thick"}, True, False),
        ({"preallocation": "full"}, True, True),
        ({"allocation": "eager_zeroed_thick"}, True, True),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["raw", "qcow2"])
def test_blocks_are_left_reserved_or_written_as_asked(
    name: str, params: dict[str, str], data: bool, written: bool, tmp_path: Path
) -> None:
    path = tmp_path / "disk"
    done(path, format=name, size="8M", **params)
    assert (allocated(path) >= 8 * MIB) is data
    assert (written_bytes(path) >= 8 * MIB) is written


def written_bytes(path: Path) -> int:
    """The bytes in extents that are not merely reserved (filefrag says "unwritten" of those)."""
    os.sync()
    listing = subprocess.run(["filefrag", "-v", "-b1", path], capture_output=True, text=True, check=True).stdout
    extents = [line.split(":") for line in listing.splitlines() if line.strip()[:1].isdigit() and line.count(":") >= 4]
    return sum(int(fields[3]) for fields in extents if "unwritten" not in fields[-1])


def test_metadata_preallocation_prepares_the_tables_and_not_the_data(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    result = done(path, size="64M", preallocation="metadata")
    assert path.stat().st_size > 64 * MIB
    assert allocated(path) < 2 * MIB
    (extent,) = json.loads(qemu_img("map", "--output=json", "-f", "qcow2", path))
    assert "offset" in extent, "every cluster has its place in the file"
    assert result["actions"] == [f"create qcow2 image {path} of 64 MiB, preallocation metadata"]


@pytest.mark.parametrize("text", ["512", "4K", "64KiB", "1M", "2M"])
def test_clusters_have_the_size_that_was_asked_for(text: str, tmp_path: Path) -> None:
    result = settled(tmp_path / "disk", size="4M", cluster_size=text)
    size = {"512": 512, "4K": 4 * KIB, "64KiB": 64 * KIB, "1M": MIB, "2M": 2 * MIB}[text]
    assert info(tmp_path / "disk")["cluster-size"] == result["image"]["cluster_size"] == size


@pytest.mark.parametrize(
    ("params", "facts"),
    [
        ({"compat": "0.10"}, {"compat": "0.10", "refcount-bits": 16}),
        ({"compat": "1.1", "lazy_refcounts": True}, {"compat": "1.1", "lazy-refcounts": True}),
        ({"refcount_bits": 1}, {"refcount-bits": 1}),
        ({"refcount_bits": 64}, {"refcount-bits": 64}),
        ({"extended_l2": True, "cluster_size": "128K"}, {"extended-l2": True}),
        ({"compression_type": "zstd"}, {"compression-type": "zstd"}),
    ],
    ids=str,
)
def test_options_of_qcow2_are_set_as_asked(params: dict[str, Any], facts: dict[str, Any], tmp_path: Path) -> None:
    result = predicted(tmp_path / "disk", size="4M", **params)
    found = specific(tmp_path / "disk")
    assert {name: found[name] for name in facts} == facts
    for name, value in facts.items():
        assert result["image"][name.replace("-", "_")] == value


def test_owner_group_and_mode_are_set_from_the_start_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    params = {"size": "1M", "owner": "1234", "group": "4321", "mode": "0640"}
    settled(path, **params)
    status = path.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (1234, 4321, 0o640)
    before = tree_state(tmp_path)
    wanted = {**params, "mode": "0600"}
    assert done(path, check=True, **wanted)["actions"] == [f"set the owner, mode or attributes of {path}"]
    assert tree_state(tmp_path) == before
    changed = settled(path, **wanted)
    assert changed["changed"]
    assert (changed["diff"]["before"]["mode"], changed["diff"]["after"]["mode"]) == ("0640", "0600")
    assert path.stat().st_mode & 0o7777 == 0o600


def test_the_owner_of_a_links_target_is_set_and_not_the_links(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(create(tmp_path / "disk"))
    settled(tmp_path / "link", size="10M", mode="0600", owner="1234")
    assert (tmp_path / "disk").stat().st_uid == 1234
    assert (tmp_path / "link").lstat().st_uid == 0


# --- overlays ---------------------------------------------------------------------------------------------------


def test_a_linked_clone_reads_its_base_and_leaves_it_alone(tmp_path: Path) -> None:
    base, clone = create(tmp_path / "golden.qcow2"), tmp_path / "clones" / "clone.qcow2"
    clone.parent.mkdir()
    qemu_io(base, "write -P 0xab 1M 1M")
    before = tree_state(tmp_path)["golden.qcow2"]
    result = predicted(clone, backing_file=str(base), backing_format="qcow2")
    assert result["actions"] == [f"create qcow2 image {clone} of 10 MiB over {base}"]
    assert (result["image"]["backing_file"], result["image"]["backing_format"]) == (str(base), "qcow2")
    assert content(clone) == content(base)
    qemu_io(clone, "write -P 0xcd 0 2M")
    assert content(clone) != content(base)
    assert tree_state(tmp_path)["golden.qcow2"] == before


def test_an_overlay_may_be_larger_than_its_base(tmp_path: Path) -> None:
    base = create(tmp_path / "golden.raw", "raw")
    params = {"backing_file": str(base), "backing_format": "raw"}
    settled(tmp_path / "clone", size="20M", **params)
    assert info(tmp_path / "clone")["virtual-size"] == 20 * MIB
    assert not done(tmp_path / "clone", **params)["changed"]


def test_an_overlay_smaller_than_its_base_is_refused(tmp_path: Path) -> None:
    base = create(tmp_path / "golden.qcow2")
    before = tree_state(tmp_path)
    result = refused(tmp_path / "clone", size="9M", backing_file=str(base), backing_format="qcow2")
    assert "a smaller overlay cuts off the end of the disk" in result["msg"]
    assert tree_state(tmp_path) == before


@pytest.mark.parametrize(("found", "declared"), [("qcow2", "raw"), ("raw", "qcow2"), ("vmdk", "raw"), ("qed", "vmdk")])
def test_a_base_in_another_format_than_declared_is_refused(found: str, declared: str, tmp_path: Path) -> None:
    base = create(tmp_path / "golden", found)
    before = tree_state(tmp_path)
    result = refused(tmp_path / "clone", backing_file=str(base), backing_format=declared)
    assert found in result["msg"]
    assert declared in result["msg"]
    assert tree_state(tmp_path) == before


@pytest.mark.parametrize("policy", ["metadata", "falloc", "full"])
def test_an_overlay_with_subclusters_can_be_preallocated_and_still_shows_its_base(policy: str, tmp_path: Path) -> None:
    base = create(tmp_path / "golden.qcow2", "qcow2", 4 * MIB)
    qemu_io(base, "write -P 0xab 0 4M")
    params = {"backing_file": str(base), "backing_format": "qcow2", "preallocation": policy}
    assert "extended_l2=true" in refused(tmp_path / "clone", **params)["msg"]
    settled(tmp_path / "clone", extended_l2=True, **params)
    assert content(tmp_path / "clone") == content(base)
    assert (tmp_path / "clone").stat().st_size >= 4 * MIB


def test_a_base_whose_data_is_elsewhere_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    base = create(tmp_path / "golden", "qcow2", MIB, "-o", f"data_file={victim}")
    before = tree_state(tmp_path)
    result = refused(tmp_path / "clone", backing_file=str(base), backing_format="qcow2")
    assert f"another file, {victim}" in result["msg"]
    assert tree_state(tmp_path) == before


def test_a_base_that_is_being_written_gets_no_overlay(tmp_path: Path) -> None:
    base = create(tmp_path / "golden.qcow2")
    with opened_by_a_process(base):
        result = refused(tmp_path / "clone", backing_file=str(base), backing_format="qcow2")
    assert "is open for writing" in result["msg"]
    assert names(tmp_path) == ["golden.qcow2"]


def test_a_base_in_a_circle_of_backing_files_is_refused(tmp_path: Path) -> None:
    one, other = create(tmp_path / "one"), tmp_path / "other"
    overlay(other, str(one))
    qemu_img("rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", str(other), one)
    result = refused(tmp_path / "clone", backing_file=str(one), backing_format="qcow2")
    assert "runs in a circle" in result["msg"]
    assert names(tmp_path) == ["one", "other"]


# --- an existing image ------------------------------------------------------------------------------------------


def test_an_image_grows_and_keeps_its_content(tmp_path: Path) -> None:
    path = create(tmp_path / "disk")
    qemu_io(path, "write -P 0x5a 3M 2M")
    before = content(path)
    result = predicted(path, size="20M")
    assert result["actions"] == [f"grow {path} from 10 MiB to 20 MiB"]
    assert result["diff"] == {"before": {"virtual_size": 10 * MIB}, "after": {"virtual_size": 20 * MIB}}
    assert content(path, length=10 * MIB) == before
    assert info(path)["virtual-size"] == 20 * MIB


@pytest.mark.parametrize("name", ["raw", "qed"])
def test_other_formats_grow_too(name: str, tmp_path: Path) -> None:
    path = create(tmp_path / "disk", name)
    qemu_io(path, "write -P 0x5a 3M 2M", name)
    before = content(path, name)
    settled(path, format=name, size="20M")
    assert content(path, name, 10 * MIB) == before
    assert info(path, name)["virtual-size"] == 20 * MIB


@pytest.mark.parametrize("name", ["qcow", "vmdk", "vdi", "vhdx", "vpc", "parallels"])
def test_a_format_that_cannot_be_resized_says_so(name: str, tmp_path: Path) -> None:
    path = create(tmp_path / "disk", name)
    before = tree_state(tmp_path)
    assert f"{name} images cannot be resized" in refused(path, format=name, size="20M")["msg"]
    assert tree_state(tmp_path) == before


@pytest.mark.parametrize("policy", ["falloc", "full"])
def test_what_is_added_is_allocated_as_asked(policy: str, tmp_path: Path) -> None:
    path = create(tmp_path / "disk", "qcow2", 4 * MIB)
    settled(path, size="12M", preallocation=policy)
    assert 8 * MIB <= allocated(path) < 10 * MIB


def test_an_image_shrinks_only_when_told_to_and_keeps_what_is_left(tmp_path: Path) -> None:
    path = create(tmp_path / "disk")
    qemu_io(path, "write -P 0x5a 1M 8M")
    kept = content(path, length=6 * MIB)
    before = tree_state(tmp_path)
    assert "cannot shrink from 10 MiB to 6 MiB: set shrink=true" in refused(path, size="6M")["msg"]
    assert tree_state(tmp_path) == before
    assert predicted(path, size="6M", shrink=True)["actions"] == [f"shrink {path} from 10 MiB to 6 MiB"]
    assert content(path) == kept


def test_an_overlay_is_not_shrunk_below_its_base(tmp_path: Path) -> None:
    base = create(tmp_path / "golden")
    clone = overlay(tmp_path / "clone", str(base))
    params = {"backing_file": str(base), "backing_format": "qcow2", "shrink": True}
    settled(clone, size="20M", **params)
    before = tree_state(tmp_path)
    assert "cuts off the end of the disk" in refused(clone, size="9M", **params)["msg"]
    assert tree_state(tmp_path) == before
    settled(clone, size="10M", **params)


def test_an_overlay_is_not_written_before_the_task_names_its_backing_file(tmp_path: Path) -> None:
    clone = overlay(tmp_path / "clone", str(create(tmp_path / "golden")))
    before = tree_state(tmp_path)
    result = refused(clone, size="20M")
    assert f"reads the backing file {tmp_path / 'golden'} (format qcow2)" in result["msg"]
    assert result["backing_file"] == str(tmp_path / "golden")
    assert tree_state(tmp_path) == before


def test_an_image_with_a_planted_data_file_is_not_written(tmp_path: Path) -> None:
    path = create(tmp_path / "disk", "qcow2", MIB, "-o", f"data_file={tmp_path / 'victim'}")
    before = tree_state(tmp_path)
    assert "keeps its data in another file" in refused(path, size="2M")["msg"]
    assert tree_state(tmp_path) == before


def test_amendable_options_are_changed_in_place(tmp_path: Path) -> None:
    path = create(tmp_path / "disk", "qcow2", 10 * MIB, "-o", "compat=0.10")
    qemu_io(path, "write -P 0x5a 0 10M")
    before, inode = content(path), path.stat().st_ino
    result = predicted(path, compat="1.1", lazy_refcounts=True, refcount_bits=32)
    assert result["actions"] == [
        f"amend {path}: compat from 0.10 to 1.1, lazy_refcounts from False to True, refcount_bits from 16 to 32"
    ]
    found = specific(path)
    assert (found["compat"], found["lazy-refcounts"], found["refcount-bits"]) == ("1.1", True, 32)
    assert (content(path), path.stat().st_ino) == (before, inode)
    predicted(path, compat="0.10", lazy_refcounts=False, refcount_bits=16)
    assert specific(path)["compat"] == "0.10"
    assert content(path) == before


def test_an_old_image_with_snapshots_is_upgraded_to_be_resized(tmp_path: Path) -> None:
    path = create(tmp_path / "disk", "qcow2", 10 * MIB, "-o", "compat=0.10")
    qemu_img("snapshot", "-c", "before", path)
    assert "ask for compat 1.1 as well" in refused(path, size="20M")["msg"]
    settled(path, size="20M", compat="1.1")
    assert info(path)["virtual-size"] == 20 * MIB
    before = tree_state(tmp_path)
    assert "snapshots have other sizes" in refused(path, compat="0.10")["msg"]
    assert tree_state(tmp_path) == before


@pytest.mark.parametrize(
    ("params", "difference"),
    [
        ({"cluster_size": "4K"}, "cluster_size is 65536, asked for 4096"),
        ({"extended_l2": True}, "extended_l2 is False, asked for True"),
        ({"compression_type": "zstd"}, "compression_type is zlib, asked for zstd"),
    ],
    ids=str,
)
def test_what_cannot_be_changed_is_an_error_that_names_the_difference(
    params: dict[str, Any], difference: str, tmp_path: Path
) -> None:
    path = create(tmp_path / "disk")
    before = tree_state(tmp_path)
    result = refused(path, **params, size="20M")
    assert difference in result["msg"]
    assert result["differences"] == [next(iter(params))]
    assert "convert" in result["msg"] or "make it anew" in result["msg"]
    assert tree_state(tmp_path) == before


@pytest.mark.parametrize(("found", "asked"), [("qcow2", "raw"), ("raw", "qcow2"), ("vmdk", "qcow2"), ("qed", "vdi")])
def test_an_image_in_another_format_is_an_error_that_names_both(found: str, asked: str, tmp_path: Path) -> None:
    path = create(tmp_path / "disk", found)
    before = tree_state(tmp_path)
    result = refused(path, format=asked, size="20M")
    assert found in result["msg"]
    assert asked in result["msg"]
    assert result["format"] == found
    assert tree_state(tmp_path) == before


def test_a_raw_disk_whose_guest_wrote_a_header_is_not_touched(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious" * 1000)
    path = create(tmp_path / "disk", "raw", MIB)
    planted = create(tmp_path / "planted", "qcow2", MIB, "-o", f"data_file={tmp_path / 'planted.data'}")
    with path.open("r+b") as stream:
        stream.write(planted.read_bytes().replace(str(tmp_path / "planted.data").encode(), str(victim).encode()))
    before = tree_state(tmp_path)
    assert "begins like qcow2" in refused(path, format="raw", size="2M")["msg"]
    refused(path, format="qcow2", size="2M")
    assert tree_state(tmp_path) == before


def test_a_corrupt_image_is_not_written(tmp_path: Path) -> None:
    path = create(tmp_path / "disk")
    with path.open("r+b") as stream:
        stream.seek(79)
        stream.write(b"\x02")
    before = tree_state(tmp_path)
    assert not done(path, size="10M")["changed"]
    assert "marked corrupt" in refused(path, size="20M")["msg"]
    assert tree_state(tmp_path) == before


# --- removal ----------------------------------------------------------------------------------------------------


def test_an_image_is_removed_once(tmp_path: Path) -> None:
    path = create(tmp_path / "disk")
    create(tmp_path / "other")
    before = tree_state(tmp_path)
    assert done(path, state="absent", check=True)["actions"] == [f"remove {path}"]
    assert tree_state(tmp_path) == before
    result = done(path, state="absent")
    assert (result["changed"], result["image"], result["actions"]) == (True, {}, [f"remove {path}"])
    assert names(tmp_path) == ["other"]
    before = tree_state(tmp_path)
    again = done(path, state="absent")
    assert (again["changed"], again["actions"]) == (False, [])
    assert tree_state(tmp_path) == before


def test_removing_what_was_never_there_is_no_change_even_without_its_directory(tmp_path: Path) -> None:
    assert not done(tmp_path / "missing" / "disk", state="absent")["changed"]


def test_removing_a_link_keeps_its_target(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(create(tmp_path / "disk"))
    assert done(tmp_path / "link", state="absent")["changed"]
    assert names(tmp_path) == ["disk"]


# --- names ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "with space",
        "with,comma,size=1",
        "a:b.qcow2",
        "nbd:x",
        "json:{}",
        "fat:etc",
        "quote'\"quote",
        "-leading-dash",
        "--help",
        "ünïcödé-磁盘",
        "new\nline",
        "tab\tand\\backslash",
        "$HOMELESS`true`",
        "%s%d",
        "[a]*?.qcow2",
        "x" * 255,
        "ü" * 127,
    ],
    ids=lambda name: repr(name[:20]),
)
def test_a_name_is_just_a_name(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    done(path, size="2M")
    assert names(tmp_path) == [name]
    assert info(path)["virtual-size"] == 2 * MIB
    clone = tmp_path / "clone"
    assert done(clone, backing_file=str(path), backing_format="qcow2")["image"]["backing_file"] == str(path)
    assert refused(path, state="absent")["dependents"] == [str(clone)]
    assert names(tmp_path) == sorted([name, "clone"])


def test_an_image_with_an_awkward_name_is_changed_like_any_other(tmp_path: Path) -> None:
    base, path = tmp_path / "-a,b:c 'd'\n", tmp_path / 'json:{}, "x"'
    create(base)
    params = {"backing_file": str(base), "backing_format": "qcow2"}
    settled(path, **params)
    settled(path, size="20M", lazy_refcounts=True, **params)
    assert (info(path)["virtual-size"], specific(path)["lazy-refcounts"]) == (20 * MIB, True)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("disk.qcow2", "is relative"),
        ("./disk.qcow2", "is relative"),
        ("-disk.qcow2", "is relative"),
        ("nbd:localhost", "is relative"),
        ("json:{}", "is relative"),
        ("", "is relative"),
        ("/", "does not name a file"),
        ("/images/", "does not name a file"),
    ],
)
def test_a_path_that_names_no_file_of_this_host_is_refused(path: str, reason: str) -> None:
    assert reason in refused(path, size="1M")["msg"]


def test_a_name_too_long_for_a_file_is_refused(tmp_path: Path) -> None:
    assert "more than 255 bytes" in refused(tmp_path / ("x" * 256), size="1M")["msg"]
    assert names(tmp_path) == []


def test_a_missing_directory_is_refused(tmp_path: Path) -> None:
    assert "does not exist: create it first" in refused(tmp_path / "missing" / "disk", size="1M")["msg"]
    assert names(tmp_path) == []


def test_a_link_to_nothing_is_refused_and_can_be_removed(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("nowhere")
    assert "is a symbolic link whose target is missing (nowhere)" in refused(link, size="1M")["msg"]
    assert names(tmp_path) == ["link"]
    assert done(link, state="absent")["changed"]
    assert names(tmp_path) == []


@pytest.mark.parametrize("kind", ["directory", "fifo", "device"])
@pytest.mark.parametrize("name", ["raw", "qcow2"])
def test_what_is_no_image_is_refused_without_hanging(kind: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / kind
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        os.mknod(path, 0o020666, os.makedev(1, 5))
    before = tree_state(tmp_path)
    assert "neither a regular file nor a block device" in refused(path, format=name, size="1M")["msg"]
    assert "not a regular file" in refused(path, format=name, state="absent")["msg"]
    assert tree_state(tmp_path) == before


# --- bad input --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({}, "give the size to create it with"),
        ({"size": "10"}, "not a whole number of 512-byte sectors"),
        ({"size": "010M"}, "is not a size"),
        ({"size": "0"}, "a disk has at least 512 bytes"),
        ({"size": "10GB"}, "10GiB is a power of 1024"),
        ({"size": "9E"}, "more than QEMU can address"),
        ({"size": "1M", "cluster_size": "3"}, "cluster_size: 3 is not a whole number"),
        ({"size": "1M", "cluster_size": "1536"}, "cluster_size: 1536 is not a power of two"),
        ({"size": "1M", "compat": "0.10", "lazy_refcounts": True}, "lazy_refcounts: True needs compat 1.1"),
        ({"size": "1M", "format": "raw", "preallocation": "metadata"}, "raw images have no metadata"),
        ({"size": "1M", "format": "vmdk", "allocation": "eager_zeroed_thick"}, "not available for vmdk"),
        ({"size": "1M", "format": "raw", "compat": "1.1"}, "compat: an option of qcow2 images"),
        ({"size": "1M", "preallocation": "off", "allocation": "thin"}, "mutually exclusive"),
        ({"backing_file": "/images/golden"}, "needs backing_format"),
        ({"backing_file": "", "backing_format": "raw"}, "needs backing_format"),
        ({"backing_file": "", "rebase": "unsafe"}, "would throw away all that is read"),
        ({"backing_file": "golden", "backing_format": "raw"}, "backing_file: 'golden' is relative"),
        ({"backing_file": "/nonexistent/golden", "backing_format": "raw"}, "/nonexistent/golden: no such image"),
        ({"size": "1M", "search_paths": ["/nonexistent"]}, "search_paths: /nonexistent is not a directory"),
        ({"size": "1M", "format": "bochs"}, "value of format must be one of"),
    ],
    ids=str,
)
def test_bad_input_ends_before_anything_is_touched(params: dict[str, Any], reason: str, tmp_path: Path) -> None:
    assert reason in refused(tmp_path / "disk", **params)["msg"]
    assert reason in refused(tmp_path / "disk", check=True, **params)["msg"]
    assert names(tmp_path) == []


def test_it_works_where_neither_libvirt_python_nor_lxml_can_be_imported(tmp_path: Path) -> None:
    stubs, images = tmp_path / "stubs", tmp_path / "images"
    stubs.mkdir()
    images.mkdir()
    for name in ("libvirt", "lxml"):
        (stubs / f"{name}.py").write_text("raise ImportError('kept away by a test')\n", encoding="utf-8")
    default: dict[str, Any] = {"uri": None, "env": {"PYTHONPATH": str(stubs)}}
    base, path = create(images / "golden"), images / "disk"
    assert image(path, backing_file=str(base), backing_format="qcow2", **default)["changed"]
    grown = image(path, backing_file=str(base), backing_format="qcow2", size="20M", **default)
    assert (grown["changed"], grown["image"]["virtual_size"]) == (True, 20 * MIB)
    assert image(base, state="absent", **default)["dependents"] == [str(path)]
    assert image(path, state="absent", **default)["changed"]
    assert names(images) == ["golden"]
