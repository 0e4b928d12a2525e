# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether files belong to whom libvirt itself would leave them to: a host before a playbook, and after it.

What libvirt itself does is told by the control: a machine that no playbook touches, with an overlay over a base. It is
started and stopped with the others.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

#: The machine that no playbook touches.
CONTROL = "control"
_BASE = "golden"
_DISK = "vda"


@dataclass(frozen=True)
class State:
    """Whose a file is."""

    owner: str
    group: str
    mode: str
    label: str

    def __str__(self) -> str:
        return " ".join(filter(None, (f"{self.owner}:{self.group}", self.mode, self.label)))

    def without_categories(self) -> State:
        """With one name for all SELinux categories: each start of a guest has others."""
        parts = self.label.split(":", 4)
        return replace(self, label=":".join((*parts[:4], "categories"))) if len(parts) > 4 else self


Look = Mapping[str, State]
#: The images of each machine, by target.
Disks = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class Made:
    """A host before a playbook, whose machines libvirt has not started yet."""

    files: Look
    disks: Disks

    @classmethod
    def read(cls, printed: Mapping[str, Any]) -> Made:
        """What on_host/survey.py has printed."""
        return cls(_look(printed["files"]), printed["disks"])


@dataclass(frozen=True)
class Restarted:
    """A host after a playbook: its files with its machines stopped, all started from their disks, and stopped again."""

    stopped: Look
    started: Look
    rest: Look
    disks: Disks
    #: Whether a machine's first disk holds what it has to.
    content: Mapping[str, bool]

    @classmethod
    def read(cls, printed: Mapping[str, Any]) -> Restarted:
        """What on_host/survey.py has printed."""
        stopped, started, rest = (_look(printed[when]) for when in ("stopped", "started", "rest"))
        return cls(stopped, started, rest, printed["disks"], printed["content"])


def faults(made: Made, after: Restarted, private: Collection[str] = ()) -> list[str]:
    """What is wrong after a playbook, as sentences; files in PRIVATE folders may belong to anybody.

    A machine that was there before has to be there, with its content. A file that no guest has open has to belong to
    whom it did when it was made, and a new one to whom its machine's old disk did. Where libvirt has left the control
    otherwise, it may be as that. A file that a guest has open has to be as that of the control.
    """
    found = [f"{machine}: its disk does not hold its content" for machine, same in after.content.items() if not same]
    found += [f"{machine}: is gone" for machine in made.disks if machine not in after.disks]
    models = _models(made, after)
    # The base is never started: it is a backing file, though a machine has it as its disk.
    tops = {path for disks in after.disks.values() for path in disks.values()} - {made.disks[_BASE][_DISK]}
    for when, look in (("stopped", after.stopped), ("rest", after.rest)):
        for path, state in look.items():
            if path not in models:
                found += [] if _is_within(path, private) else [f"{path}: is left, and nobody's ({when})"]
            else:
                found += _fault(path, state, _as_left(made, after, models[path], is_top=path in tops), when)
    for path in sorted(tops & {*after.started}):
        control = after.started[made.disks[CONTROL][_DISK]]
        found += _fault(path, after.started[path], {replace(control, mode=models[path].mode)}, "started")
    return found


def _fault(path: str, state: State, allowed: Collection[State], when: str) -> list[str]:
    if state.without_categories() in {one.without_categories() for one in allowed}:
        return []
    return [f"{path}: is {state}, and libvirt leaves {' or '.join(sorted(map(str, allowed)))} ({when})"]


def _models(made: Made, after: Restarted) -> dict[str, State]:
    """For each file, whose it has to be while no guest has it open; a clone's disk is like that of the control."""
    models = dict(made.files)
    for machine, disks in after.disks.items():
        old = made.disks.get(machine, made.disks[CONTROL])
        for path in disks.values():
            models.setdefault(path, made.files[old[_DISK]])
    return models


def _as_left(made: Made, after: Restarted, model: State, is_top: bool) -> set[State]:
    """As the model, or as libvirt has left the control's overlay, or its base, if that is not as it was made."""
    path = made.disks[CONTROL if is_top else _BASE][_DISK]
    left = after.rest[path]
    return {model} if left == made.files[path] else {model, replace(left, mode=model.mode)}


def _look(printed: Mapping[str, Mapping[str, str]]) -> Look:
    return {path: State(**state) for path, state in printed.items()}


def _is_within(path: str, folders: Collection[str]) -> bool:
    return any(Path(path).is_relative_to(folder) for folder in folders)
