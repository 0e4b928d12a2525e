# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""VMDK of several files: the descriptor and its extents come, change, move and go together."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from lab.module import run_module
from lab.pattern import write_pattern
from lab.tree import tree_state
from support.image_tools import GIB, MIB, NOBODY, content, names, opened_by_a_process, qemu_img, qemu_io

Result = dict[str, Any]
SMALL, LARGE = 3 * MIB, 2 * GIB + 3 * MIB
KINDS = {
    "monolithicFlat": ["disk-flat.vmdk"],
    "twoGbMaxExtentSparse": ["disk-s001.vmdk"],
    "twoGbMaxExtentFlat": ["disk-f001.vmdk"],
}


def convert(src: Path, src_format: str, dest: Path, *, check: bool = False, **params: Any) -> Result:
    wish = {"src": str(src), "src_format": src_format, "dest": str(dest), "uri": NOBODY, **params}
    return run_module("qcow2_convert", wish, check=check)


def remove(path: Path, image_format: str) -> Result:
    return run_module("qcow2_image", {"path": str(path), "format": image_format, "state": "absent", "uri": NOBODY})


def made(src: Path, src_format: str, dest: Path, **params: Any) -> Result:
    result = convert(src, src_format, dest, **params)
    assert not result.get("failed"), result["msg"]
    return result


def refused(src: Path, src_format: str, dest: Path, **params: Any) -> str:
    before = tree_state(dest.parent)
    result = convert(src, src_format, dest, **params)
    assert result.get("failed"), result
    assert tree_state(dest.parent) == before
    return str(result["msg"])


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    path = tmp_path / "source.raw"
    write_pattern(path, 1, "extents")
    os.truncate(path, SMALL)
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    path = tmp_path / "out"
    path.mkdir()
    return path


def same(one: Path, one_format: str, other: Path, other_format: str) -> bool:
    return not subprocess.run(
        ["qemu-img", "compare", "-q", "-f", one_format, "-F", other_format, one, other], check=False
    ).returncode


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_made_is_found_unchanged_and_can_be_moved_away(kind: str, raw: Path, out: Path) -> None:
    dest, extents = out / "disk.vmdk", KINDS[kind]
    if kind == "twoGbMaxExtentSparse":  # the only one whose holes are not read byte by byte
        extents = ["disk-s001.vmdk", "disk-s002.vmdk"]
        os.truncate(raw, LARGE)
        qemu_io(raw, f"write -P 90 {LARGE - 512} 512", "raw")
    wish: dict[str, Any] = {"format": "vmdk", "subformat": kind, "mode": "0640"}
    raw.chmod(0o604)
    before = tree_state(out)
    predicted = made(raw, "raw", dest, check=True, **wish)
    assert tree_state(out) == before
    result = made(raw, "raw", dest, **wish)
    assert (result["actions"], result["diff"]) == (predicted["actions"], predicted["diff"])
    assert result["verified"]
    assert names(out) == sorted([*extents, "disk.vmdk"]), "and nothing of ours"
    assert [Path(path).name for path in result["image"]["extents"]] == extents
    assert {path.stat().st_mode & 0o777 for path in out.iterdir()} == {0o640}
    assert f'createType="{kind}"' in dest.read_bytes().decode(errors="replace")
    as_made = tree_state(out)
    for update in ("missing", "changed"):
        again = made(raw, "raw", dest, update=update, **wish)
        assert (again["changed"], again["image"]) == (False, result["image"])
    assert tree_state(out) == as_made
    moved = out.with_name("elsewhere")
    out.rename(moved)
    assert same(raw, "raw", moved / "disk.vmdk", "vmdk"), "the descriptor names its extents without a directory"
    back = moved / "back.qcow2"
    assert "which the task does not name" in refused(moved / "disk.vmdk", "vmdk", back)
    made(moved / "disk.vmdk", "vmdk", back, trusted=True, remove_src=True)
    assert names(moved) == ["back.qcow2"], "the extents of a source go with it"
    assert same(raw, "raw", back, "qcow2")


def test_one_kind_takes_the_place_of_another_with_all_files(raw: Path, out: Path) -> None:
    dest = out / "disk.vmdk"
    for kind in ("monolithicSparse", *KINDS, "monolithicFlat", "streamOptimized"):
        qemu_io(raw, f"write -P {len(kind)} 2M 64k", "raw")
        wish = {"format": "vmdk", "subformat": kind, "update": "changed"}
        predicted = made(raw, "raw", dest, check=True, **wish)
        result = made(raw, "raw", dest, **wish)
        assert result["actions"] == predicted["actions"]
        assert names(out) == sorted([*KINDS.get(kind, []), "disk.vmdk"])
        assert same(raw, "raw", dest, "vmdk")
        assert {path.stat().st_nlink for path in out.iterdir()} == {1}


def test_extents_are_removed_with_their_image_and_never_without(raw: Path, out: Path) -> None:
    dest, flat = out / "disk.vmdk", out / "disk-flat.vmdk"
    made(raw, "raw", dest, format="vmdk", subformat="monolithicFlat")
    gone = remove(flat, "raw")
    assert str(dest) in gone["dependents"]
    assert "read it as" in refused(raw, "raw", flat, format="raw", update="always")
    qemu_img("create", "-q", "-f", "qcow2", "-b", flat, "-F", "raw", out / "clone.qcow2")
    for result in (
        remove(dest, "vmdk"),
        convert(raw, "raw", dest, format="vmdk", update="always"),
        convert(dest, "vmdk", out / "new", trusted=True, remove_src=True),
    ):
        assert result["dependents"] == [str(out / "clone.qcow2")], result
    (out / "clone.qcow2").unlink()
    with opened_by_a_process(flat, "raw"):
        for result in (
            remove(dest, "vmdk"),
            convert(raw, "raw", dest, format="vmdk", update="always"),
        ):
            assert f"{flat}: in use by" in result["msg"]
        assert f"{flat}: is open for writing" in refused(dest, "vmdk", out / "new", trusted=True)
        (out / "link").symlink_to(dest)
        message = refused(raw, "raw", out / "link", format="vmdk", update="always")
        assert f"{flat}: in use by" in message, "nor by a link to it"
        (out / "link").unlink()
    (out / "disk-s001.vmdk").write_bytes(b"somebody else's")
    result = remove(dest, "vmdk")
    assert result["actions"] == [f"remove {dest} and its 1 extent(s)"]
    assert names(out) == ["disk-s001.vmdk"]


def test_a_foreign_file_is_never_taken_for_an_extent_and_never_overwritten(raw: Path, out: Path) -> None:
    dest, foreign = out / "disk.vmdk", out / "disk-f002.vmdk"
    foreign.write_bytes(b"precious")
    for kind in KINDS:
        message = refused(raw, "raw", dest, format="vmdk", subformat=kind)
        assert f"a file stands where an extent of the new image may have to go, {foreign}" in message
    foreign.unlink()
    victim = out.with_name("victim")
    victim.write_bytes(b"precious")
    dest.write_text(f'# Disk DescriptorFile\ncreateType="monolithicFlat"\nRW 8 FLAT "{victim}" 0\n', encoding="ascii")
    assert "not followed" in refused(raw, "raw", dest, format="vmdk", update="always", trusted=True)
    assert remove(dest, "vmdk")["actions"] == [f"remove {dest}"]
    assert victim.read_bytes() == b"precious"


@pytest.mark.parametrize("name", ["a b,c.vmdk", "-dash=x.vmdk", "nosuffix", "ümläut.v.mdk", "100%"])
def test_odd_names_are_just_names(name: str, tmp_path: Path, out: Path) -> None:
    source = tmp_path / "small.raw"
    source.write_bytes(b"\x5a" * MIB)
    made(source, "raw", out / name, format="vmdk", subformat="monolithicFlat")
    assert len(names(out)) == 2
    wish = {"format": "vmdk", "subformat": "monolithicFlat", "update": "changed"}
    assert not made(source, "raw", out / name, **wish)["changed"]
    made(out / name, "vmdk", out / "back.raw", format="raw", trusted=True, remove_src=True)
    assert names(out) == ["back.raw"]
    assert content(out / "back.raw", "raw") == content(source, "raw")


@pytest.mark.parametrize("name", ['quo"te.vmdk', "nbd:x.vmdk", "new\nline.vmdk", ".hidden", "x" * 250 + ".vmd"])
def test_a_name_that_a_descriptor_cannot_hold_is_refused(name: str, raw: Path, out: Path) -> None:
    for check in (True, False):
        message = refused(raw, "raw", out / name, format="vmdk", subformat="monolithicFlat", check=check)
        assert message.startswith("dest: ")
