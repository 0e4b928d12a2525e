# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How much work a run is, in seconds of the processor, which are the same however busy the machine is."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lab.module import start_module
from support.processes import children_of, is_gone
from support.waits import wait_for

_TICKS = os.sysconf("SC_CLK_TCK")


def run_within(seconds: float, module: str, params: Mapping[str, Any], **options: Any) -> dict[str, Any]:
    """The result of a run that takes SECONDS of the processor at most, what it starts included."""
    run = start_module(module, params, **options)
    used = 0.0

    def is_over() -> bool:
        nonlocal used
        used = max(used, _used(run.pid))
        return is_gone(run.pid) or used > seconds

    try:
        wait_for(is_over, f"the end of {module}")
        assert used <= seconds, f"{module} has used {used:g} s of the processor"
        return run.result()
    finally:
        run.kill()


def _used(pid: int) -> float:
    """By the process, by its children that have ended, and by those that are at work (proc(5), stat)."""
    total = 0
    with contextlib.suppress(OSError):
        for process in (pid, *children_of(pid)):
            fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            total += sum(int(field) for field in fields[11:15])
    return total / _TICKS
