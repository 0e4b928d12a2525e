# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private mount, network and UTS namespaces, kept by a holder process."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from lab.processes import kill_all, mark, processes_of, wait_gone

# Nothing of the caller's own settings reaches libvirtd.
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LC_ALL": "C.UTF-8",
}
TESTS = Path(__file__).resolve().parents[1]


class LabError(RuntimeError):
    """The laboratory could not do what a test asked of it."""


@dataclass(frozen=True)
class Mount:
    """One call of mount(8) inside of the namespaces."""

    arguments: tuple[str, ...]
    target: str
    make_target: bool = False

    @classmethod
    def bind(cls, source: Path | str, target: Path | str, make_target: bool = False, read_only: bool = False) -> Mount:
        return cls(("-o", "bind,ro" if read_only else "bind", str(source)), str(target), make_target)

    @classmethod
    def marked_tmpfs(cls, directory: Path, target: str) -> Mount:
        """The tmpfs by which lab.processes recognises the namespace of DIRECTORY."""
        return cls(("-t", "tmpfs", "-o", "mode=0755", mark(directory)), target)


@dataclass(frozen=True)
class Plan:
    """What the holder does; ATTACHED: it ends with the process that started it."""

    directory: str
    hostname: str
    mounts: tuple[Mount, ...]
    daemon: tuple[str, ...]
    environment: dict[str, str]
    attached: bool


class Namespaces:
    """The namespaces that belong to one state directory."""

    def __init__(self, directory: Path, root: Path | None = None) -> None:
        self.directory = directory
        self.root = root
        self._holder: subprocess.Popen[bytes] | None = None

    @property
    def holder_pid(self) -> int | None:
        """The holder's process id; None when the namespaces are not up."""
        try:
            pid = int((self.directory / "holder.pid").read_text(encoding="ascii"))
        except (OSError, ValueError):
            return None
        return pid if pid in processes_of(self.directory) else None

    def start(self, plan: Plan) -> None:
        """Makes the namespaces; the mounts of PLAN are done when this returns."""
        command = ["unshare", "-m", "-n", "-u", "--propagation", "private", sys.executable, "-m", "lab.holder"]
        # A session of its own: Ctrl-C at the terminal is for the tests, which then end the holder in order.
        self._holder = subprocess.Popen(
            [*command, json.dumps(asdict(plan))],
            stdin=subprocess.PIPE if plan.attached else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if plan.attached else subprocess.DEVNULL,
            env={**ENVIRONMENT, "PYTHONPATH": str(TESTS)},
            cwd="/",
            start_new_session=True,
        )
        assert self._holder.stdout
        if self._holder.stdout.readline() != b"ready\n":
            _output, complaint = self._holder.communicate()
            raise LabError(f"{self.directory}: the namespaces could not be made: {(complaint or b'').decode()}")

    def start_daemon(self) -> tuple[int, str]:
        """Starts the plan's daemon as a child of the holder; returns the exit status of the start and what it said."""
        with socket.socket(socket.AF_UNIX) as holder:
            holder.connect(str(self.directory / "holder.sock"))
            with holder.makefile("rb") as answer:
                status, said = json.load(answer)
        return status, said

    def stop(self) -> None:
        """Ends every process inside and removes the directory; does nothing when there is nothing."""
        if self._holder:
            for stream in (self._holder.stdin, self._holder.stdout, self._holder.stderr):
                if stream:
                    stream.close()
            self._holder.terminate()
            try:
                self._holder.wait(15)
            except subprocess.TimeoutExpired:
                self._holder.kill()
                self._holder.wait()
            self._holder = None
        elif pid := self.holder_pid:
            os.kill(pid, 15)
            wait_gone([pid], 15)
        # What a holder left that was killed before it could clean up.
        kill_all(self.directory)
        shutil.rmtree(self.directory, ignore_errors=True)

    def command(self, argv: Sequence[str | Path], cwd: str = "/") -> list[str]:
        """The command line that runs ARGV inside."""
        pid = self.holder_pid
        if pid is None:
            raise LabError(f"{self.directory}: the hypervisor is not up")
        return ["nsenter", "-m", "-n", "-u", "-t", str(pid), f"--wd={cwd}", *self.in_root(argv)]

    def in_root(self, argv: Sequence[str | Path]) -> list[str]:
        """ARGV for a process that is in the namespaces already."""
        return [*(["chroot", str(self.root)] if self.root else []), *map(str, argv)]
