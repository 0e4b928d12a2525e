# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The action of a module that takes long: runs it as a job on the host, and prints how far it is every few seconds.

The job is one of Ansible's own (``async``). Its module writes module_utils/_progress.py's file beside the job's result,
in the same directory, which its user has whatever connection and become are.

A job is waited for as long as one of its processes is there, however slow the host is. Each of them has the name of the
job in its environment from its first moment to its last: Ansible's own, too, which begin before the module and tell its
result after it. No lock would be held for so long.
"""

from __future__ import annotations

import inspect
import json
import os
import secrets
import shlex
import signal
import threading
import time
import typing as t
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field

from ansible import constants as C  # noqa: N812 - its name everywhere in Ansible
from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible.utils.vars import merge_hash
from ansible.vars.clean import remove_internal_keys
from ansible_collections.kvmops.disk.plugins.module_utils._progress import ENVIRONMENT
from ansible_collections.kvmops.disk.plugins.plugin_utils._progress_lines import Lines

#: A look waits in steps: so many of 20 ms, for a job that has little to do, then of 100 ms. That is half a second for a
#: job that is to begin, and three between two lines of one that is at work.
SHORT_STEPS = START_STEPS = 25
LOOK_STEPS = 50
#: Seconds that a connection has to come back.
RECONNECT_SECONDS = 60
#: How often Ansible's process hands the job over to a new one and ends, once it has said that the job began.
_HANDED_OVER = 2
#: Seconds that a job has to undo its work when it is stopped.
END_SECONDS = 30
#: Ansible kills a job that takes longer, so none does: ten years.
_NO_LIMIT = 10 * 366 * 86400
#: What Ansible tells with the start of a job: which Python it found there.
_OF_THE_START = ("ansible_facts", "warnings", "deprecations")
#: What Ansible adds to the result of a job.
_OF_THE_JOB = ("ansible_job_id", "started", "finished", "results_file")

display = Display()


@dataclass
class Job:
    """A module at work on the host: Ansible's number of it, and where its result and its progress are.

    *lost*, where none of its processes is left, and *said*, what stands as its result, are as the last look has found
    them. *told* belongs to the result, and came with the start.
    """

    number: str
    directory: str
    name: str
    tmpdir: str
    pid: int | None = None
    lost: bool = False
    said: str = ""
    told: dict[str, t.Any] = field(default_factory=dict)

    @property
    def result(self) -> str:
        return f"{self.directory}/{self.number}"

    @property
    def progress(self) -> str:
        return f"{self.directory}/{self.name}"


class LiveProgress(ActionBase):  # type: ignore[misc]
    """Runs the module of the task's name, plainly with ``async``, ``no_log``, ``progress: false``, or in check mode."""

    _supports_check_mode = True
    _supports_async = True

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result = super().run(tmp, task_vars)
        if self._is_watched():
            own = self._run_watched(task_vars or {})
        else:
            own = self._execute_module(task_vars=task_vars, wrap_async=bool(self._task.async_val))
        return t.cast("dict[str, t.Any]", merge_hash(result, own))

    def _is_watched(self) -> bool:
        if self._task.async_val or self._task.check_mode or self._task.no_log:
            return False
        try:
            return bool(boolean(self._task.args.get("progress", True)))
        except TypeError:  # the module says so
            return False

    def _run_watched(self, task_vars: dict[str, t.Any]) -> dict[str, t.Any]:
        with _signals_noted() as signals:
            started, job = self._start(task_vars)
            result = started if job is None else self._watch(job, task_vars, signals)
        if signals:
            os.kill(os.getpid(), signals[0])  # as it would have been without us
            raise KeyboardInterrupt
        return result

    def _watch(self, job: Job, task_vars: dict[str, t.Any], signals: list[int]) -> dict[str, t.Any]:
        """The result of the job. Where a signal comes first, or the task's time is over, the job is ended."""
        with ExitStack() as cut_short:
            cut_short.callback(self._end, job)
            try:
                result = self._follow(job, task_vars, signals)
                result = result if result is None else merge_hash(job.told, result, list_merge="append")
            except AnsibleError:  # there is no way to it
                cut_short.pop_all()
                raise
            if result is not None:
                cut_short.pop_all()
        return result or {}

    def _start(self, task_vars: dict[str, t.Any]) -> tuple[dict[str, t.Any], Job | None]:
        """What Ansible says of the start, and the job, if it was started."""
        name = f"kvmops-{secrets.token_hex(8)}"
        async_dir = self.get_shell_option("async_dir", default="~/.ansible_async")
        if self._connection._shell.tmpdir is None:
            self._make_tmp_path()
        tmpdir = self._connection._shell.tmpdir
        own_async, self._task.async_val = self._task.async_val, _NO_LIMIT
        self._task.environment.append({ENVIRONMENT: f"{async_dir}/{name}"})
        try:
            started = self._execute_module(task_vars=task_vars, wrap_async=True)
        finally:
            self._task.environment.pop()
            self._task.async_val = own_async
        number, result = started.get("ansible_job_id"), started.get("results_file")
        if started.get("failed") or not number or not result:
            return {**started, "changed": False}, None  # Ansible says of every start that it changed something
        told = {name: started[name] for name in _OF_THE_START if started.get(name)}
        return started, Job(number, os.path.dirname(result), name, tmpdir, told=told)

    def _follow(self, job: Job, task_vars: dict[str, t.Any], signals: list[int]) -> dict[str, t.Any] | None:
        """The result of the module; None where a signal came first."""
        lines = Lines(task_vars.get("inventory_hostname", self._play_context.remote_addr))
        broken: float | None = None
        while not signals:
            try:
                self._tell(job, lines)
                result = self._result(job)
                if result is not None and job.pid is None:  # it began and ended between the two looks
                    self._tell(job, lines)
                broken = None
            except AnsibleError as error:
                if signals:
                    break
                broken = time.monotonic() if broken is None else broken
                if time.monotonic() - broken > RECONNECT_SECONDS:
                    raise AnsibleConnectionFailure(
                        "The connection was lost while the module worked, and did not come back within "
                        f"{RECONNECT_SECONDS} s. It works on: the next run finds what became of it. {error}"
                    ) from error
                self._reconnect()
                continue
            if result is not None:
                self._forget(job)
                return result
            if job.lost:
                return _lost(job)
        return None

    def _tell(self, job: Job, lines: Lines) -> None:
        """Prints how far the job is, where that is news."""
        for line in lines.new(self._look(job)):
            display.display(line)

    def _look(self, job: Job) -> list[dict[str, t.Any]]:
        """The phases so far. Looks once a new job has begun, else when it has ended, or after some seconds.

        What stands as its result comes with the same look; read after its processes were looked for, as the last of
        them leaves one. Raises AnsibleError where the host does not say.
        """
        progress, result = shlex.quote(job.progress), shlex.quote(job.result)
        ended = f"[ -s {result} ] && ! grep -q '^{{\"started\"' {result}"
        until, steps = (ended, LOOK_STEPS) if job.pid else (f"[ -s {progress} ] || {{ {ended}; }}", START_STEPS)
        script = (
            f"s=0.02; n=0; until {until} || [ $n -ge {steps} ]; do sleep $s; n=$((n+1)); "
            f"[ $n -lt {SHORT_STEPS} ] || s=0.1; done; "
            f"{{ {ended}; }} || {_is_at_work(job)} || echo lost; cat {progress}; echo {job.name}; cat {result}"
        )
        answer = self._low_level_execute_command(f"{{ {script}; }} 2>/dev/null", sudoable=True)
        told, answered, result = answer["stdout"].partition(job.name)
        if not answered:
            raise AnsibleConnectionFailure(f"The host does not say how far the job is: {answer.get('stderr')}")
        state, brace, rest = told.partition("{")
        job.lost = "lost" in state.split()
        job.said = result.strip()
        try:
            found = json.JSONDecoder().raw_decode(brace + rest)[0] if brace else {}
        except ValueError:
            found = {}
        if found and job.pid is None:
            job.pid = int(found["pid"])
        return list(found.get("phases", ()))

    def _result(self, job: Job) -> dict[str, t.Any] | None:
        """The module's own result, as Ansible would have returned it; None while there is none.

        Ansible's own module for that (async_status) says what the file says, but takes as long as a module takes.
        """
        if not job.said:
            return None
        found = self._read(job.said)
        if "started" in found:  # it says only that the job began
            return None
        if found.get("failed") and "stderr" in found:
            found["stderr_lines"] = found["stderr"].splitlines()
        else:  # what else the process printed; Ansible drops it, too
            found.pop("stderr", None)
        return {name: value for name, value in found.items() if name not in _OF_THE_JOB}

    def _read(self, said: str) -> dict[str, t.Any]:
        """What Ansible makes of the output of a module."""
        output = {"stdout": said, "stderr": "", "rc": 0}
        parameters = inspect.signature(self._parse_returned_data).parameters
        # From 2.19 on, ansible-core has a name for each way in which modules write.
        found = self._parse_returned_data(output, *(["legacy"] if len(parameters) > 1 else []))
        remove_internal_keys(found)
        return t.cast("dict[str, t.Any]", found)

    def _end(self, job: Job) -> None:
        """Makes the module undo what it began (SIGTERM), and waits for that. It continues if that takes longer."""
        deadline = time.monotonic() + END_SECONDS
        told = False
        while time.monotonic() < deadline:
            try:
                if told or job.pid is None:
                    self._look(job)
                if self._result(job) is not None:
                    self._forget(job)
                    return
                if job.lost:
                    return
                if job.pid is not None and not told:
                    self._low_level_execute_command(
                        f"grep -q {job.name} /proc/{job.pid}/environ && kill -TERM {job.pid}", sudoable=True
                    )
                    told = True
            except AnsibleError:
                self._reconnect()

    def _forget(self, job: Job) -> None:
        """Removes what the job leaves on the host."""
        files = " ".join(shlex.quote(path) for path in (job.result, job.progress, f"{job.progress}.new"))
        self._low_level_execute_command(f"rm -f {files}", sudoable=True)
        if not C.DEFAULT_KEEP_REMOTE_FILES:
            for tmpdir in (job.tmpdir, self._connection._shell.tmpdir):
                if tmpdir:
                    self._remove_tmp_path(tmpdir, force=True)

    def _reconnect(self) -> None:
        with suppress(Exception):
            self._connection.reset()
        time.sleep(1)


def _is_at_work(job: Job) -> str:
    """A condition of the shell: that one of the job's processes is there; the module's own, or Ansible's around it.

    They are looked for once more than one of them may have become another. In the pattern the name of the variable is
    written so that the pattern does not match itself: sudo puts the whole command into the environment of the look.
    """
    pattern = f"{ENVIRONMENT[:-1]}[{ENVIRONMENT[-1]}]=.*{job.name}"
    rounds = " ".join(str(number) for number in range(_HANDED_OVER + 1))
    anybody = f"for round in {rounds}; do grep -qs '{pattern}' /proc/[0-9]*/environ && break; done"
    return f"{{ grep -qs {job.name} /proc/{job.pid}/environ || {anybody}; }}" if job.pid else f"{{ {anybody}; }}"


def _lost(job: Job) -> dict[str, t.Any]:
    return {
        "failed": True,
        "msg": (
            f"The module has ended without a result: no process of its job is left, and {job.result} does not tell "
            "one: was it killed, or the host restarted? Run again: the next run finishes or reverts what was in flight"
        ),
    }


@contextmanager
def _signals_noted() -> t.Iterator[list[int]]:
    """Signals that would end this process, in the list instead; so that its job is not forgotten."""
    noted: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield noted
        return
    before = {
        number: signal.signal(number, lambda number, _frame: noted.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
