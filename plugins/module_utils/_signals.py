# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The signals that ask a process to end, put off where they would be lost or leave something that nobody knows of."""

from __future__ import annotations

import signal
import typing as t
from contextlib import contextmanager

#: They end a task as an error does, so that what it began is undone.
END = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


@contextmanager
def put_off() -> t.Iterator[None]:
    """Keeps signals until the block is over; threads and programs that are begun in it never get one."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, END)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def refuse() -> None:
    """For a thread, from its beginning on: one that takes a signal has the main thread act upon it, put off or not."""
    signal.pthread_sigmask(signal.SIG_BLOCK, END)


def let_come() -> None:
    """For a program that is begun in such a block: it gets signals again."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, END)
