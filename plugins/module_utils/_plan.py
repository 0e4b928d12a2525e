# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is going to be done, as data: the single source of changed, actions, diff and undo."""

from __future__ import annotations

import typing as t
from contextlib import ExitStack

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass, field
from ansible_collections.kvmops.disk.plugins.module_utils._errors import may_still_happen


@dataclass(frozen=True)
class Step:
    """One change to the world: what it says, how it is done, how it is undone (None: it cannot, or need not be).

    *undo* is called for a step that was begun, finished or not. A step that *commits* is the point of no return: once
    it is done, nothing before it is undone. Without a summary a step is bookkeeping, not worth a line to a person.
    """

    summary: str
    do: t.Callable[[], None]
    undo: t.Callable[[], None] | None = None
    commits: bool = False


def refusal(error: Exception) -> Step:
    """The last step of a plan that only settles what a dead run left: raises *error*, the reason why nothing more is
    done."""

    def refuse() -> None:
        raise error

    return Step("", refuse)


@dataclass(frozen=True)
class Plan:
    """Ordered steps from *before* to *after*. Falsy when the world is as wanted.

    *diff* holds what Ansible shows beside before and after: a list of its diff dictionaries.
    """

    before: dict[str, t.Any]
    after: dict[str, t.Any]
    steps: tuple[Step, ...] = ()
    diff: tuple[dict[str, t.Any], ...] = field(default=())

    def __bool__(self) -> bool:
        return bool(self.steps)

    def apply(self) -> None:
        """Does the steps. When one fails, or the process is told to end, undoes what was begun, newest first.

        Not where nobody knows what a step, or its undoing, still does: that is left as by a run that was killed.
        """
        with ExitStack() as undone:
            for step in self.steps:
                if step.undo:
                    undone.push(_undoing(step.undo))
                step.do()
                if step.commits:
                    undone.pop_all()
            undone.pop_all()

    def report(self) -> dict[str, t.Any]:
        return {"changed": bool(self), "actions": [step.summary for step in self.steps if step.summary]}

    def full_report(self) -> dict[str, t.Any]:
        """The same with before and after as Ansible's diff."""
        return {**self.report(), "diff": {"before": dict(self.before), "after": dict(self.after)}}


def _undoing(undo: t.Callable[[], None]) -> t.Callable[[object, BaseException | None, object], None]:
    def leave(_kind: object, error: BaseException | None, _trace: object) -> None:
        if not may_still_happen(error):
            undo()

    return leave
