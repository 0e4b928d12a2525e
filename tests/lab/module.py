# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs a module of the collection as a process of its own, as Ansible would, but without Ansible's controller."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from lab.module_template import RUNNER, CopiedProcess, template

CHECKOUT = Path(__file__).resolve().parents[2]


class ModuleFailed(RuntimeError):
    """A module's process ended without a result."""


class RunningModule:
    """A module's process."""

    def __init__(self, name: str, process: subprocess.Popen[bytes] | CopiedProcess, workspace: Path) -> None:
        self.name = name
        self.process = process
        self._workspace = workspace

    @property
    def pid(self) -> int:
        return self.process.pid

    def kill(self, children: bool = True) -> None:
        """SIGKILL, with CHILDREN also to the programs that the module runs; returns when the module is gone."""
        if self.process.poll() is None:
            if children:
                os.killpg(self.process.pid, signal.SIGKILL)
            else:
                self.process.kill()
            self.process.wait()
        self._clean_up()

    def result(self, timeout: float = 300) -> dict[str, Any]:
        """Waits for the end and returns the module's JSON; raises ModuleFailed with its output when there is none."""
        try:
            self._wait(timeout)
        except subprocess.TimeoutExpired:
            said = self._said()
            self.kill()
            raise ModuleFailed(f"{self.name}: not done after {timeout:g} s\n{said}") from None
        said = self._said()
        output = self._output("stdout")
        self._clean_up()
        start = output.find("{")
        try:
            found, _end = json.JSONDecoder().raw_decode(output[start:]) if start >= 0 else (None, 0)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise ModuleFailed(f"{self.name}: no result, exit status {self.process.returncode}\n{said}")
        return found

    def _wait(self, timeout: float) -> None:
        """As Popen.wait, which looks only every 50 ms whether the time is over: too coarse to measure with."""
        if isinstance(self.process, CopiedProcess):
            self.process.wait(timeout)
            return
        if self.process.poll() is not None:  # its number may be another process's by now
            return
        descriptor = os.pidfd_open(self.process.pid)
        try:
            if not select.select([descriptor], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.process.args, timeout)
        finally:
            os.close(descriptor)
        self.process.wait()

    def _said(self) -> str:
        parts = (self._output("stdout"), self._output("stderr"))
        return "\n".join(part for part in parts if part)

    def _output(self, stream: str) -> str:
        return (self._workspace / stream).read_text(encoding="utf-8", errors="replace")

    def _clean_up(self) -> None:
        shutil.rmtree(self._workspace, ignore_errors=True)


def start_module(
    name: str,
    params: Mapping[str, Any],
    *,
    check: bool = False,
    diff: bool = False,
    env: Mapping[str, str] | None = None,
    python: str | Path | None = None,
    as_user: int | None = None,
) -> RunningModule:
    """Starts module NAME of kvmops.disk with PARAMS, in check and diff mode if so asked.

    ENV is added to this process's environment; PYTHON is another interpreter (with ansible-core); AS_USER is a uid.
    With neither of the two the process is a copy of a template.
    """
    workspace = Path(tempfile.mkdtemp(prefix="kvmops-module-"))
    workspace.chmod(0o711)
    ansible_tmp = workspace / "tmp"
    ansible_tmp.mkdir(mode=0o700)
    arguments = {
        **params,
        "_ansible_check_mode": check,
        "_ansible_diff": diff,
        "_ansible_tmpdir": str(ansible_tmp),
        "_ansible_remote_tmp": str(ansible_tmp),
        "_ansible_no_log": False,
        "_ansible_debug": False,
        "_ansible_verbosity": 0,
        "_ansible_keep_remote_files": False,
    }
    request = {"checkout": str(CHECKOUT), "module": name, "arguments": {"ANSIBLE_MODULE_ARGS": arguments}}
    environment = {**os.environ, **(env or {})}
    if as_user is not None:
        os.chown(ansible_tmp, as_user, as_user)
    with open(workspace / "stdout", "wb") as stdout, open(workspace / "stderr", "wb") as stderr:
        process: subprocess.Popen[bytes] | CopiedProcess
        if python is None and as_user is None:
            process = template(environment, CHECKOUT).copy(name, request, environment, stdout, stderr)
        else:
            process = _started(request, environment, python or sys.executable, as_user, stdout, stderr)
    return RunningModule(name, process, workspace)


def _started(
    request: Mapping[str, Any],
    environment: Mapping[str, str],
    python: str | Path,
    as_user: int | None,
    stdout: IO[bytes],
    stderr: IO[bytes],
) -> subprocess.Popen[bytes]:
    user: dict[str, Any] = {} if as_user is None else {"user": as_user, "group": as_user, "extra_groups": []}
    process = subprocess.Popen(
        [python, RUNNER],
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=stderr,
        cwd="/",
        env=environment,
        start_new_session=True,
        **user,
    )
    assert process.stdin
    # The parameters may hold secrets: they go through a pipe, not on the command line.
    with process.stdin as pipe:
        pipe.write(json.dumps(request).encode())
    return process


def run_module(name: str, params: Mapping[str, Any], *, timeout: float = 300, **options: Any) -> dict[str, Any]:
    """start_module and its result: a dict as Ansible would register it (`failed` and `msg` when the module failed)."""
    return start_module(name, params, **options).result(timeout)
