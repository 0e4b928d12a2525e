# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qcow2_convert on a full disk, killed at each point, or run at once: one whole image stands in the place, always."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
from lab.module import run_module
from lab.pattern import write_pattern
from lab.tree import tree_state
from support.image_tools import MIB, NOBODY, content, create, names, qemu_img, qemu_io, small_file_system
from support.injection import Share, at_once, in_shares, killed_at, paused_at, points, signalled_at

MODULE = "qcow2_convert"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    write_pattern(path, 2, "faults")
    os.truncate(path, 4 * MIB)
    return path


def params(source: Path, dest: Path, **more: Any) -> dict[str, Any]:
    return {"src": str(source), "src_format": "raw", "dest": str(dest), "uri": NOBODY, **more}


def state(dest: Path) -> str | None:
    """What a guest would see of what stands at DEST; it must be whole."""
    if not dest.exists():
        return None
    qemu_img("check", "-q", "-f", "qcow2", dest)
    return content(dest)


@in_shares(2)
@pytest.mark.parametrize("verb", ["replaced", "moved"])
def test_a_kill_at_any_point_leaves_one_whole_image_and_the_next_run_converges(
    verb: str, source: Path, tmp_path: Path, share: Share
) -> None:
    """That is before each call that changes the world or starts qemu-img."""
    dest, wanted = tmp_path / "disk.qcow2", content(source, "raw")
    more: dict[str, dict[str, Any]] = {"replaced": {"update": "changed"}, "moved": {"remove_src": True}}
    wish, raw = params(source, dest, **more.get(verb, {})), source.read_bytes()

    def start_over() -> str | None:
        for name in set(names(tmp_path)) - {"points"}:
            run_over = tmp_path / name
            if run_over.is_dir():
                for staged in run_over.iterdir():
                    staged.unlink()
                run_over.rmdir()
            else:
                run_over.unlink()
        source.write_bytes(raw)
        if verb == "replaced":
            create(dest, "qcow2", 4 * MIB)
            qemu_io(dest, "write -P 9 1M 64k")
        return state(dest)

    start_over()
    found = points(wish, tmp_path / "points", module=MODULE)
    assert {"link 1", "mkdir 1"} & set(found)
    for _number, point in share.take(found):
        old = start_over()
        killed_at(point, wish, children=True, module=MODULE)
        now = state(dest)
        assert now in (old, wanted), point
        assert source.exists() or now == wanted, point
        before = tree_state(tmp_path)
        run_module(MODULE, wish, check=True)
        assert tree_state(tmp_path) == before
        again = run_module(MODULE, wish)
        assert not again.get("failed"), (point, again)
        assert state(dest) == wanted, point
        assert set(names(tmp_path)) == {dest.name, "points", *(() if verb == "moved" else (source.name,))}, point
        assert dest.stat().st_nlink == 1
        assert not run_module(MODULE, wish)["changed"]


def test_a_signal_at_any_point_undoes_or_finishes(source: Path, tmp_path: Path) -> None:
    dest, wanted = create(tmp_path / "disk.qcow2", "qcow2", 4 * MIB), content(source, "raw")
    old, before = state(dest), dest.read_bytes()
    wish = params(source, dest, update="changed")
    for point in points(wish, tmp_path / "points", module=MODULE):
        dest.write_bytes(before)
        result = signalled_at(point, "SIGTERM", wish, module=MODULE)
        assert "interrupted by SIGTERM" in result["msg"], point
        assert state(dest) in (old, wanted), point
        left = set(names(tmp_path)) - {"disk.qcow2", "disk.raw", "points"}
        assert left <= {".disk.qcow2.kvmops"}, point
        if left:  # it was told to end while it cleared up: the next run does that
            assert not run_module(MODULE, wish).get("failed")
            assert names(tmp_path) == ["disk.qcow2", "disk.raw", "points"], point


def test_what_appears_or_changes_meanwhile_is_left_alone(source: Path, tmp_path: Path) -> None:
    dest = tmp_path / "disk.qcow2"
    with paused_at("qemu-img-compare 1", params(source, dest), module=MODULE) as run:
        dest.write_bytes(b"precious")
    assert "a file appeared here in the meantime" in run.result()["msg"]
    assert dest.read_bytes() == b"precious"
    dest.unlink()

    create(dest, "qcow2", MIB)
    with paused_at("qemu-img-compare 1", params(source, dest, update="always"), module=MODULE) as run:
        other = create(tmp_path / "other", "qcow2", 2 * MIB)
        os.rename(other, dest)
        kept = hashlib.sha256(dest.read_bytes()).hexdigest()
    assert "is no longer the file that was looked at" in run.result()["msg"]
    assert hashlib.sha256(dest.read_bytes()).hexdigest() == kept

    with (
        paused_at("qemu-img-compare 1", params(source, tmp_path / "new"), module=MODULE) as run,
        source.open("r+b") as stream,
    ):
        stream.write(b"x")
    assert "has other content than" in run.result()["msg"]
    with (
        paused_at("qemu-img-convert 1", params(source, tmp_path / "new", verify=False), module=MODULE) as run,
        source.open("r+b") as stream,
    ):
        stream.write(b"y")
    assert "was written to" in run.result()["msg"]
    assert names(tmp_path) == ["disk.qcow2", "disk.raw"]


def test_a_full_disk_is_foreseen_and_survived(source: Path, tmp_path: Path) -> None:
    source.write_bytes(os.urandom(3 * MIB) + bytes(MIB))
    with small_file_system(tmp_path / "small", "3M") as small:
        dest = small / "disk.qcow2"
        create(dest, "qcow2", 4 * MIB)
        qemu_io(dest, "write -P 9 0 1M")
        before = {**tree_state(small), ".": None}
        for check in (True, False):
            result = run_module(MODULE, params(source, dest, update="always"), check=check)
            assert result["required_bytes"] > result["available_bytes"], result
        result = run_module(MODULE, params(source, dest, update="always", compress=True))
        assert "the file system is full" in result["msg"], "how far it shrinks cannot be foreseen"
        assert {**tree_state(small), ".": None} == before
        (small / "filler").write_bytes(bytes(MIB // 2))
        full = run_module(MODULE, params(source, small / "x", format="raw"))
        assert "not enough space" in full["msg"]
        assert names(small) == ["disk.qcow2", "filler"]


def test_runs_at_once_make_an_image_once_and_many_may_read_one_source(source: Path, tmp_path: Path) -> None:
    wish = params(source, tmp_path / "disk.qcow2", update="changed")
    results = at_once(MODULE, *[wish] * 3)
    assert [result for result in results if result.get("failed")] == []
    assert sorted(result["changed"] for result in results) == [False, False, True]
    qemu_io(source, "write -P 3 1M 64k", "raw")
    results = at_once(MODULE, *[wish] * 3)
    assert [result for result in results if result.get("failed")] == []
    assert True in [result["changed"] for result in results]
    assert content(tmp_path / "disk.qcow2") == content(source, "raw")
    many = at_once(MODULE, *(params(source, tmp_path / f"copy{number}") for number in range(3)))
    assert all(result["changed"] for result in many)
    moved = params(source, tmp_path / "moved", remove_src=True)
    results = at_once(MODULE, *[moved] * 3)
    assert [result for result in results if result.get("failed")] == []
    assert names(tmp_path) == ["copy0", "copy1", "copy2", "disk.qcow2", "moved"]


def test_an_unprivileged_user_converts_what_he_may_read(open_directory: Path) -> None:
    source, own = open_directory / "disk.raw", open_directory / "own"
    write_pattern(source, 2, "faults")
    source.chmod(0o644)
    own.mkdir()
    os.chown(own, 65533, 65533)
    wish = params(source, own / "disk.qcow2")
    assert run_module(MODULE, wish, as_user=65533)["changed"]
    assert (own / "disk.qcow2").stat().st_uid == 65533
    assert not run_module(MODULE, {**wish, "update": "changed"}, as_user=65533)["changed"]
    assert "no permission to write" in run_module(MODULE, params(source, open_directory / "x"), as_user=65533)["msg"]
