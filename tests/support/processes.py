# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the kernel says of a process: whether it stands still, has ended, waits for a lock, and who its children are."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

from lab.processes import is_alive


def is_stopped(pid: int) -> bool:
    return _state(pid) == "T"


def is_gone(pid: int) -> bool:
    """Whether the process has ended, even if nobody has asked how."""
    return not is_alive(pid)


def _state(pid: int) -> str:
    """The letter of proc(5); empty where there is no such process."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return ""
    return status.rpartition(")")[2].split()[0]


def children_of(pid: int) -> list[int]:
    """Whichever of its threads started them; none where it, or the thread, is gone."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):
                children = Path(f"/proc/{pid}/task/{thread}/children").read_text(encoding="ascii")
                found += map(int, children.split())
    return found


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether the process does something of its own at the signal."""
    with open(f"/proc/{pid}/status", encoding="utf-8") as status:
        (caught,) = (line.split()[1] for line in status if line.startswith("SigCgt:"))
    return bool(int(caught, 16) >> (number - 1) & 1)


def waits_for_a_lock(pid: int) -> bool:
    """Whether the process has a file open that another one has locked (proc(5), locks)."""
    held = [line.split() for line in Path("/proc/locks").read_text(encoding="ascii").splitlines() if "FLOCK" in line]
    others = {fields[5] for fields in held if fields[4] != str(pid)}
    own = {fields[5] for fields in held if fields[4] == str(pid)}
    opened = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            status = link.stat()
            opened.add(f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}")
    return bool(opened & others - own)
