# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A qemu-img that stands still in the middle of its work, so that a test can act there; else it is as it is."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from lab.module import RunningModule
from support import stand_in
from support.waits import be_late, wait_for

_GATE = Path(__file__).with_name("qemu_img_gate.py")


class HeldQemuImg:
    """Stands still at each of POINTS of its VERB (a pattern of the shell), until it is let go.

    They are percents of what a verb that says so has done, or 0: before it begins.
    """

    def __init__(self, directory: Path, verb: str, *points: int) -> None:
        self._directory = directory / "held-qemu-img"
        self._marks = self._directory / "marks"
        self._directory.mkdir()
        self._directory.chmod(0o755)
        self._marks.mkdir()
        self._marks.chmod(0o1777)
        gate = f"{sys.executable} -IS {_GATE} {self._marks} {','.join(map(str, points))}"
        self._script = f'case "$1" in {verb}) exec {gate} $REAL "$@";; esac\nexec $REAL "$@"'

    def mount(self) -> str:
        """A shell command for a mount namespace of one's own in which this is qemu-img."""
        return stand_in.mount(self._directory, self._script)

    def prefix(self) -> list[str]:
        """What makes this qemu-img for the command that follows."""
        return ["unshare", "--mount", "sh", "-c", f'{self.mount()} && exec "$@"', "sh"]

    def python(self) -> Path:
        """An interpreter for run_module to which this is qemu-img."""
        return stand_in.python_with(self._directory, self._script)

    def wait(self, number: int = 1) -> list[int]:
        """Waits until so many stand still; returns their processes, by the numbers that they have where they run."""
        wait_for(lambda: len(self._still()) >= number, f"{number} qemu-img at its point")
        return self._still()

    def each_of(self, run: RunningModule) -> Iterator[int]:
        """The process of each that RUN starts, while it stands still."""
        while True:
            wait_for(lambda: self._still() or run.process.poll() is not None, "another qemu-img, or the end")
            if not self._still():
                return
            yield from self._still()
            self.let_go()

    def _still(self) -> list[int]:
        return [int(mark.name.partition("-")[0]) for mark in self._marks.iterdir()]

    def open(self) -> None:
        """From now on none stands still."""
        be_late()
        self._marks.rename(self._directory / "open")

    def let_go(self) -> None:
        """Lets those go that stand still now."""
        be_late()
        for mark in self._marks.iterdir():
            with contextlib.suppress(FileNotFoundError):
                mark.unlink()
