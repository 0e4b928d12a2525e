# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The decision what is done to have a domain without a disk. Pure."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan, Step
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disk_changes as _disk_changes
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disk_definition as _disk_definition

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainDisk, DomainState
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk.wish import DiskWish


class Work(t.Protocol):
    """Who does it."""

    def detach(self, seconds: float) -> None: ...

    def take_out(self) -> None: ...


def plan_detachment(
    state: DomainState, found: DomainDisk | None, wish: DiskWish, removal: Plan, work: t.Callable[[], Work]
) -> Plan:
    """The plan that has the guest let the disk go, then takes it out of the definition, and then carries out the
    *removal* of its image. So a guest that does not let it go has it at its next start, too (HAZARDS L1)."""
    steps: list[Step] = []
    definition = state.definition
    if found is not None:
        what = f"{found.target} of {state.name} ({found.path or 'no medium'})"
        if found.live is not None and wish.live:
            steps.append(Step(f"detach {what} while it runs", lambda: work().detach(wish.timeout)))
        if found.defined is not None:
            steps.append(Step(f"take {what} out of the definition", lambda: work().take_out()))
            definition = _disk_definition.without_disk(definition, found.target)
    steps += removal.steps
    if not steps:
        return Plan({}, {})
    name = f"{state.name} {found.target}" if found is not None else state.name
    known = {"path": found.path, "format": found.format} if found is not None else None
    diff = _disk_changes.definition_diff(state.definition, definition)
    shown = ({"prepared": diff},) if diff else ()
    removed = removal.after.get("path") if removal else None
    return Plan(
        {name: known, **({removed: removal.before} if removed else {})},
        {name: None, **({removed: removal.after} if removed else {})},
        tuple(steps),
        shown,
    )
