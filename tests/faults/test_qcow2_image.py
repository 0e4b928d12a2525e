# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qcow2_image on a full disk, killed, or run twice at once: nothing is left, and the next run converges."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from lab.module import run_module, start_module
from lab.tree import tree_state
from support.held_qemu_img import HeldQemuImg
from support.image_tools import (
    MIB,
    NOBODY,
    allocated,
    begin,
    content,
    create,
    done,
    image_params,
    info,
    names,
    qemu_img,
    qemu_io,
    refused,
    small_file_system,
    specific,
    staged,
)
from support.injection import at_once, kill_with_qemu_img, paused_at, wait_in, waiting
from support.processes import is_gone, waits_for_a_lock
from support.waits import send, send_to_group, wait_for
from support.write_log import cut_short

MODULE = "qcow2_image"
BIG = 64 * MIB


class Work:
    """A run whose qemu-img stands still at the beginning of its VERB."""

    def __init__(self, apart: Path, verb: str, path: Path, **params: Any) -> None:
        self.held = HeldQemuImg(apart, verb, 0)
        self.run = start_module(MODULE, image_params(path, params), python=self.held.python())
        (self.qemu_img,) = self.held.wait()


@pytest.fixture
def apart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("apart")


# --- a full disk ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "params",
    [
        {"format": "raw", "preallocation": "falloc"},
        {"format": "raw", "preallocation": "full"},
        {"format": "qcow2", "preallocation": "falloc"},
        {"format": "qcow2", "preallocation": "full"},
    ],
    ids=str,
)
def test_a_disk_that_does_not_fit_is_refused_with_the_figures(params: dict[str, Any], tmp_path: Path) -> None:
    with small_file_system(tmp_path / "small", "8M") as small:
        for check in (True, False):
            result = refused(small / "disk", size="16M", check=check, **params)
            assert "not enough space" in result["msg"]
            assert result["required_bytes"] >= 16 * MIB > result["available_bytes"]
            assert names(small) == []
        assert done(small / "disk", size="16M", format=params["format"])["changed"], "a thin one fits"


@pytest.mark.parametrize("policy", ["falloc", "full"])
@pytest.mark.parametrize("name", ["raw", "qcow2"])
def test_a_growth_that_does_not_fit_is_refused_with_the_figures(name: str, policy: str, tmp_path: Path) -> None:
    with small_file_system(tmp_path / "small", "8M") as small:
        create(small / "disk", name, MIB)
        qemu_io(small / "disk", "write -P 0x5a 0 1M", name)
        before = tree_state(small)
        result = refused(small / "disk", format=name, size="17M", preallocation=policy)
        assert result["required_bytes"] == 16 * MIB > result["available_bytes"]
        assert tree_state(small) == before


@pytest.mark.parametrize("name", ["vhdx", "parallels"])
def test_a_creation_that_fails_midway_leaves_nothing(name: str, tmp_path: Path) -> None:
    with small_file_system(tmp_path / "small", "512K") as small:
        (small / "other").write_bytes(b"precious")
        before = tree_state(small)["other"]
        result = refused(small / "disk", format=name, size="64M")
        assert "qemu-img create" in result["msg"]
        assert names(small) == ["other"]
        assert tree_state(small)["other"] == before


def test_a_disk_without_room_for_the_record_is_an_error_and_removing_still_works(tmp_path: Path) -> None:
    with small_file_system(tmp_path / "small", "1M") as small:
        create(small / "disk")
        fill(small / "filler")
        before = tree_state(small)
        assert "cannot write the record" in refused(small / "other", format="raw", size="1M")["msg"]
        assert "cannot write the record" in refused(small / "disk", size="20M")["msg"]
        assert tree_state(small)["disk"] == before["disk"]
        assert names(small) == ["disk", "filler"]
        assert done(small / "disk", state="absent")["changed"]
        assert names(small) == ["filler"]


# --- killed -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_qemu_img", [True, False])
def test_a_creation_that_was_killed_is_made_anew(with_qemu_img: bool, tmp_path: Path, apart: Path) -> None:
    path = tmp_path / "disk"
    params = {"format": "raw", "size": str(BIG), "preallocation": "full"}
    work = Work(apart, "create", path, **params)
    staged(tmp_path / "disk").write_bytes(bytes(MIB))  # as far as it came
    if with_qemu_img:
        kill_with_qemu_img(work.run, work.qemu_img)
    else:
        work.run.kill(children=False)
    wait_for(lambda: is_gone(work.qemu_img), "what fills a new file ends with the module")
    assert allocated(staged(path)) == MIB
    assert names(tmp_path) == [".disk.kvmops", ".disk.kvmops.d"], "no half-made image under its name"

    before = tree_state(tmp_path)
    prediction = done(path, check=True, **{**params, "preallocation": "off"})
    assert tree_state(tmp_path) == before
    result = done(path, **{**params, "preallocation": "off"})
    assert result["actions"] == prediction["actions"]
    assert result["actions"][0] == f"remove the unfinished file that an interrupted run left for {path}"
    assert result["actions"][-1].startswith(f"create raw image {path}")
    assert names(tmp_path) == ["disk"]
    assert not done(path, **params)["changed"]


def test_what_a_killed_creation_left_is_removed_with_the_image(tmp_path: Path, apart: Path) -> None:
    path = tmp_path / "disk"
    work = Work(apart, "create", path, format="raw", size=str(BIG), preallocation="full")
    staged(tmp_path / "disk").write_bytes(bytes(MIB))
    kill_with_qemu_img(work.run, work.qemu_img)
    assert done(path, state="absent")["changed"]
    assert names(tmp_path) == []
    assert not done(path, state="absent")["changed"]


def test_a_creation_that_is_told_to_end_leaves_nothing(tmp_path: Path, apart: Path) -> None:
    work = Work(apart, "create", tmp_path / "disk", format="raw", size=str(BIG), preallocation="full")
    staged(tmp_path / "disk").write_bytes(bytes(MIB))
    send(work.run.pid, signal.SIGTERM)
    result = work.run.result()
    assert result["failed"]
    assert "interrupted by SIGTERM" in result["msg"]
    assert names(tmp_path) == []


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = create(tmp_path / "disk")
    qemu_io(path, "write -P 0x5a 1M 8M")
    return path


@pytest.fixture
def growth(disk: Path, apart: Path) -> Work:
    return Work(apart, "resize", disk, size=str(BIG), preallocation="full")


def test_an_image_whose_growth_was_killed_is_checked_and_grown(disk: Path, growth: Work) -> None:
    before = content(disk, length=10 * MIB)
    kill_with_qemu_img(growth.run, growth.qemu_img)
    cut_short(disk, "resize", "-q", "--preallocation=full", size=str(BIG))
    assert names(disk.parent) == [".disk.kvmops", "disk"]
    found = tree_state(disk.parent)
    prediction = done(disk, check=True, size=str(BIG))
    assert tree_state(disk.parent) == found
    assert prediction["actions"][0].startswith(f"check {disk}, on which a run was interrupted at ")
    result = done(disk, size=str(BIG))
    assert result["actions"] == prediction["actions"]
    assert names(disk.parent) == ["disk"]
    assert info(disk)["virtual-size"] == BIG
    assert content(disk, length=10 * MIB) == before
    qemu_img("check", "-q", "-f", "qcow2", disk)
    assert not done(disk, size=str(BIG))["changed"]


def test_a_growth_goes_on_without_its_module_and_the_next_run_waits_for_it(disk: Path, growth: Work) -> None:
    before = content(disk, length=10 * MIB)
    growth.run.kill(children=False)
    with waiting(image_params(disk, {"size": str(BIG)}), module=MODULE) as run:
        growth.held.let_go()
    result = run.result()
    assert [action.split(",")[0] for action in result["actions"]] == [f"check {disk}"]
    assert info(disk)["virtual-size"] == BIG
    assert content(disk, length=10 * MIB) == before
    assert names(disk.parent) == ["disk"]
    assert not done(disk, size=str(BIG))["changed"]


def test_a_growth_that_is_told_to_end_is_finished_first(disk: Path, growth: Work) -> None:
    before = content(disk, length=10 * MIB)
    send_to_group(growth.run.pid, signal.SIGTERM)
    growth.held.let_go()
    result = growth.run.result()
    assert "interrupted by SIGTERM" in result["msg"]
    assert info(disk)["virtual-size"] == BIG
    qemu_img("check", "-q", "-f", "qcow2", disk)
    assert content(disk, length=10 * MIB) == before
    assert names(disk.parent) == ["disk"]


def fill(path: Path) -> None:
    """A file that takes all the room that there is."""
    with path.open("wb", buffering=0) as stream, contextlib.suppress(OSError):
        while stream.write(bytes(4096)):
            pass


def dead_record(path: Path, text: str = '{"verb": "reconcile", "started": "2024-01-01T00:00:00+00:00"}') -> None:
    path.with_name(f".{path.name}.kvmops").write_text(text, encoding="utf-8")


@pytest.mark.parametrize("text", ['{"verb": "reconcile", "started": "2024"}', '{"verb": "rec'])
def test_a_dead_record_makes_the_next_run_check_and_repair_leaks(text: str, disk: Path) -> None:
    leak(disk)
    dead_record(disk, text)
    before = content(disk)
    assert done(disk, size="10M")["changed"]
    qemu_img("check", "-q", "-f", "qcow2", disk)
    assert content(disk) == before
    assert names(disk.parent) == ["disk"]
    assert not done(disk, size="10M")["changed"]


def test_a_dead_record_on_a_corrupt_image_stops_every_run_and_stays(disk: Path) -> None:
    with disk.open("r+b") as stream:
        stream.seek(int.from_bytes(disk.read_bytes()[48:56], "big"))
        stream.write(bytes(8))
    dead_record(disk)
    before = tree_state(disk.parent)
    for _again in range(2):
        result = refused(disk, size="20M")
        assert "corruption(s) in the metadata" in result["msg"]
        assert result["check"]["result"] == "corrupt"
        assert tree_state(disk.parent)["disk"] == before["disk"]
        assert names(disk.parent) == [".disk.kvmops", "disk"]


def test_a_dead_record_of_a_raw_image_is_settled_without_a_check_to_make(tmp_path: Path) -> None:
    path = create(tmp_path / "disk", "raw")
    dead_record(path)
    assert done(path, format="raw", size="10M")["changed"]
    assert names(tmp_path) == ["disk"]


def leak(path: Path) -> None:
    """A cluster that is counted and that nobody refers to."""
    content = path.read_bytes()
    table = int.from_bytes(content[48:56], "big")
    block = int.from_bytes(content[table : table + 8], "big")
    end = (len(content) + 65535) // 65536
    with path.open("r+b") as stream:
        stream.truncate((end + 1) * 65536)
        stream.seek(block + 2 * end)
        stream.write(b"\0\1")
    checked = subprocess.run(["qemu-img", "check", "-f", "qcow2", path], capture_output=True, check=False)
    assert checked.returncode == 3


# --- at once ----------------------------------------------------------------------------------------------------


def test_runs_at_once_make_the_image_exactly_once(tmp_path: Path) -> None:
    results = at_once(MODULE, *[image_params(tmp_path / "disk", {"size": "64M", "preallocation": "full"})] * 4)
    assert [result for result in results if result.get("failed")] == []
    assert sorted(result["changed"] for result in results) == [False, False, False, True]
    assert names(tmp_path) == ["disk"]
    qemu_img("check", "-q", "-f", "qcow2", tmp_path / "disk")


def test_runs_at_once_change_the_image_exactly_once(disk: Path) -> None:
    results = at_once(MODULE, *[image_params(disk, {"size": "20M", "lazy_refcounts": True})] * 4)
    assert [result for result in results if result.get("failed")] == []
    assert sorted(result["changed"] for result in results) == [False, False, False, True]
    assert (info(disk)["virtual-size"], specific(disk)["lazy-refcounts"]) == (20 * MIB, True)
    assert names(disk.parent) == ["disk"]


def test_images_that_are_made_at_once_are_counted_one_after_the_other(tmp_path: Path) -> None:
    with small_file_system(tmp_path / "small", "64M") as small:
        wanted = {"size": "40M", "max_overcommit": 1}
        first = image_params(small / "one", wanted)
        with paused_at("qemu-img-create 1", first, module=MODULE) as run:
            other = begin(small / "two", **wanted)
            wait_in(other, lambda: waits_for_a_lock(other.pid), "the other run waits")
            assert done(small / "two", check=True, **wanted)["changed"], "who only looks does not wait"
        assert run.result()["changed"]
        result = other.result()
        assert "max_overcommit is 1: ask for 24 MiB or less" in result["msg"]
        assert names(small) == ["one"]


def test_check_mode_does_not_take_the_work_of_a_living_run_for_leftovers(tmp_path: Path, apart: Path) -> None:
    path = tmp_path / "disk"
    work = Work(apart, "create", path, format="raw", size=str(BIG), preallocation="full")
    prediction = done(path, check=True, format="raw", size=str(BIG))
    assert [action.split()[0] for action in prediction["actions"]] == ["create"]
    work.held.let_go()
    assert work.run.result()["changed"]
    assert names(tmp_path) == ["disk"]


def test_an_unprivileged_user_manages_images_in_a_directory_of_his_own(open_directory: Path) -> None:
    own, other = open_directory / "own", open_directory / "other"
    own.mkdir()
    os.chown(own, 65533, 65533)
    other.mkdir(mode=0o755)
    own_disk = {"path": str(own / "disk"), "size": "2M", "uri": NOBODY}
    result = run_module(MODULE, own_disk, as_user=65533)
    assert result["changed"], result
    assert (own / "disk").stat().st_uid == 65533
    assert not run_module(MODULE, own_disk, as_user=65533)["changed"]
    denied = run_module(MODULE, {**own_disk, "path": str(other / "disk")}, as_user=65533)
    assert "no permission to write" in denied["msg"]
    assert names(other) == []
