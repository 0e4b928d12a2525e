# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The order in which disks are made independent while their domain is off. Pure."""

from __future__ import annotations

import typing as t
from functools import partial

from ansible_collections.kvmops.disk.plugins.module_utils._plan import Step
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten import decision as _decision

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainState
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten.decision import Flattening
    from ansible_collections.kvmops.disk.plugins.module_utils._xml.records import Record


class Work(t.Protocol):
    """Who does it."""

    def begin(self, record: Record) -> None: ...

    def restore(self) -> None: ...

    def stage(self, item: Flattening) -> None: ...

    def withdraw(self, item: Flattening) -> None: ...

    def exchange(self, items: t.Sequence[Flattening]) -> None: ...

    def define_as_before(self) -> None: ...

    def finish(self, items: t.Sequence[Flattening]) -> None: ...


def steps(state: DomainState, items: t.Sequence[Flattening], work: Work) -> tuple[Step, ...]:
    """The steps, in order: record, make each new file, put all in place, let the old ones go and forget."""
    record = _decision.record(state, "offline", None, items)
    found = [Step("", partial(work.begin, record), work.restore)]
    found += [
        Step(f"merge {item} of {state.name}, in a new file", partial(work.stage, item), partial(work.withdraw, item))
        for item in items
    ]
    found.append(
        Step(
            f"put the new {', '.join(item.path for item in items)} in place of the old",
            partial(work.exchange, items),
            work.define_as_before,
            commits=True,
        )
    )
    found.append(Step("", partial(work.finish, items)))
    return tuple(found)
