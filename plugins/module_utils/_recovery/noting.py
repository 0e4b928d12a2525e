# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A plan after what settles a dead run, with a note of what is in flight in between."""

from __future__ import annotations

import typing as t
from contextlib import suppress

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import replace
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan, Step

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation


def recorded(
    first: tuple[Step, ...],
    plan: Plan,
    path: str,
    operation: Operation | None,
    *,
    noted: bool = True,
    facts: t.Callable[[], dict[str, t.Any]] = dict,
) -> Plan:
    """*plan* after the steps that settle what a dead run left, and with a note of what is in flight in between.

    Without *noted* none is needed: for what is done or not, and has to work where there is no room for a note. *facts*
    are further ones for the note.
    """

    def note(running: Operation) -> None:
        running.settled(path)
        if noted:
            running.note(path, before=plan.before, after=plan.after, **facts())
        elif running.bases:
            with suppress(DiskError):
                running.note(path)

    return _after(first, plan, operation, note)


def noting(
    first: tuple[Step, ...], plan: Plan, operation: Operation | None, facts: t.Callable[[], dict[str, t.Any]]
) -> Plan:
    """The same for a plan that is about several images: *facts*, asked for in between, are noted beside each."""

    def note(running: Operation) -> None:
        told = facts()
        for path in running.paths:
            running.settled(path)
            running.note(path, **told)

    return _after(first, plan, operation, note)


def _after(
    first: tuple[Step, ...], plan: Plan, operation: Operation | None, note: t.Callable[[Operation], None]
) -> Plan:
    """*plan* after the steps *first*, and, where the records are held and there is something to do, after *note*."""
    if operation is None or not (first or plan):
        return replace(plan, steps=(*first, *plan.steps))
    running = operation
    return replace(plan, steps=(*first, Step("", lambda: note(running)), *plan.steps))
