# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The order in which the disks of a domain are converted while its guest runs, and what QEMU makes of it. Pure."""

from __future__ import annotations

import typing as t
from functools import partial

from ansible_collections.kvmops.disk.plugins.module_utils._plan import Step
from ansible_collections.kvmops.disk.plugins.module_utils._size import format_size
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert import (
    decision_conversion as _decision_conversion,
)

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainState
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert.decision import Conversion
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert.wish import ConvertWish
    from ansible_collections.kvmops.disk.plugins.module_utils._xml.records import Record


#: The first release of QEMU that punches no hole for zeros unless the disk passes discards on, and the first that
#: writes no zeros where the new image reads as zeros anyway (HAZARDS P11).
_FILLS_HOLES, _LEAVES_HOLES = (9, 1), (10, 1)


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


def with_holes(wish: ConvertWish, conversions: t.Iterable[Conversion]) -> list[Conversion]:
    """Those whose new image is to be a raw file with holes, and whose disk does not pass discards on."""
    layout = wish.layout
    if layout.format != "raw" or layout.preallocation not in (None, "off") or wish.block_device:
        return []
    return [item for item in conversions if item.disk.live is None or item.disk.live.discard != "unmap"]


def fills_holes(version: tuple[int, int]) -> bool:
    """Whether a QEMU of that *version* allocates such an image in full while it copies."""
    return _FILLS_HOLES <= version < _LEAVES_HOLES


def warning_of_filled(name: str, item: Conversion, size: int) -> str:
    """What to say of a new image of *size* bytes that will have no holes."""
    return (
        f"{name}: {item.target}: {item.dest} will occupy all of its {format_size(size)}: the QEMU of the domain "
        "allocates what it copies as zeros, unless the disk has discard=unmap: set that first (kvmops.disk.vm_disk), "
        "or set method to offline; kvmops.disk.vm_disk_reclaim gives the space back while the domain is off"
    )


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
