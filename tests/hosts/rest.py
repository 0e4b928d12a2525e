# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether files belong to whom libvirt itself would leave them to: surveys of a host, before and after a playbook."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class State:
    """Whose a file is."""

    owner: str
    group: str
    mode: str
    label: str

    def __str__(self) -> str:
        return " ".join(filter(None, (f"{self.owner}:{self.group}", self.mode, self.label)))


Look = Mapping[str, State]


@dataclass(frozen=True)
class Survey:
    """What on_host/survey.py has seen."""

    found: Look
    stopped: Look
    started: Look
    rest: Look
    #: The images of each machine, by target.
    disks: Mapping[str, Mapping[str, str]]
    #: Whether a machine's first disk holds what it has to.
    content: Mapping[str, bool]

    @classmethod
    def read(cls, printed: Mapping[str, Any]) -> Survey:
        looks = {
            name: {path: State(**state) for path, state in printed[name].items()}
            for name in ("found", "stopped", "started", "rest")
        }
        return cls(**looks, disks=printed["disks"], content=printed["content"])


def faults(before: Survey, after: Survey, private: Collection[str] = ()) -> list[str]:
    """What is wrong after a playbook, as sentences; files in PRIVATE folders may belong to anybody.

    A machine that was there before has to be there, with its content. A file that is at rest has to belong to whom it
    did when it was made, or when libvirt had started and stopped its machine; a new one to whom its machine's old disk
    did. The same is asked of files that a running guest has open.
    """
    found = [f"{machine}: its disk does not hold its content" for machine, same in after.content.items() if not same]
    found += [f"{machine}: is gone" for machine in before.disks if machine not in after.disks]
    models = _models(before, after)
    tops = {path for disks in after.disks.values() for path in disks.values()}
    for when in ("stopped", "rest"):
        for path, state in getattr(after, when).items():
            if not _is_within(path, private):
                allowed = _at_rest(before, models, path, is_top=path in tops)
                found += _fault(path, state, allowed, when)
    for path in sorted(tops & set(after.started)):
        model = models.get(path)
        if model and not _is_golden(before, path):
            found += _fault(path, after.started[path], [before.started[model]], "started")
    return found


def _fault(path: str, state: State, allowed: Sequence[State], when: str) -> list[str]:
    if not allowed:
        return [f"{path}: is left, and nobody's ({when})"]
    if _without_categories(state) in map(_without_categories, allowed):
        return []
    ways = " or ".join(sorted(map(str, set(allowed))))
    return [f"{path}: is {state}, and libvirt leaves {ways} ({when})"]


def _models(before: Survey, after: Survey) -> dict[str, str]:
    """For each image of now, the one of before that it has to be like; a clone is like the control's overlay."""
    models = {path: path for path in before.rest}
    for machine, disks in after.disks.items():
        model = before.disks.get(machine) or before.disks.get("control") or before.disks["golden"]
        for path in disks.values():
            models.setdefault(path, model["vda"])
    return models


def _at_rest(before: Survey, models: Mapping[str, str], path: str, is_top: bool) -> list[State]:
    model = models.get(path)
    if model is None:
        return []
    states = [before.found[model], before.rest[model]]
    if not is_top and "control" in before.disks:
        # It is a backing file now: libvirt leaves it as it leaves that of the control.
        states.append(before.rest[before.disks["golden"]["vda"]])
    return states


def _is_golden(before: Survey, path: str) -> bool:
    return path in before.disks.get("golden", {}).values()


def _is_within(path: str, folders: Collection[str]) -> bool:
    return any(Path(path).is_relative_to(folder) for folder in folders)


def _without_categories(state: State) -> State:
    """Each start of a guest has SELinux categories of its own; at rest there are none."""
    user, role, kind, *level = state.label.split(":") if state.label else ("", "", "")
    had = bool(level) and level[-1].startswith("c")
    label = ":".join((user, role, kind, *level[:1], "c" if had else "")) if state.label else ""
    return State(state.owner, state.group, state.mode, label)
