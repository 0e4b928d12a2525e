# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The processes of one hypervisor: those that live in its mount namespace.

The namespace's /run is a tmpfs whose source names the hypervisor's directory. That mark cannot be
mistaken, as a recorded process id can, and it finds guests whose libvirtd and holder are long dead.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path


def mark(directory: Path) -> str:
    """The name of the tmpfs on /run that marks DIRECTORY's namespace."""
    return f"kvmops-lab:{directory}"


def processes_of(directory: Path) -> list[int]:
    """The ids of all processes in DIRECTORY's namespace, this process excepted."""
    needle = f" - tmpfs {mark(directory)} "
    ours = os.readlink("/proc/self/ns/mnt")
    inside = needle in _mounts("self")
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            with contextlib.suppress(OSError):
                shared = os.readlink(f"/proc/{entry}/ns/mnt") == ours
                if inside if shared else needle in _mounts(entry):
                    found.append(int(entry))
    return found


def _mounts(process: str) -> str:
    return Path(f"/proc/{process}/mountinfo").read_text(encoding="utf-8")


def is_alive(pid: int) -> bool:
    """Whether PID or one of its threads runs; a zombie does not.

    The first thread may be a zombie while others still end, and until the last of them has, its files are open.
    """
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:  # there is none, or it went while we looked
        return False
    return any(_is_running(Path(f"/proc/{pid}/task/{thread}/stat")) for thread in threads)


def _is_running(stat: Path) -> bool:
    try:
        return stat.read_text(encoding="utf-8").rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_gone(pids: list[int], timeout: float) -> bool:
    """Waits until none of PIDS is alive; False when TIMEOUT (seconds) passes first."""
    deadline = time.monotonic() + timeout
    while any(is_alive(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def kill_all(directory: Path, timeout: float = 10) -> None:
    """Kills what runs in DIRECTORY's namespace until nothing is left; raises TimeoutError."""
    deadline = time.monotonic() + timeout
    while pids := [pid for pid in processes_of(directory) if is_alive(pid)]:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not wait_gone(pids, deadline - time.monotonic()):
            raise TimeoutError(f"{directory}: processes {pids} survive SIGKILL")
