# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Waits for what happens beside a test, and acts upon it. No test says how soon: a deadline only ends a hang.

What a test waits for stays as it is until the test has acted: its process stands still (support.injection,
support.held_qemu_img), or its block job has a bandwidth with which it would go on for hours (HELD).
KVMOPS_LATE_TESTER=1 shows that it does: a second passes after each of these waits, and before each signal.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

#: The bandwidth of a block job that stands still after its first piece: the next one is due when any test is over.
HELD = "512"
_LATE_SECONDS = float(os.environ.get("KVMOPS_LATE_TESTER", "0"))
_HANG_SECONDS = 300


def be_late() -> None:
    """Where the tester may be slow."""
    time.sleep(_LATE_SECONDS)


def wait_for(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + _HANG_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {_HANG_SECONDS} s"
        time.sleep(0.01)
    be_late()


def send(pid: int, number: signal.Signals) -> None:
    """Signal NUMBER to the process."""
    be_late()
    os.kill(pid, number)


def send_to_group(pid: int, number: signal.Signals) -> None:
    """Signal NUMBER to the process and to all that are in its group."""
    be_late()
    os.killpg(pid, number)
