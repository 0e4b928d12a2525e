# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How far a long task is: what a module writes of it, and what is printed of that."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._progress import (
    ENVIRONMENT,
    Progress,
    percentage,
    rate,
    seconds_left,
)
from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg
from ansible_collections.kvmops.disk.plugins.plugin_utils._progress_lines import Lines, duration, speed

GIB = 1 << 30


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Watched:
    """A module's progress, and the lines that somebody sees who looks now and then."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = Clock()
        self.progress = Progress(str(path), self.clock)
        self.lines = Lines("host1")

    def state(self) -> dict[str, Any]:
        found = json.loads(self.path.read_text(encoding="utf-8"))
        assert isinstance(found, dict)
        return found

    def look(self) -> list[str]:
        return self.lines.new(self.state()["phases"])


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path / "progress")


@pytest.mark.parametrize(
    ("done", "total", "state", "expected"),
    [
        (0, 20 * GIB, "running", 0),
        (GIB, 20 * GIB, "running", 5),
        (20 * GIB - 1, 20 * GIB, "running", 99),
        (20 * GIB, 20 * GIB, "running", 99),
        (20 * GIB, 20 * GIB, "done", 100),
        (30 * GIB, 20 * GIB, "running", 99),
        (0, 0, "running", 0),
        (0, 0, "done", 100),
    ],
)
def test_a_hundred_percent_are_done_and_nothing_else_is(done: int, total: int, state: str, expected: int) -> None:
    assert percentage(done, total, state) == expected


@pytest.mark.parametrize(
    ("done", "total", "seconds", "per_second", "left"),
    [
        (0, 100, 10.0, None, None),
        (50, 100, 0.0, None, None),
        (50, 100, 10.0, 5, 10),
        (99, 100, 10.0, 10, 1),
        (100, 100, 10.0, 10, 0),
        (120, 100, 10.0, 12, 0),
    ],
)
def test_rate_and_time_left_are_told_when_they_can_be(
    done: int, total: int, seconds: float, per_second: int | None, left: int | None
) -> None:
    assert rate(done, seconds) == per_second
    assert seconds_left(done, total, seconds) == left


@pytest.mark.parametrize(
    ("size", "text"),
    [(310 << 20, "310 MiB/s"), (5 << 19, "2.5 MiB/s"), (3 * GIB // 2, "1.5 GiB/s"), (2048, "2 KiB/s")],
)
def test_a_rate_has_as_many_digits_as_mean_something(size: int, text: str) -> None:
    assert speed(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (0.44, "0.4 s"), (37, "37 s"), (119, "119 s"), (720, "12 min"), (7500, "2 h 5 min")],
)
def test_a_time_is_told_in_the_units_of_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_each_part_has_a_line_when_it_begins_while_it_runs_and_when_it_ends(watched: Watched) -> None:
    assert watched.look() == []
    with watched.progress.phase("web vda", "convert", 20 * GIB) as phase:
        assert watched.look() == ["[host1] web vda: convert 0 % of 20 GiB"]
        watched.clock.now += 28
        phase.percent(43.5)
        assert watched.look() == ["[host1] web vda: convert 43 % of 20 GiB, 318 MiB/s, 37 s left"]
        assert watched.look() == ["[host1] web vda: convert 43 % of 20 GiB, 318 MiB/s, 37 s left"]
        watched.clock.now += 36
    assert watched.look() == ["[host1] web vda: convert 100 % of 20 GiB, 320 MiB/s, in 64 s"]
    assert watched.look() == []


def test_a_part_that_was_over_before_anybody_looked_is_told_too(watched: Watched) -> None:
    for verb in ("convert", "compare"):
        with watched.progress.phase("web vda", verb, GIB):
            watched.clock.now += 0.5
    assert watched.look() == [
        "[host1] web vda: convert 0 % of 1 GiB",
        "[host1] web vda: convert 100 % of 1 GiB, 2.0 GiB/s, in 0.5 s",
        "[host1] web vda: compare 0 % of 1 GiB",
        "[host1] web vda: compare 100 % of 1 GiB, 2.0 GiB/s, in 0.5 s",
    ]


def test_a_part_that_fails_says_where(watched: Watched) -> None:
    with contextlib.suppress(KeyError), watched.progress.phase("web vda", "convert", GIB) as phase:
        phase.percent(50)
        raise KeyError
    assert watched.look()[-1] == "[host1] web vda: convert failed at 50 % of 1 GiB"


def test_a_part_whose_size_nobody_knows_is_told_without_one(watched: Watched) -> None:
    with watched.progress.phase("web vda", "copy", 0):
        assert watched.look() == ["[host1] web vda: copy 0 %"]
        watched.clock.now += 2
    assert watched.look() == ["[host1] web vda: copy 100 %, in 2 s"]


def test_the_figures_of_a_block_job_may_move(watched: Watched) -> None:
    with watched.progress.phase("web vda", "copy", GIB) as phase:
        watched.look()
        watched.clock.now += 1
        phase.at(GIB, 2 * GIB)
        assert watched.look() == ["[host1] web vda: copy 50 % of 2 GiB, 1.0 GiB/s, 1 s left"]


def test_the_file_names_the_process_and_is_nobody_elses_business(watched: Watched) -> None:
    assert watched.state() == {"pid": os.getpid(), "phases": []}
    assert stat.S_IMODE(watched.path.stat().st_mode) == 0o600
    assert os.listdir(watched.path.parent) == ["progress"]


def test_nothing_is_written_where_nobody_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    with Progress.wanted().phase("web vda", "convert", GIB) as phase:
        phase.percent(50)
    assert os.listdir(tmp_path) == []


def test_the_home_directory_is_that_of_the_modules_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(ENVIRONMENT, "~/progress")
    Progress.wanted()
    assert os.listdir(tmp_path) == ["progress"]


def test_a_file_that_cannot_be_written_does_not_stop_the_task(tmp_path: Path) -> None:
    progress = Progress(str(tmp_path / "missing" / "progress"))
    with progress.phase("web vda", "convert", GIB) as phase:
        phase.percent(50)


def test_a_link_in_the_place_of_the_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("somebody's", encoding="utf-8")
    (tmp_path / "progress.new").symlink_to(tmp_path / "victim")
    Progress(str(tmp_path / "progress"))
    assert (tmp_path / "victim").read_text(encoding="utf-8") == "somebody's"


def test_qemu_img_is_heard_while_it_works_however_much_it_complains(tmp_path: Path) -> None:
    qemu_img = tmp_path / "qemu-img"
    qemu_img.write_text(
        f"#!{sys.executable}\n"
        "import os, sys, time\n"
        "assert '-p' in sys.argv and '-q' not in sys.argv\n"
        "sys.stderr.write('x' * (1 << 20))\n"
        "for percent in (0, 12.34, 56.78):\n"
        "    print('    (%3.2f/100%%)\\r' % percent, end='', flush=True)\n"
        f"    while not os.path.exists(f'{tmp_path}/{{float(percent)}}'): time.sleep(0.01)\n"
        "print('Images are identical.')\n",
        encoding="utf-8",
    )
    qemu_img.chmod(0o755)
    told: list[float] = []

    def report(percent: float) -> None:
        told.append(percent)
        (tmp_path / str(percent)).touch()  # it goes on when it was heard

    assert QemuImg(str(qemu_img)).same_content("/a", "raw", "/b", "qcow2", report=report)
    assert told == sorted(told)
    assert {12.34, 56.78} <= set(told)


def test_parts_at_work_at_once_are_each_told_of_to_their_end(watched: Watched) -> None:
    with watched.progress.phase("one vda", "rebase", GIB):
        with watched.progress.phase("two vda", "rebase", GIB):
            assert [line.split(": ")[0] for line in watched.look()] == ["[host1] one vda", "[host1] two vda"]
        (ended,) = [line for line in watched.look() if "two vda" in line]
        assert "100 %" in ended
    (ended,) = watched.look()
    assert ended.startswith("[host1] one vda: rebase 100 %")
    assert watched.look() == []


def test_whoever_looks_on_can_end_a_part_by_an_error(watched: Watched) -> None:
    def look() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), watched.progress.phase("one vda", "rebase", GIB, look) as phase:
        phase.percent(50)
    assert watched.state()["phases"][0]["state"] == "failed"
