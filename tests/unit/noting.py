# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Work that only notes what it is asked for, for tests of the order in which a decision wants it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ansible_collections.kvmops.disk.plugins.module_utils._plan import Step


class Noting:
    """Has every method, and each only notes its name."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *_arguments, **_named: self.asked.append(name)


def order(steps: Iterable[Step], work: Noting) -> list[str]:
    """What the steps do with WORK, one after the other; a star marks the point of no return."""
    done: list[str] = []
    for step in steps:
        work.asked.clear()
        step.do()
        done += [name + "*" * step.commits for name in work.asked]
    return done


def undoing(steps: Iterable[Step], work: Noting) -> list[str]:
    """What is done with WORK where all of the steps are undone, the newest first."""
    work.asked.clear()
    for step in reversed(tuple(steps)):
        if step.undo:
            step.undo()
    return list(work.asked)
