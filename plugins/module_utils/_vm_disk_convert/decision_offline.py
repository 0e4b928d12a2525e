# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The order in which the disks of a domain are converted while it is off. Pure."""

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
    from ansible_collections.kvmops.disk.plugins.module_utils._xml.disk_changes import DiskChange
    from ansible_collections.kvmops.disk.plugins.module_utils._xml.records import Record


class Work(t.Protocol):
    """Who does it."""

    def begin(self, record: Record) -> None: ...

    def restore(self) -> None: ...

    def power_off(self) -> None: ...

    def require_space(self) -> None: ...

    def convert(self, item: Conversion) -> None: ...

    def withdraw(self, item: Conversion) -> None: ...

    def name(self, changes: t.Sequence[DiskChange]) -> None: ...

    def define_as_before(self) -> None: ...

    def start(self) -> None: ...

    def remove(self, source: str) -> None: ...

    def forget(self, images: t.Container[str]) -> None: ...


def steps(
    state: DomainState, wish: ConvertWish, conversions: t.Sequence[Conversion], runs: bool, work: Work
) -> tuple[Step, ...]:
    """The steps of a conversion, in order: record, off, convert each, define, on, remove the sources, forget.

    *runs*: the domain ran when all this began, before a run that died meanwhile, too. Until it runs again (or is
    defined, where it stays off) everything is undone when something fails; from there on nothing is.
    """
    restart = runs and wish.restart
    name = state.name
    record = _decision_conversion.record("offline", runs, wish, conversions)
    found = [Step("", partial(work.begin, record), work.restore)]
    if state.active:
        how = "destroy" if wish.shutdown == "force" else "shut down"
        found += [Step(f"{how} {name}", work.power_off), Step("", work.require_space)]
    for item in conversions:
        found.append(
            Step(
                f"convert {item.target} of {name} from {item.source} ({item.source_format}) to {item.dest} "
                f"({wish.layout.format})",
                partial(work.convert, item),
                partial(work.withdraw, item),
            )
        )
    named = [_decision_conversion.change(item, wish) for item in conversions]
    found.append(
        Step(
            f"define {name} with {', '.join(item.path for item in named)}",
            partial(work.name, named),
            work.define_as_before,
            not restart,
        )
    )
    if restart:
        found.append(Step(f"start {name}", work.start, commits=True))
    if not wish.keep_source:
        found += [Step(f"remove {item.source}", partial(work.remove, item.source)) for item in conversions]
    found.append(Step("", partial(work.forget, {item.dest for item in conversions})))
    return tuple(found)
