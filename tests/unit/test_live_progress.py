# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""When the job of a watched module counts as lost: never because of the time that passed. Jobs are real processes."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._progress import ENVIRONMENT
from ansible_collections.kvmops.disk.plugins.plugin_utils import _live_progress
from ansible_collections.kvmops.disk.plugins.plugin_utils._live_progress import Job, LiveProgress

RESULT = {"changed": True, "disks": []}
NAME = "kvmops-0123456789abcdef"


class Watcher(LiveProgress):
    """Looks at this machine as if by sudo, which puts the command into the environment; *before* comes before a look,
    with its number."""

    def __init__(self, before: Callable[[int], None] = lambda _number: None, deaf: tuple[int, ...] = ()) -> None:
        self._connection = SimpleNamespace(_shell=SimpleNamespace(tmpdir=None), reset=lambda: None)
        self._play_context = SimpleNamespace(remote_addr="here")
        self._numbers = itertools.count(1)
        self._before, self._deaf = before, deaf

    def _low_level_execute_command(self, cmd: str, **_options: Any) -> dict[str, Any]:
        number = next(self._numbers)
        self._before(number)
        if number in self._deaf:
            return {"rc": 1, "stdout": "", "stderr": "sudo: a password is required"}
        environment = {"PATH": os.environ["PATH"], "SUDO_COMMAND": f"/bin/sh -c {cmd}"}
        done = subprocess.run(["sh", "-c", cmd], env=environment, capture_output=True, text=True, check=False)
        return {"rc": done.returncode, "stdout": done.stdout, "stderr": done.stderr}

    def _remove_tmp_path(self, tmp_path: str, force: bool = False) -> None:
        """There is none."""

    def follow(self, job: Job) -> dict[str, Any]:
        found = self._follow(job, {}, [])
        assert found is not None
        return {name: value for name, value in found.items() if name != "_ansible_parsed"}


class Started:
    """A job, as Ansible has started it: its processes stand still until they are ended."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.directory = directory
        self.job = Job("j1.1", str(directory), NAME, "")
        self.tell({"started": True, "finished": False, "ansible_job_id": "j1.1"})
        self._stack = stack

    def process(self) -> subprocess.Popen[bytes]:
        """Another process of the job."""
        environment = {ENVIRONMENT: self.job.progress, "PATH": os.environ["PATH"]}
        process = subprocess.Popen(["sleep", "infinity"], env=environment)
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        return process

    def begin(self, process: subprocess.Popen[bytes]) -> None:
        """The module says that *process* is at work."""
        Path(self.job.progress).write_text(json.dumps({"pid": process.pid, "phases": []}), encoding="utf-8")

    def tell(self, result: dict[str, Any]) -> None:
        Path(self.job.result).write_text(json.dumps(result), encoding="utf-8")


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Started]:
    with ExitStack() as stack:
        yield Started(tmp_path, stack)


@pytest.fixture(autouse=True)
def a_slow_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour passes whenever somebody asks for the time."""
    hours = itertools.count()
    set_clock(monkeypatch, lambda: 3600.0 * next(hours))
    for name in ("START_STEPS", "LOOK_STEPS"):
        monkeypatch.setattr(_live_progress, name, 1)


def set_clock(monkeypatch: pytest.MonkeyPatch, clock: Callable[[], float]) -> None:
    """Has the watcher, and nobody else, read CLOCK; it waits for nothing."""
    monkeypatch.setattr(_live_progress, "time", SimpleNamespace(monotonic=clock, sleep=lambda _seconds: None))


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def test_a_job_whose_module_has_not_begun_for_hours_is_waited_for(started: Started) -> None:
    started.process()

    def before(number: int) -> None:
        if number == 4:
            started.tell(RESULT)

    assert Watcher(before).follow(started.job) == RESULT


def test_a_module_that_says_nothing_for_hours_is_waited_for(started: Started) -> None:
    started.begin(started.process())

    def before(number: int) -> None:
        if number == 4:
            started.tell(RESULT)

    assert Watcher(before).follow(started.job) == RESULT


def test_a_result_that_ansible_takes_hours_to_write_is_waited_for(started: Started) -> None:
    started.process()  # Ansible's, which waits for the module
    module = started.process()
    started.begin(module)

    def before(number: int) -> None:
        if number == 2:
            end(module)
        if number == 5:
            started.tell(RESULT)

    assert Watcher(before).follow(started.job) == RESULT


def test_the_result_of_a_job_counts_however_it_ended(started: Started) -> None:
    module = started.process()
    started.begin(module)
    started.tell(RESULT)
    end(module)
    assert Watcher().follow(started.job) == RESULT
    assert list(started.directory.iterdir()) == []


@pytest.mark.parametrize("begun", [True, False], ids=["the module had begun", "the module had not begun"])
def test_a_job_of_which_no_process_is_left_is_lost_at_once(started: Started, begun: bool) -> None:
    module = started.process()
    if begun:
        started.begin(module)
    looks = []

    def before(number: int) -> None:
        looks.append(number)
        if number == 2:
            end(module)

    result = Watcher(before).follow(started.job)
    assert result["failed"]
    assert "no process of its job is left" in result["msg"]
    assert looks == [1, 2]


def test_a_look_that_the_host_does_not_answer_says_nothing_of_the_job(
    started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_clock(monkeypatch, lambda: 0.0)
    started.begin(started.process())

    def before(number: int) -> None:
        if number == 4:
            started.tell(RESULT)

    assert Watcher(before, deaf=(1, 2, 3)).follow(started.job) == RESULT


def test_a_look_that_took_hours_before_it_failed_is_tried_again(
    started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    set_clock(monkeypatch, lambda: clock[0])
    started.begin(started.process())

    def before(number: int) -> None:
        if number == 2:
            clock[0] += 3600
        if number == 3:
            started.tell(RESULT)

    assert Watcher(before, deaf=(2,)).follow(started.job) == RESULT


def test_processes_of_another_job_are_none_of_this_one(started: Started, tmp_path: Path) -> None:
    environment = {ENVIRONMENT: f"{tmp_path}/kvmops-of-another", "PATH": os.environ["PATH"], "OTHER": NAME}
    process = subprocess.Popen(["sleep", "infinity"], env=environment)
    try:
        result = Watcher().follow(started.job)
    finally:
        end(process)
    assert result["failed"]
