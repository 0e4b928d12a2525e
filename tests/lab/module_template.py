# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Processes of modules without the start of an interpreter for each: copies (fork) of one that has imported all.

A start with its imports takes several times as long as what most modules do. The template knows nothing of the tests:
it is a Python of its own, which has run no module. A copy of it has the environment, the limits and the standard
streams of who asked for it, and a session of its own; it is this process's grandchild, so the template tells how it
ended.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

RUNNER = Path(__file__).with_name("run_module_process.py")
LIMITS = [number for name, number in vars(resource).items() if name.startswith("RLIMIT_")]
#: By Python, and by the sitecustomize.py of tests/faults.
AT_START = ("PYTHON", "LC_", "LANG", "CONSTANTS")


class CopiedProcess:
    """The part of subprocess.Popen that there is for a process which is no child; it stays until it was waited for."""

    def __init__(self, name: str, status: socket.socket) -> None:
        self.args = [name]
        self.returncode: int | None = None
        self._status = status
        self._told = status.makefile("rb", buffering=0)
        self.pid = int(self._told.readline())

    def poll(self) -> int | None:
        return self.returncode if self._has_ended(0) else None

    def wait(self, timeout: float | None = None) -> int:
        if not self._has_ended(timeout):
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        assert self.returncode is not None
        return self.returncode

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)

    def _has_ended(self, timeout: float | None) -> bool:
        if self.returncode is None and select.select([self._status], [], [], timeout)[0]:
            self.returncode = int(self._told.readline())
            self._status.shutdown(socket.SHUT_WR)
            self._told.readline()  # the end: nothing is left of it
            self._told.close()
            self._status.close()
        return self.returncode is not None


class Template:
    """A process that makes others like it."""

    def __init__(self, environment: Mapping[str, str], checkout: Path) -> None:
        self._socket, end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with end:
            self._process = subprocess.Popen(
                [sys.executable, RUNNER, str(end.fileno()), str(checkout)],
                stdin=subprocess.DEVNULL,
                cwd="/",
                env=environment,
                pass_fds=[end.fileno()],
                start_new_session=True,
            )
        self._limits = {limit: resource.getrlimit(limit) for limit in LIMITS}
        atexit.register(self._end)

    def copy(
        self, name: str, request: Mapping[str, Any], env: Mapping[str, str], stdout: IO[bytes], stderr: IO[bytes]
    ) -> CopiedProcess:
        """The process of module NAME with environment ENV, which takes REQUEST."""
        limits = {limit: now for limit, begin in self._limits.items() if (now := resource.getrlimit(limit)) != begin}
        status, told = socket.socketpair()
        taken, given = os.pipe2(os.O_CLOEXEC)
        try:
            socket.send_fds(self._socket, [name.encode()], [taken, stdout.fileno(), stderr.fileno(), told.fileno()])
        finally:
            os.close(taken)
            told.close()
        # The parameters may hold secrets: they go through a pipe, not on the command line.
        with os.fdopen(given, "wb") as pipe:
            pipe.write(json.dumps({**request, "environment": dict(env), "limits": limits}).encode())
        return CopiedProcess(name, status)

    def _end(self) -> None:
        self._socket.close()
        self._process.wait()


def template(environment: Mapping[str, str], checkout: Path) -> Template:
    """That for ENVIRONMENT, as far as it is looked at when a Python starts and imports."""
    counts = {name: value for name, value in environment.items() if name.startswith(AT_START)}
    return _template(tuple(sorted(counts.items())), checkout)


@functools.cache
def _template(counts: tuple[tuple[str, str], ...], checkout: Path) -> Template:
    others = {name: value for name, value in os.environ.items() if not name.startswith(AT_START)}
    return Template({**others, **dict(counts)}, checkout)
