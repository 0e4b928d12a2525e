# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The order in which disks are made independent while their guest runs, by block pull. Pure."""

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

    def begin(self, record: Record, items: t.Sequence[Flattening]) -> None: ...

    def restore(self) -> None: ...

    def pull(self, item: Flattening) -> None: ...

    def end(self, item: Flattening) -> None: ...

    def finish(self, images: t.Container[str]) -> None: ...


def steps(
    state: DomainState, items: t.Sequence[Flattening], run: str | None, adopted: t.Container[str], work: Work
) -> tuple[Step, ...]:
    """The steps of a live flattening, in order: record, pull each, forget. A pull that fails leaves its image valid.

    *run*: libvirt's number of the running domain. *adopted*: the targets whose pull a dead run began.
    """
    record = _decision.record(state, "live", run, items)
    found = [Step("", partial(work.begin, record, items), work.restore)]
    for item in items:
        if item.target in adopted:
            how = f"wait for the pull of {item}, which an interrupted run began"
        else:
            how = f"pull {item}"
        found.append(
            Step(f"{how}, below {state.name} while it runs", partial(work.pull, item), partial(work.end, item))
        )
    found.append(Step("", partial(work.finish, {item.path for item in items})))
    return tuple(found)
