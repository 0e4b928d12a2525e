# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qcow2_convert: an image becomes another one, with the same content and nothing beside it."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from lab.module import run_module
from lab.pattern import write_pattern
from lab.tree import tree_state
from support.foreign import make_foreign
from support.image_tools import (
    KIB,
    MIB,
    NOBODY,
    allocated,
    content,
    create,
    image_params,
    info,
    names,
    opened_by_a_process,
    overlay,
    qemu_img,
    qemu_io,
    specific,
)
from support.stand_in import listening, python_with

Result = dict[str, Any]
FORMATS = ("raw", "qcow2", "qcow", "qed", "vmdk", "vdi", "vhdx", "vpc", "parallels")
SIZE = 16 * MIB + 512  # no whole number of anybody's clusters


def convert(src: Path, src_format: str, dest: Path, *, check: bool = False, **params: Any) -> Result:
    """One run of qcow2_convert, which must succeed."""
    result = attempt(src, src_format, dest, check=check, **params)
    assert not result.get("failed"), result["msg"]
    return result


def refused(src: Path, src_format: str, dest: Path, *, check: bool = False, **params: Any) -> str:
    """The words in which one run of qcow2_convert is refused; nothing is changed by it."""
    directories = {src.parent, dest.parent}
    before = [tree_state(directory) for directory in directories if directory.is_dir()]
    result = attempt(src, src_format, dest, check=check, **params)
    assert result.get("failed"), result
    assert "Traceback" not in result["msg"] + str(result.get("exception", "")), result
    assert [tree_state(directory) for directory in directories if directory.is_dir()] == before
    return str(result["msg"])


def attempt(src: Path, src_format: str, dest: Path, *, check: bool, **params: Any) -> Result:
    wish = {"src": str(src), "src_format": src_format, "dest": str(dest), "uri": NOBODY, **params}
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in wish.items()}
    return run_module("qcow2_convert", plain, check=check)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A raw disk: a pattern, a hole, a pattern in its last sector."""
    path = tmp_path / "disk.raw"
    write_pattern(path, 2, "convert")
    os.truncate(path, SIZE)
    with path.open("r+b") as stream:
        stream.seek(SIZE - 512)
        stream.write(b"\x5a" * 512)
    return path


# --- every format -----------------------------------------------------------------------------------------------


def test_every_format_becomes_every_other_and_a_second_run_changes_nothing(raw: Path, tmp_path: Path) -> None:
    wanted = content(raw, "raw")
    source, source_format = raw, "raw"
    for image_format in (*FORMATS[1:], "raw"):
        dest = tmp_path / f"as.{image_format}"
        before = tree_state(tmp_path)
        predicted = convert(source, source_format, dest, format=image_format, check=True)
        assert tree_state(tmp_path) == before
        result = convert(source, source_format, dest, format=image_format)
        assert (
            result["actions"]
            == predicted["actions"]
            == [f"convert {source} ({source_format}) to {dest} ({image_format})"]
        )
        assert result["diff"] == predicted["diff"]
        assert (result["changed"], result["verified"], predicted["verified"]) == (True, True, False)
        assert result["image"]["virtual_size"] == predicted["image"]["virtual_size"] == SIZE
        assert content(dest, image_format) == wanted
        again = convert(source, source_format, dest, format=image_format)
        assert (again["changed"], again["image"]) == (False, result["image"])
        source, source_format = dest, image_format
    assert not any("kvmops" in name for name in names(tmp_path))


@pytest.mark.parametrize("source_format", ["bochs", "cloop", "dmg"])
def test_a_format_that_is_only_read_is_converted_from(source_format: str, raw: Path, tmp_path: Path) -> None:
    written = raw.read_bytes()[: 3 * MIB + 512]
    source, dest = make_foreign(tmp_path / "import", source_format, written), tmp_path / "new.raw"
    assert f"found a {source_format} image, asked for vdi" in refused(source, "vdi", dest, format="raw")
    assert f"its content begins like {source_format}" in refused(source, "raw", dest, format="raw")
    predicted = convert(source, source_format, dest, format="raw", check=True)
    result = convert(source, source_format, dest, format="raw", update="changed")
    assert (result["actions"], result["verified"]) == (predicted["actions"], True)
    made = dest.read_bytes()  # cloop has whole blocks only
    assert (made[: len(written)], made[len(written) :].strip(b"\0")) == (written, b"")
    assert not convert(source, source_format, dest, format="raw", update="changed")["changed"]


def test_a_format_that_this_qemu_was_built_without_is_refused_as_that(raw: Path, tmp_path: Path) -> None:
    python = python_with(
        tmp_path, "case $1 in --help) $REAL --help | sed 's/ dmg / /; s/ vdi / /';; *) exec $REAL \"$@\";; esac"
    )
    source = make_foreign(tmp_path / "import.dmg", "dmg", bytes(MIB))
    for src, src_format, image_format, missing in ((source, "dmg", "raw", "dmg"), (raw, "raw", "vdi", "vdi")):
        wish = {"src": str(src), "src_format": src_format, "dest": str(tmp_path / "new"), "format": image_format}
        for check in (True, False):
            result = run_module("qcow2_convert", {**wish, "uri": NOBODY}, check=check, python=str(python))
            assert f"this QEMU has no driver for the format {missing}" in result["msg"]
            assert not (tmp_path / "new").exists()


def test_a_dmg_with_parts_that_nobody_here_can_read_is_an_error_that_says_so(tmp_path: Path) -> None:
    source = make_foreign(tmp_path / "import.dmg", "dmg", b"\x5a" * MIB)
    begin, table, end = re.split(rb"(?<=<data>)(.*)(?=</data>)", source.read_bytes())
    rows = bytearray(base64.b64decode(table))
    rows[204:208] = b"\x80\x00\x00\x08"  # LZMA, which QEMU does not know
    source.write_bytes(begin + base64.b64encode(rows) + end)
    result = attempt(source, "dmg", tmp_path / "new", check=False)
    assert "chunks of unknown type 80000008" in result["msg"]
    assert "Input/output error" in result["msg"]
    assert names(tmp_path) == ["import.dmg"]


def test_a_raw_disk_of_an_odd_length_is_the_disk_that_a_guest_sees(tmp_path: Path) -> None:
    """QEMU fills up its last sector, so that the files differ in their length (HAZARDS C8)."""
    odd, new, back = (tmp_path / name for name in ("odd", "new", "back"))
    odd.write_bytes(b"\x5a" * 1000)
    assert convert(odd, "raw", new)["image"]["virtual_size"] == 1024
    assert convert(new, "qcow2", back, format="raw", remove_src=True)["verified"]
    assert back.read_bytes() == b"\x5a" * 1000 + bytes(24)
    same = convert(odd, "raw", back, format="raw", update="changed")
    assert (same["changed"], same["verified"]) == (False, True)


def test_the_options_of_a_new_image_are_those_of_the_task(raw: Path, tmp_path: Path) -> None:
    dest = tmp_path / "new"
    options: dict[str, Any] = {"cluster_size": "128K", "lazy_refcounts": True, "refcount_bits": 32, "extended_l2": True}
    convert(raw, "raw", dest, compat="1.1", **options)
    found = specific(dest)
    assert info(dest)["cluster-size"] == 128 * KIB
    assert (found["lazy-refcounts"], found["refcount-bits"], found["extended-l2"]) == (True, 32, True)
    for params, fits in (
        ({"compress": True, "compression_type": "zstd"}, lambda path: allocated(path) < 3 * MIB),
        ({"preallocation": "full"}, lambda path: allocated(path) >= SIZE),
        ({"allocation": "lazy_zeroed_thick"}, lambda path: allocated(path) >= SIZE),
        ({"format": "raw", "preallocation": "falloc"}, lambda path: allocated(path) >= SIZE),
        ({"format": "vpc", "subformat": "fixed"}, lambda path: path.stat().st_size >= SIZE),
    ):
        path = tmp_path / str(len(names(tmp_path)))
        convert(raw, "raw", path, **params)
        assert fits(path), params
        if "compression_type" in params:
            assert specific(path)["compression-type"] == params["compression_type"]


# --- what is there already --------------------------------------------------------------------------------------


def test_an_image_is_made_anew_when_the_content_of_its_source_changed_and_not_otherwise(
    raw: Path, tmp_path: Path
) -> None:
    dest = tmp_path / "copy.qcow2"
    convert(raw, "raw", dest, mode="0640")
    os.setxattr(dest, "user.note", b"kept")
    inode = dest.stat().st_ino
    same = convert(raw, "raw", dest, update="changed", cluster_size="4K")
    assert (same["changed"], same["verified"], same["actions"]) == (False, True, [])

    qemu_io(raw, "write -P 7 8M 64k", "raw")
    assert not convert(raw, "raw", dest)["changed"], "update: missing does not look"
    before = tree_state(tmp_path)
    predicted = convert(raw, "raw", dest, update="changed", check=True)
    assert tree_state(tmp_path) == before
    result = convert(raw, "raw", dest, update="changed")
    assert result["actions"] == predicted["actions"]
    assert result["actions"][0].endswith("in place of the one that has other content")
    assert content(dest) == content(raw, "raw")
    status = dest.stat()
    assert status.st_ino != inode, "never written in place"
    assert (status.st_mode & 0o777, status.st_nlink, os.getxattr(dest, "user.note")) == (0o640, 1, b"kept")
    assert names(tmp_path) == ["copy.qcow2", "disk.raw"]

    qemu_img("resize", "-q", "-f", "raw", raw, "17M")
    assert (
        "has 16.00" in convert(raw, "raw", dest, update="changed")["actions"][0]
        or info(dest)["virtual-size"] == 17 * MIB
    )
    assert info(dest)["virtual-size"] == 17 * MIB
    assert convert(raw, "raw", dest, update="always")["changed"]
    assert convert(raw, "raw", dest, update="always", check=True)["changed"]
    assert not convert(raw, "raw", dest, update="changed", mode="0640")["changed"]
    changed = convert(raw, "raw", dest, mode="0600")
    assert changed["actions"] == [f"set the owner, mode or attributes of {dest}"]


def test_a_destination_in_another_format_is_an_error_and_stays(raw: Path, tmp_path: Path) -> None:
    create(tmp_path / "there", "vmdk", MIB)
    for update in ("missing", "changed", "always"):
        assert "found a vmdk image, asked for qcow2" in refused(raw, "raw", tmp_path / "there", update=update)
        message = refused(raw, "raw", tmp_path / "there", update=update, format="raw")
        assert "its content begins like vmdk" in message
    assert not convert(raw, "raw", tmp_path / "there", format="vmdk")["changed"]


def test_a_destination_that_holds_more_than_the_new_image_would_is_not_replaced(raw: Path, tmp_path: Path) -> None:
    dest = create(tmp_path / "dest")
    qemu_img("snapshot", "-c", "nightly", dest)
    assert "holds 1 internal snapshot(s) (nightly)" in refused(raw, "raw", dest, update="changed")
    assert "holds 1 internal snapshot(s) (nightly)" in refused(raw, "raw", dest, update="always")
    base = create(tmp_path / "base")
    overlay(tmp_path / "clone", "base")
    message = refused(raw, "raw", base, update="always")
    assert "1 image(s) read it as their backing file" in message
    assert str(tmp_path / "clone") in message
    with opened_by_a_process(overlay(tmp_path / "open", "base")):
        assert "in use by" in refused(raw, "raw", tmp_path / "open", update="always")
    assert convert(raw, "raw", tmp_path / "open", update="changed")["changed"], "an overlay becomes a plain image"
    assert "backing-filename" not in info(tmp_path / "open")


def test_a_link_at_the_destination_is_followed(raw: Path, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "real")
    convert(raw, "raw", tmp_path / "link")
    assert names(tmp_path / "deep") == ["real"]
    qemu_io(raw, "write -P 9 3M 1M", "raw")
    convert(raw, "raw", tmp_path / "link", update="changed")
    assert (tmp_path / "link").is_symlink()
    assert content(tmp_path / "deep" / "real") == content(raw, "raw")


# --- from where -------------------------------------------------------------------------------------------------


def test_an_internal_snapshot_is_converted_as_it_was(tmp_path: Path) -> None:
    source = create(tmp_path / "disk", "qcow2", 8 * MIB)
    qemu_io(source, "write -P 1 0 2M")
    qemu_img("snapshot", "-c", "1", source)
    wanted = content(source)
    qemu_io(source, "write -P 2 1M 2M")
    qemu_img("snapshot", "-c", "a, b=c", source)
    qemu_img("resize", "-q", "-f", "qcow2", source, "12M")
    qemu_io(source, "write -P 3 0 8M")
    result = convert(source, "qcow2", tmp_path / "one.raw", format="raw", snapshot="1")
    assert result["verified"]
    assert (result["image"]["virtual_size"], content(tmp_path / "one.raw", "raw")) == (8 * MIB, wanted)
    odd = convert(source, "qcow2", tmp_path / "two.qcow2", snapshot="a, b=c", compress=True)
    assert f"{source} (qcow2) at its snapshot a, b=c to " in odd["actions"][0]
    again = convert(source, "qcow2", tmp_path / "two.qcow2", snapshot="a, b=c", update="changed")
    assert (again["changed"], again["verified"]) == (False, True)
    other = convert(source, "qcow2", tmp_path / "two.qcow2", snapshot="1", update="changed")
    assert other["actions"][0].endswith("in place of the one that has other content")
    assert content(tmp_path / "two.qcow2") == wanted
    assert "has no snapshot '2': it has 1, a, b=c" in refused(source, "qcow2", tmp_path / "x", snapshot="2")
    qemu_img("snapshot", "-c", "1", source)
    assert "has 2 snapshots named '1'" in refused(source, "qcow2", tmp_path / "x", snapshot="1")


def test_a_chain_becomes_one_image_and_only_when_it_is_trusted(tmp_path: Path) -> None:
    base = create(tmp_path / "base", "raw", 8 * MIB)
    qemu_io(base, "write -P 1 0 4M", "raw")
    middle = overlay(tmp_path / "middle", "base", "raw")
    qemu_io(middle, "write -P 2 1M 1M")
    top = overlay(tmp_path / "top", "middle")
    qemu_io(top, "write -P 3 2M 1M")
    assert "reads the backing file 'middle', which the task does not name" in refused(top, "qcow2", tmp_path / "flat")
    convert(top, "qcow2", tmp_path / "flat", trusted=True)
    assert content(tmp_path / "flat") == content(top)
    assert "backing-filename" not in info(tmp_path / "flat")


def test_an_image_is_put_over_a_backing_file_with_what_differs(tmp_path: Path) -> None:
    base = create(tmp_path / "golden", "qcow2", 8 * MIB)
    qemu_io(base, "write -P 1 0 6M")
    full = tmp_path / "full.raw"
    qemu_img("convert", "-f", "qcow2", "-O", "raw", base, full)
    qemu_io(full, "write -P 2 2M 64k", "raw")
    below: dict[str, Any] = {"backing_file": base, "backing_format": "qcow2"}
    kinds: dict[str, dict[str, Any]] = {"thin": {}, "small": {"compress": True, "compression_type": "zstd"}}
    for name, params in kinds.items():
        result = convert(full, "raw", tmp_path / name, **below, **params)
        assert (result["verified"], result["image"]["backing_file"]) == (True, str(base))
        assert allocated(tmp_path / name) < MIB, "only the difference"
        assert content(tmp_path / name) == content(full, "raw")
        assert info(tmp_path / name)["backing-filename-format"] == "qcow2"
    copied = convert(tmp_path / "thin", "qcow2", tmp_path / "copy", **below, keep_bitmaps=True, rate_limit="100M")
    assert copied["changed"], "its own backing file is named, and so need not be trusted"
    assert allocated(tmp_path / "copy") < MIB
    assert not convert(tmp_path / "thin", "qcow2", tmp_path / "copy", **below, update="changed")["changed"]
    moved = convert(full, "raw", tmp_path / "copy", update="changed")
    assert f"has the backing file {base}, asked for none" in moved["actions"][0]
    larger = create(tmp_path / "larger", "qcow2", 9 * MIB)
    message = refused(full, "raw", tmp_path / "x", backing_file=larger, backing_format="qcow2")
    assert "a smaller overlay cuts off the end of the disk" in message
    assert "rate_limit: only works with an unencrypted backing_file that" in refused(
        full, "raw", tmp_path / "x", **below, rate_limit="1M"
    )


def test_dirty_bitmaps_are_kept_where_that_is_asked(tmp_path: Path) -> None:
    source = create(tmp_path / "disk")
    qemu_img("bitmap", "--add", "-f", "qcow2", source, "since,monday")
    qemu_io(source, "write -P 1 2M 192k")
    for keep, found in ((True, [("since,monday", 192 * KIB)]), (False, [])):
        dest = tmp_path / f"kept-{keep}"
        convert(source, "qcow2", dest, keep_bitmaps=keep)
        told = run_module("qcow2_bitmap", {**image_params(dest, {}), "bitmap": "none", "state": "absent"})
        assert [(bitmap["name"], bitmap["dirty_bytes"]) for bitmap in told["bitmaps"]] == found, "what changed is known"


def test_a_conversion_is_not_faster_than_its_limit(tmp_path: Path) -> None:
    source = tmp_path / "disk"
    write_pattern(source, 3, "limited")
    begun = time.monotonic()
    convert(source, "raw", tmp_path / "new", rate_limit="2M", verify=False)
    assert time.monotonic() - begun > 1, "three megabytes at two in a second"
    assert content(tmp_path / "new") == content(source, "raw")


def test_a_copy_is_made_by_many_at_once_and_out_of_order_where_that_harms_nothing(raw: Path, tmp_path: Path) -> None:
    for params, flag in (({"format": "raw"}, True), ({"compress": True}, True), ({}, False)):
        new, log = tmp_path / f"new-{len(names(tmp_path))}", tmp_path / f"log-{len(names(tmp_path))}"
        wish = {"src": str(raw), "src_format": "raw", "dest": str(new), "uri": NOBODY, **params}
        assert run_module("qcow2_convert", wish, python=listening(tmp_path, log))["verified"]
        (line,) = [one for one in log.read_text("utf-8").splitlines() if one.startswith("convert ")]
        assert " -m 16 " in line
        assert (" -W " in line) == flag, line


def test_qemu_img_has_limits_unless_the_source_is_trusted(raw: Path, tmp_path: Path) -> None:
    python = python_with(tmp_path, 'echo "limit $(ulimit -v)" >&2\nexit 1')
    wish = {"src": str(raw), "src_format": "raw", "dest": str(tmp_path / "new"), "uri": NOBODY}
    assert f"limit {4 << 20}" in run_module("qcow2_convert", wish, python=python)["msg"]  # ulimit -v counts in KiB
    assert "limit unlimited" in run_module("qcow2_convert", {**wish, "trusted": True}, python=python)["msg"]


def test_a_source_is_removed_when_its_content_is_at_the_destination(raw: Path, tmp_path: Path) -> None:
    wanted = content(raw, "raw")
    dest = tmp_path / "new"
    kept = tmp_path / "kept.raw"
    os.link(raw, kept)
    result = convert(raw, "raw", dest, remove_src=True)
    assert result["actions"][1:] == [f"remove {raw}"]
    assert (content(dest), names(tmp_path)) == (wanted, ["kept.raw", "new"])
    for update in ("missing", "changed", "always"):
        assert not convert(raw, "raw", dest, remove_src=True, update=update)["changed"]
    os.link(kept, raw)
    before = tree_state(tmp_path)
    assert convert(raw, "raw", dest, remove_src=True, check=True)["actions"] == [f"remove {raw}"]
    assert tree_state(tmp_path) == before
    assert convert(raw, "raw", dest, remove_src=True)["actions"] == [f"remove {raw}"]
    os.rename(kept, raw)
    qemu_io(raw, "write -P 1 0 512", "raw")
    assert "has other content, which update=missing leaves alone" in refused(raw, "raw", dest, remove_src=True)
    assert "no such image" in refused(tmp_path / "gone", "raw", tmp_path / "x", remove_src=True)


def test_a_source_that_others_need_is_not_removed(tmp_path: Path) -> None:
    base = create(tmp_path / "base")
    overlay(tmp_path / "clone", "base")
    assert "read it as their backing file" in refused(base, "qcow2", tmp_path / "new", remove_src=True)
    other = create(tmp_path / "other")
    qemu_img("snapshot", "-c", "s", other)
    assert "holds 1 internal snapshot(s)" in refused(other, "qcow2", tmp_path / "new", remove_src=True)


# --- names, owners, mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a b", "a,b=c", "nbd:x", "-dash", "ümläut", "json:{}", "100%", "x" * 200])
def test_odd_names_are_just_names(name: str, raw: Path, tmp_path: Path) -> None:
    directory = tmp_path / "in" / name[:40]
    directory.mkdir(parents=True)
    source = directory / name
    os.rename(raw, source)
    convert(source, "raw", directory / f"{name}.q")
    thin: dict[str, Any] = {"backing_file": source, "backing_format": "raw", "update": "changed"}
    convert(directory / f"{name}.q", "qcow2", directory / f"{name}.t", **thin)
    assert content(directory / f"{name}.t") == content(source, "raw")
    assert len(names(directory)) == 3


def test_a_new_image_resembles_its_source_or_what_the_task_says(raw: Path, tmp_path: Path) -> None:
    os.chown(raw, 1234, 1235)
    raw.chmod(0o640)
    convert(raw, "raw", tmp_path / "alike")
    convert(raw, "raw", tmp_path / "own", owner="1111", mode="0600")
    alike, own = (tmp_path / "alike").stat(), (tmp_path / "own").stat()
    assert (alike.st_uid, alike.st_gid, alike.st_mode & 0o777) == (1234, 1235, 0o640)
    assert (own.st_uid, own.st_gid, own.st_mode & 0o777) == (1111, 1235, 0o600)


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"compress": True, "format": "raw"}, "raw images cannot be compressed"),
        ({"compress": True, "format": "vmdk"}, "only vmdk images of subformat streamOptimized"),
        ({"compress": True, "preallocation": "full"}, "excludes preallocation"),
        ({"subformat": "monolithicFlat", "format": "vmdk", "compress": True}, "only vmdk images of subformat"),
        ({"subformat": "fixed", "format": "vmdk"}, "vmdk images know no fixed"),
        ({"subformat": "fixed"}, "qcow2 images know no fixed: leave it out"),
        ({"snapshot": "s"}, "raw images have no snapshots"),
        ({"keep_bitmaps": True}, "only qcow2 images of compat 1.1 have bitmaps"),
        ({"rate_limit": "10GB"}, "rate_limit: '10GB' is not a size"),
        ({"backing_file": "/x"}, "needs backing_format"),
        ({"backing_file": "/x", "backing_format": "raw", "format": "raw"}, "raw images have no backing file"),
        ({"cluster_size": "4M"}, "not a power of two"),
        ({"dest": "new"}, "is relative"),
        ({"dest": "/nonexistent/new"}, "does not exist"),
        ({"src_format": "qcow2"}, "found a raw image, asked for qcow2"),
        ({"src": "/nonexistent/disk"}, "no such image"),
        ({"search_paths": ["/nonexistent"]}, "is not a directory"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_with_the_reason(params: dict[str, Any], reason: str, raw: Path) -> None:
    wish = {"src": str(raw), "src_format": "raw", "dest": str(raw.parent / "new"), "uri": NOBODY, **params}
    for check in (True, False):
        result = run_module("qcow2_convert", wish, check=check)
        assert result.get("failed")
        assert reason in result["msg"]
        assert names(raw.parent) == ["disk.raw"]


def test_what_the_source_does_not_allow_is_refused_with_the_reason(raw: Path, tmp_path: Path) -> None:
    assert "is the same file as src" in refused(raw, "raw", raw, format="raw")
    (tmp_path / "link").symlink_to(raw)
    assert "is the same file as src" in refused(raw, "raw", tmp_path / "link", format="raw")
    (tmp_path / "directory").mkdir()
    assert "is a directory" in refused(raw, "raw", tmp_path / "directory")
    with opened_by_a_process(raw, "raw"):
        assert "is open for writing" in refused(raw, "raw", tmp_path / "x")
    whole = create(tmp_path / "huge", "qcow2", "3T")
    assert "more than a vpc image can hold (1.99 TiB)" in refused(whole, "qcow2", tmp_path / "x", format="vpc")


def test_an_image_of_several_files_is_read_where_it_is_trusted(raw: Path, tmp_path: Path) -> None:
    flat = tmp_path / "import.vmdk"
    qemu_img("convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=monolithicFlat", raw, flat)
    assert "'import-flat.vmdk', which the task does not name" in refused(flat, "vmdk", tmp_path / "new")
    convert(flat, "vmdk", tmp_path / "new", trusted=True)
    assert content(tmp_path / "new") == content(raw, "raw")


def test_the_phases_of_a_conversion_are_told(raw: Path, tmp_path: Path) -> None:
    """The phases are in the file that the action plugin reads."""
    progress = tmp_path / "progress"
    params = {"src": str(raw), "src_format": "raw", "dest": str(tmp_path / "new"), "uri": NOBODY}
    run_module("qcow2_convert", params, env={"KVMOPS_PROGRESS": str(progress)})
    phases = json.loads(progress.read_text(encoding="utf-8"))["phases"]
    assert [(phase["subject"], phase["verb"], phase["state"]) for phase in phases] == [
        ("new", "convert", "done"),
        ("new", "compare", "done"),
    ]
    assert subprocess.run(["qemu-img", "check", "-q", "-f", "qcow2", tmp_path / "new"], check=False).returncode == 0
