# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A rebase or a flattening by qcow2_image that is killed, interrupted, crossed or out of space loses nothing.

It is the content that tells, since qemu-img check says nothing of a base that is gone (HAZARDS A1).
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from lab.tree import tree_state
from support.image_tools import (
    MIB,
    NOBODY,
    content,
    create,
    done,
    info,
    names,
    overlay,
    qemu_img,
    qemu_io,
    refused,
    small_file_system,
)
from support.injection import at_once, killed_at, paused_at, points, signalled_at
from support.write_log import replay, writes_of

MODULE = "qcow2_image"
FILES = ["clone", "new", "old"]


@pytest.fixture
def disks(tmp_path: Path) -> Path:
    return furnish(tmp_path)


def furnish(directory: Path) -> Path:
    """A clone that reads old, and new, in which much is otherwise."""
    old = create(directory / "old")
    qemu_io(old, "write -P 1 0 6M")
    shutil.copyfile(old, directory / "new")
    qemu_io(directory / "new", "write -P 2 1M 7M")
    overlay(directory / "clone", "old")
    qemu_io(directory / "clone", "write -P 5 2M 64k")
    return directory


def asked(disks: Path, wanted: str) -> dict[str, Any]:
    other = {"backing_file": str(disks / "new"), "backing_format": "qcow2"}
    return {"path": str(disks / "clone"), "uri": NOBODY, "trusted": True, **(other if wanted else {"backing_file": ""})}


def again(params: dict[str, Any], **more: Any) -> dict[str, Any]:
    return done(**{**params, **more})


@pytest.mark.parametrize("wanted", ["", "new"], ids=["flattened", "rebased"])
def test_wherever_it_is_killed_the_guest_sees_the_same_and_the_next_run_finishes(wanted: str, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    furnish(model)
    before = content(model / "clone")
    rehearsal = tmp_path / "rehearsal"
    shutil.copytree(model, rehearsal)
    every_point = points(asked(rehearsal, wanted), tmp_path / "points", module=MODULE)
    moment = every_point.index("rename 1")
    forgets = [point for point in every_point if point.startswith("unlink")][-1]
    chosen = ["qemu-img-rebase 2", "qemu-img-compare 1", "link 1", "rename 1", every_point[moment + 1], forgets]
    for number, point in enumerate(chosen):
        disks = tmp_path / f"run {number}"
        shutil.copytree(model, disks)
        killed_at(point, asked(disks, wanted), children=True, module=MODULE)
        assert content(disks / "clone") == before, point
        qemu_img("check", "-q", "-f", "qcow2", disks / "clone")
        is_over = info(disks / "clone").get("backing-filename") != "old"
        assert is_over is (every_point.index(point) > moment), point
        result = again(asked(disks, wanted))
        assert result["changed"], point
        assert names(disks) == FILES, point
        assert content(disks / "clone") == before, point
        assert result["image"]["backing_file"] == (str(disks / "new") if wanted else None), point
        assert not again(asked(disks, wanted))["changed"], point
        shutil.rmtree(disks)


def test_a_rebase_that_is_told_to_end_leaves_the_image_as_it_was(disks: Path) -> None:
    state = tree_state(disks)
    result = signalled_at("qemu-img-compare 1", "SIGTERM", asked(disks, "new"), module=MODULE)
    assert "interrupted by SIGTERM" in result["msg"]
    del state["."]
    assert {name: facts for name, facts in tree_state(disks).items() if name != "."} == state


def test_a_write_to_the_image_meanwhile_wins(disks: Path) -> None:
    with paused_at("qemu-img-compare 1", asked(disks, "new"), module=MODULE) as run:
        qemu_io(disks / "clone", "write -P 9 9M 64k")
        after = content(disks / "clone")
    assert "failed" in run.result()
    assert content(disks / "clone") == after
    assert names(disks) == FILES
    assert again(asked(disks, "new"))["changed"]
    assert content(disks / "clone") == after


def test_a_disk_that_becomes_full_is_an_error_that_changes_nothing(tmp_path: Path) -> None:
    with small_file_system(tmp_path / "small", "32M") as small:
        furnish(small)
        before = content(small / "clone")
        with paused_at("qemu-img-rebase 2", asked(small, ""), module=MODULE) as run:
            free = os.statvfs(small)
            (small / "filler").write_bytes(bytes(free.f_bavail * free.f_bsize - MIB))
        result = run.result()
        assert "the file system is full" in result["msg"]
        assert content(small / "clone") == before
        assert names(small) == ["clone", "filler", "new", "old"]
        assert "not enough space" in refused(**asked(small, ""))["msg"]


def test_runs_at_once_rebase_exactly_once(disks: Path) -> None:
    before = content(disks / "clone")
    results = at_once(MODULE, *[asked(disks, "new")] * 3)
    assert [result for result in results if result.get("failed")] == []
    assert sorted(result["changed"] for result in results) == [False, False, True]
    assert content(disks / "clone") == before
    assert names(disks) == FILES


def test_a_new_name_that_was_killed_is_the_old_one_or_the_new_one(disks: Path) -> None:
    (disks / "old").rename(disks / "moved")
    named = {**asked(disks, "new"), "backing_file": str(disks / "moved"), "rebase": "unsafe"}
    killed_at("qemu-img-rebase 1", named, children=True, module=MODULE)
    prediction = again(named, check=True)
    result = again(named)
    assert prediction["actions"] == result["actions"]
    assert result["image"]["backing_file"] == str(disks / "moved")
    assert names(disks) == ["clone", "moved", "new"]
    assert not again(named)["changed"]


def test_wherever_an_amendment_was_cut_off_the_content_is_whole_and_the_next_run_finishes(tmp_path: Path) -> None:
    """refcount_bits rewrites all reference counts."""
    before, worked, disk = tmp_path / "before", tmp_path / "worked", tmp_path / "disk"
    create(before, "qcow2", 64 * MIB, "-o", "cluster_size=4k")
    qemu_io(before, "write -P 1 0 6M")
    shutil.copyfile(before, worked)
    writes = writes_of(worked, "amend", "-q", "-o", "refcount_bits=1")
    wanted = content(before)
    for number in range(0, len(writes), max(1, len(writes) // 6)):
        replay(before, writes[: number + 1], disk)
        dead_record(disk)
        assert content(disk) == wanted, number
        result = done(disk, refcount_bits=1)
        assert result["changed"], number
        assert (result["image"]["refcount_bits"], content(disk)) == (1, wanted), number
        qemu_img("check", "-q", "-f", "qcow2", disk)
        assert not done(disk, refcount_bits=1)["changed"], number


def dead_record(path: Path) -> None:
    text = '{"verb": "reconcile", "started": "2024-01-01T00:00:00+00:00"}'
    path.with_name(f".{path.name}.kvmops").write_text(text, encoding="utf-8")
