# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a conversion that died has left: how it is found, and the steps that finish or revert it."""

from __future__ import annotations

import typing as t
from functools import partial

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass, replace
from ansible_collections.kvmops.disk.plugins.module_utils._files import durable as _durable
from ansible_collections.kvmops.disk.plugins.module_utils._files import same_file as _same_file
from ansible_collections.kvmops.disk.plugins.module_utils._files.staging import discarding
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Step
from ansible_collections.kvmops.disk.plugins.module_utils._recovery import settle as _settle
from ansible_collections.kvmops.disk.plugins.module_utils._recovery import shutdown as _shutdown
from ansible_collections.kvmops.disk.plugins.module_utils._recovery.leftovers import look_for
from ansible_collections.kvmops.disk.plugins.module_utils._recovery.traces import NEW_FILE, NoteOf, require_own, traces
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert import (
    decision_conversion as _decision_conversion,
)
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert.decision_conversion import (
    is_copied,
    is_defined,
    is_live,
)

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainState
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert.decision import Conversion
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert.wish import ConvertWish
    from ansible_collections.kvmops.disk.plugins.module_utils._xml.records import Record, RecordedDisk, Shutdown


class Work(t.Protocol):
    """Who finishes or reverts it."""

    def name_pivoted(self, disks: t.Sequence[RecordedDisk]) -> None: ...

    def end_copy(self, disk: RecordedDisk) -> None: ...

    def settle_shutdown(self) -> None: ...

    def start(self) -> None: ...

    def remove(self, source: str) -> None: ...

    def forget(self, images: t.Container[str]) -> None: ...


@dataclass(frozen=True)
class Unfinished:
    """What a dead run left of a domain's conversion.

    *owed*: it had shut the domain down, or asked it to, and not started it again. *pending*: the guest that it asked
    may still go off. *answered*: it has, or was started anew: that need not be remembered any more. *copied*: disks
    whose block job goes on without it.
    *pivoted*: disks that the guest uses already, while the definition names the old ones. *stale*: new images that
    neither the definition names nor the guest uses; the guest may have written to the old ones since, so they are
    worth nothing. *staging*: destinations with half-made files. *sources*: old images that were to go once the domain
    had the new ones, which it has. *noted*: images beside which its record stands still, or again.
    """

    record: Record | None = None
    owed: bool = False
    pending: Shutdown | None = None
    answered: bool = False
    copied: tuple[RecordedDisk, ...] = ()
    pivoted: tuple[RecordedDisk, ...] = ()
    stale: tuple[str, ...] = ()
    staging: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    noted: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.record is not None or bool(self.staging or self.noted or self.answered)

    @property
    def paths(self) -> set[str]:
        disks = self.record.disks if self.record else ()
        return {path for disk in disks for path in (disk.source, disk.dest)} | {*self.staging, *self.noted}


def find(
    state: DomainState,
    images: t.Iterable[str],
    note_of: NoteOf,
    asked: Shutdown | None = None,
    run: str | None = None,
) -> Unfinished:
    """What stands unfinished of the domain's record, and beside *images*. *note_of* gives the record beside a path.

    *asked* is the note of a guest that was asked to shut down, *run* libvirt's number of the domain's run.

    Raises OperationInFlight where the run that wrote the record still lives, DiskError where it was no conversion.
    """
    record = state.record
    require_own(state.name, state.uuid, record, "convert", note_of)
    disks = record.disks if record else ()
    found = traces([*images, *(disk.dest for disk in disks)], note_of)
    unnamed = [disk for disk in disks if not is_defined(state, disk)]
    was_stopped = record is not None and record.mode == "offline" and record.was_running
    pending = asked if asked is not None and _shutdown.is_pending(asked, run) else None
    return Unfinished(
        record=record,
        owed=not state.active and (was_stopped or asked is not None),
        pending=pending,
        answered=asked is not None and pending is None,
        copied=tuple(disk for disk in disks if is_copied(state, disk)),
        pivoted=tuple(disk for disk in unnamed if is_live(state, disk)),
        stale=tuple(disk.dest for disk in unnamed if not is_live(state, disk) and _is_ours(disk.dest, note_of)),
        staging=found.half_made(),
        sources=tuple(disk.source for disk in disks if record and record.remove_source and is_defined(state, disk)),
        noted=found.of("convert"),
    )


def adoptable(unfinished: Unfinished, conversions: t.Iterable[Conversion], wish: ConvertWish) -> frozenset[str]:
    """The targets whose copy a dead run began just as it is wanted now, backing file and layout included: it is gone on
    with. How fast it may be does not matter."""
    return frozenset(
        item.target for item in conversions if _decision_conversion.recorded(item, wish) in unfinished.copied
    )


def without(unfinished: Unfinished, kept: t.Container[str]) -> Unfinished:
    """What is left to clean up where the copies to *kept* go on."""
    return replace(
        unfinished,
        copied=tuple(disk for disk in unfinished.copied if disk.dest not in kept),
        stale=tuple(path for path in unfinished.stale if path not in kept),
    )


def settled_images(conversions: t.Iterable[Conversion], note_of: NoteOf, qemu_img: QemuImg) -> tuple[Step, ...]:
    """The steps that check those sources first on which another verb died."""
    found: list[Step] = []
    for item in conversions:
        note = note_of(item.source)
        if note and note.get("verb") != "convert":
            found += _settle.settle(look_for(item.source, item.source_format, note), qemu_img)
    return tuple(found)


def settlement(
    state: DomainState, unfinished: Unfinished, removable: t.Iterable[str], work: Work, *, restart: bool
) -> tuple[Step, ...]:
    """The steps that end what a dead run left, where there is nothing else to do: *removable* are sources to remove."""
    owed = unfinished.owed and restart
    start = (Step(f"start {state.name}, which an interrupted run had shut down", work.start),) if owed else ()
    images = {disk.path for disk in state.disks if disk.path}
    return (
        *in_order(state, unfinished, work),
        *start,
        *removals(removable, work),
        Step(f"forget the interrupted conversion of {state.name}", partial(work.forget, images)),
    )


def in_order(state: DomainState, unfinished: Unfinished, work: Work) -> tuple[Step, ...]:
    """The steps that end or finish what a dead run left of disks, before more is done to them."""
    pivoted = unfinished.pivoted
    named = Step(
        f"define {state.name} with {', '.join(disk.dest for disk in pivoted)}, on which it runs",
        partial(work.name_pivoted, pivoted),
    )
    forgotten = Step(f"forget that the guest of {state.name} was asked to shut down", work.settle_shutdown)
    is_on_again = unfinished.answered and state.active
    return (
        *((named,) if pivoted else ()),
        *clean_up(unfinished, work.end_copy),
        *((forgotten,) if is_on_again else ()),
    )


def removals(sources: t.Iterable[str], work: Work) -> tuple[Step, ...]:
    """The steps that remove sources, as a dead run was to do."""
    return tuple(Step(f"remove {source}", partial(work.remove, source)) for source in sources)


def clean_up(unfinished: Unfinished, end_copy: t.Callable[[RecordedDisk], None]) -> tuple[Step, ...]:
    """The steps that end what goes on for nobody, and remove what nobody can use any more."""
    copies = [
        Step(f"end the copy of {disk.target} to {disk.dest}, which an interrupted run began", partial(end_copy, disk))
        for disk in unfinished.copied
    ]
    unused = [
        Step(
            f"remove {path}, which an interrupted run made and the domain does not use", partial(_durable.remove, path)
        )
        for path in unfinished.stale
    ]
    return (*copies, *discarding(unfinished.staging), *unused)


def _is_ours(path: str, note_of: NoteOf) -> bool:
    note = note_of(path)
    return note is not None and _same_file.is_file(path, note.get(NEW_FILE))
