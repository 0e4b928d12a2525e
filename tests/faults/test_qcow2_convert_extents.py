# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A VMDK of several files, killed on its way: one whole image is there or none, and the next run converges."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from lab.module import run_module
from lab.tree import tree_state
from support.image_tools import MIB, NOBODY, content, names, small_file_system
from support.injection import at_once, killed_at, paused_at, points, signalled_at, waiting

MODULE = "qcow2_convert"


def wish(source: Path, dest: Path, **more: Any) -> dict[str, Any]:
    return {
        "src": str(source),
        "src_format": "raw",
        "dest": str(dest),
        "format": "vmdk",
        "subformat": "monolithicFlat",
        "update": "changed",
        "uri": NOBODY,
        **more,
    }


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    path.write_bytes(b"\x5a" * MIB + bytes(MIB))
    return path


@pytest.fixture
def dest(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "disk.vmdk"


@pytest.fixture
def earlier(dest: Path, tmp_path: Path) -> Path:
    """An older image of another kind, as a directory to begin from; its content is another one."""
    old = tmp_path / "old.raw"
    old.write_bytes(b"\x11" * 2 * MIB)
    assert run_module(MODULE, wish(old, dest, subformat="twoGbMaxExtentFlat"))["changed"]
    return Path(shutil.copytree(dest.parent, tmp_path / "earlier"))


def start_over(dest: Path, earlier: Path | None) -> None:
    shutil.rmtree(dest.parent)
    if earlier:
        shutil.copytree(earlier, dest.parent)
    else:
        dest.parent.mkdir()


def moving(found: list[str]) -> list[str]:
    """The points at which a name comes or goes, from the first file that is moved to the first that is cleared away."""
    last = max(index for index, point in enumerate(found) if point.startswith("link")) + 4
    first = found.index("qemu-img-compare 1") + 1
    return [point for point in found[first:last] if point.startswith(("link", "rename", "unlink"))]


@pytest.mark.parametrize("replaces", [True, False], ids=["replaced", "new"])
def test_a_kill_at_any_move_is_found_and_the_next_run_makes_the_image(
    replaces: bool, source: Path, dest: Path, earlier: Path, tmp_path: Path
) -> None:
    old, new = content(dest, "vmdk"), content(source, "raw")
    begin = earlier if replaces else None
    start_over(dest, begin)
    half = 0
    for point in moving(points(wish(source, dest), tmp_path / "points", module=MODULE)):
        start_over(dest, begin)
        killed_at(point, wish(source, dest), module=MODULE)
        there = dest.exists()
        half += not there
        if there:
            assert content(dest, "vmdk") in (old, new), point
        before = tree_state(dest.parent)
        told = run_module(MODULE, wish(source, dest), check=True)
        assert tree_state(dest.parent) == before, point
        if replaces and not there:
            assert told["actions"][0] == f"put back the files of {dest} that an interrupted run was replacing", point
            for state in ("present", "absent"):
                other = {"path": str(dest), "format": "vmdk", "size": "2M", "state": state, "uri": NOBODY}
                assert "run the same conversion again" in run_module("qcow2_image", other)["msg"], point
            assert tree_state(dest.parent) == before, point
        again = run_module(MODULE, wish(source, dest))
        assert not again.get("failed"), (point, again)
        assert again["actions"] == told["actions"], point
        assert content(dest, "vmdk") == new, point
        assert names(dest.parent) == ["disk-flat.vmdk", "disk.vmdk"], point
    assert half >= 3, "there are moments without an image"
    assert not run_module(MODULE, wish(source, dest))["changed"]


def test_what_was_being_replaced_is_kept_where_the_next_run_cannot_make_it_anew(
    source: Path, dest: Path, earlier: Path
) -> None:
    old = content(dest, "vmdk")
    for point in ("unlink 2", "link 4"):
        start_over(dest, earlier)
        killed_at(point, wish(source, dest), module=MODULE)
        assert not dest.exists(), point
        kept = run_module(MODULE, wish(source, dest, update="missing"))
        assert kept["actions"][0] == f"put back the files of {dest} that an interrupted run was replacing"
        assert not any(action.startswith("convert") for action in kept["actions"])
        assert content(dest, "vmdk") == old
        assert names(dest.parent) == names(earlier)


def test_a_signal_at_a_move_puts_the_old_files_back(source: Path, dest: Path, earlier: Path, tmp_path: Path) -> None:
    old, new = content(dest, "vmdk"), content(source, "raw")
    for point in moving(points(wish(source, dest), tmp_path / "points", module=MODULE))[::3]:
        start_over(dest, earlier)
        told = signalled_at(point, "SIGTERM", wish(source, dest), module=MODULE)
        assert "interrupted by SIGTERM" in told["msg"], point
        assert content(dest, "vmdk") in (old, new), point
        left = {name for name in names(dest.parent) if not name.startswith(".")}
        assert left in ({"disk.vmdk", "disk-f001.vmdk"}, {"disk.vmdk", "disk-flat.vmdk"}), point
        assert not run_module(MODULE, wish(source, dest)).get("failed")
        assert content(dest, "vmdk") == new


def test_a_file_that_appears_in_the_way_is_left_alone(source: Path, dest: Path) -> None:
    flat = dest.with_name("disk-flat.vmdk")
    for victim in (flat, dest):
        with paused_at("qemu-img-compare 1", wish(source, dest), module=MODULE) as run:
            victim.write_bytes(b"precious")
        assert "a file appeared here in the meantime" in run.result()["msg"]
        assert (names(dest.parent), victim.read_bytes()) == ([victim.name], b"precious")
        victim.unlink()


def test_a_kill_while_the_files_of_a_source_go_is_found(source: Path, dest: Path, tmp_path: Path) -> None:
    assert run_module(MODULE, wish(source, dest))["changed"]
    sound = Path(shutil.copytree(dest.parent, tmp_path / "sound"))
    target = tmp_path / "back.raw"
    back = wish(dest, target, src_format="vmdk", format="raw", subformat=None, trusted=True, remove_src=True)
    found = points(back, tmp_path / "points", module=MODULE)
    target.unlink()
    for point in [point for point in found if point.startswith("unlink")]:
        start_over(dest, sound)
        killed_at(point, back, module=MODULE)
        assert dest.exists() or content(target, "raw") == content(source, "raw"), point
        again = run_module(MODULE, back)
        assert not again.get("failed"), (point, again)
        assert names(dest.parent) == [], point
        assert content(target, "raw") == content(source, "raw")
        target.unlink()


def test_a_full_disk_keeps_the_old_image(source: Path, tmp_path: Path) -> None:
    with small_file_system(tmp_path / "small", "4M") as small:
        dest = small / "disk.vmdk"
        assert run_module(MODULE, wish(source, dest))["changed"]
        source.write_bytes(os.urandom(5 * MIB))
        before = {**tree_state(small), ".": None}
        result = run_module(MODULE, wish(source, dest))
        assert result["required_bytes"] > result["available_bytes"]
        assert {**tree_state(small), ".": None} == before


def test_runs_at_once_make_it_once(source: Path, dest: Path) -> None:
    results = at_once(MODULE, *[wish(source, dest)] * 3)
    assert sorted(result["changed"] for result in results) == [False, False, True]
    with (
        paused_at("unlink 2", wish(source, dest, update="always"), module=MODULE) as run,
        waiting(wish(source, dest, update="always"), module=MODULE) as other,
    ):
        assert ".disk.vmdk.kvmops.d" in names(dest.parent), "it is being replaced"
    assert run.result()["changed"]
    assert other.result()["changed"]
    assert content(dest, "vmdk") == content(source, "raw")
