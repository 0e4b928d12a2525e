# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The order in which the disks of a domain are converted while its guest runs. Pure."""

from __future__ import annotations

import typing as t
from functools import partial

from ansible_collections.kvmops.disk.plugins.module_utils._plan import Step
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert import (
    decision_conversion as _decision_conversion,
)

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainState
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert.decision import Conversion
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert.wish import ConvertWish
    from ansible_collections.kvmops.disk.plugins.module_utils._xml.records import Record


class Work(t.Protocol):
    """Who does it."""

    def begin(self, record: Record, conversions: t.Sequence[Conversion]) -> None: ...

    def restore(self, conversions: t.Sequence[Conversion]) -> None: ...

    def stage(self, item: Conversion) -> None: ...

    def withdraw(self, item: Conversion) -> None: ...

    def copy(self, item: Conversion) -> None: ...

    def end(self, item: Conversion) -> None: ...

    def pivot(self, conversions: t.Sequence[Conversion]) -> None: ...

    def remove(self, source: str) -> None: ...

    def finish(self, images: t.Container[str]) -> None: ...


def steps(
    state: DomainState,
    wish: ConvertWish,
    conversions: t.Sequence[Conversion],
    adopted: t.Container[str],
    work: Work,
) -> tuple[Step, ...]:
    """The steps of a conversion, in order: record, copy each, pivot all, remove the sources, forget.

    *adopted*: the targets whose copy a dead run began. Until the pivot everything is undone when something fails; a
    disk that has its new image then keeps it.
    """
    name = state.name
    record = _decision_conversion.record("live", True, wish, conversions)
    found = [Step("", partial(work.begin, record, conversions), partial(work.restore, conversions))]
    for item in conversions:
        known = (
            f"{item.target} of {name} from {item.source} ({item.source_format}) to {item.dest} ({wish.layout.format})"
        )
        if item.target in adopted:
            how = f"resume the copy of {known} that an interrupted run began"
        else:
            how = f"copy {known} while it runs"
        found.append(Step("", partial(work.stage, item), partial(work.withdraw, item)))
        found.append(Step(how, partial(work.copy, item), partial(work.end, item)))
    found.append(
        Step(
            f"switch {name} to {', '.join(item.dest for item in conversions)}",
            partial(work.pivot, conversions),
            commits=True,
        )
    )
    if not wish.keep_source:
        found += [Step(f"remove {item.source}", partial(work.remove, item.source)) for item in conversions]
    found.append(Step("", partial(work.finish, {item.dest for item in conversions})))
    return tuple(found)
