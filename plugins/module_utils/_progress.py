# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How far a long task is: a small file, for an action plugin that shows it (plugin_utils/_live_progress.py).

The plugin names the file in the environment of the module, as Ansible does with ANSIBLE_ASYNC_DIR. Where nobody asked,
nothing is written; where it cannot be written, the task goes on without.
"""

from __future__ import annotations

import json
import os
import threading
import time
import typing as t
from contextlib import AbstractContextManager, contextmanager, suppress

#: The variable with the path of the file.
ENVIRONMENT = "KVMOPS_PROGRESS"
Look = t.Callable[[], None]


class Phase:
    """One part of a task: a *verb*, such as convert, on a *subject*, such as ``web vda``; *total* in bytes.

    *look* is called whenever it has come further, and may end it by an error.
    """

    def __init__(self, progress: Progress, subject: str, verb: str, total: int, look: Look | None = None) -> None:
        self._progress = progress
        self._look = look
        self._began = progress.clock()
        self.subject = subject
        self.verb = verb
        self.done = 0
        self.total = total
        self.state = "running"
        self.seconds = 0.0

    def percent(self, percent: float) -> None:
        """It is so far, in the words of qemu-img. To be called a few times in a second at most."""
        self.at(round(self.total * min(percent, 100.0) / 100), self.total)

    def at(self, done: int, total: int) -> None:
        """It is so far, in bytes; a block job that meets new writes moves its *total*, too."""
        if self._look is not None:
            self._look()
        self.done, self.total = done, total
        self._tell()

    def end(self, state: str) -> None:
        """It is done or failed."""
        self.state = state
        if state == "done":
            self.done = self.total
        self._tell()

    def facts(self) -> dict[str, t.Any]:
        """What the file says of it. Seconds are counted here, so that the clock of nobody else matters."""
        return {
            "subject": self.subject,
            "verb": self.verb,
            "state": self.state,
            "done": self.done,
            "total": self.total,
            "percent": percentage(self.done, self.total, self.state),
            "seconds": self.seconds,
            "rate": rate(self.done, self.seconds),
            "seconds_left": seconds_left(self.done, self.total, self.seconds),
        }

    def _tell(self) -> None:
        self.seconds = self._progress.clock() - self._began
        self._progress.write()


#: Begins a phase: a verb, and the bytes that it is about.
Phases = t.Callable[[str, int], AbstractContextManager[Phase]]


class Progress:
    """The phases of a task so far, in the order in which they began; several can be at work at once. They all stay, so
    that a short one is seen, too."""

    def __init__(self, path: str | None, clock: t.Callable[[], float] = time.monotonic) -> None:
        """*path* is the file, None for nobody who looks. It is written at once: it says which process is at work."""
        self.clock = clock
        self._path = path
        self._phases: list[Phase] = []
        self._writing = threading.Lock()
        self.write()

    @classmethod
    def wanted(cls) -> Progress:
        """That which the environment asks for."""
        path = os.environ.get(ENVIRONMENT)
        return cls(os.path.expanduser(path) if path else None)

    @contextmanager
    def phase(self, subject: str, verb: str, total: int, look: Look | None = None) -> t.Iterator[Phase]:
        """A phase as long as the block."""
        phase = Phase(self, subject, verb, total, look)
        self._phases.append(phase)
        self.write()
        state = "failed"
        try:
            yield phase
            state = "done"
        finally:
            phase.end(state)

    def write(self) -> None:
        """The file is replaced, so that a reader never meets half of it."""
        with self._writing:
            if self._path is not None:
                self._replace(self._path)

    def _replace(self, path: str) -> None:
        text = json.dumps({"pid": os.getpid(), "phases": [phase.facts() for phase in self._phases]})
        new = path + ".new"
        try:
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with open(descriptor, "w", encoding="utf-8") as stream:
                stream.write(text)
            os.replace(new, path)
        except OSError:
            self._path = None
            with suppress(OSError):
                os.unlink(new)


def percentage(done: int, total: int, state: str = "running") -> int:
    """Whole percents; 100 only for what is done."""
    if state == "done":
        return 100
    return min(99, done * 100 // total) if total > 0 else 0


def rate(done: int, seconds: float) -> int | None:
    """Bytes in a second, on average since the beginning; None where that cannot be told yet."""
    return round(done / seconds) if done > 0 and seconds > 0 else None


def seconds_left(done: int, total: int, seconds: float) -> int | None:
    """How long the rest takes at this rate, rounded up; None where that cannot be told yet."""
    if done <= 0 or seconds <= 0:
        return None
    return max(0, -int(-(total - done) * seconds // done))
