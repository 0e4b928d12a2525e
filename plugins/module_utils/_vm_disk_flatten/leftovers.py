# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a flattening that died has left: how it is found, and the steps that settle it.

The image is whole whatever the moment: a pull only fills it, and a new one takes its place in one step. So there is
nothing to revert, but a pull may go on for nobody, and files and records stand around.
"""

from __future__ import annotations

import os
import typing as t
from functools import partial

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass, field, replace
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError
from ansible_collections.kvmops.disk.plugins.module_utils._files import beside as _beside
from ansible_collections.kvmops.disk.plugins.module_utils._files import rest as _rest
from ansible_collections.kvmops.disk.plugins.module_utils._files.staging import discarding
from ansible_collections.kvmops.disk.plugins.module_utils._image import image as _image
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Step
from ansible_collections.kvmops.disk.plugins.module_utils._ranges import covers
from ansible_collections.kvmops.disk.plugins.module_utils._recovery import settle as _settle
from ansible_collections.kvmops.disk.plugins.module_utils._recovery.leftovers import look_for
from ansible_collections.kvmops.disk.plugins.module_utils._recovery.traces import NoteOf, require_own, traces
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten.decision import Flattening, recorded
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disk_changes as _disk_changes
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disks as _xml_disks

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainState
    from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg
    from ansible_collections.kvmops.disk.plugins.module_utils._xml.records import Record, RecordedDisk

#: The key of a record under which the owners of the backing files stand.
OWNERS = "owners"


class Work(t.Protocol):
    """Who settles it."""

    def end_pull(self, target: str) -> None: ...

    def write_out(self, target: str) -> None: ...

    def refer_again(self, disk: RecordedDisk) -> None: ...

    def name_again(self, wanted: str) -> None: ...

    def forget(self, images: t.Container[str]) -> None: ...


@dataclass(frozen=True)
class Left:
    """What a dead run left of a domain's flattening.

    *pulled*: disks whose pull goes on without it. *unwritten*: disks whose pull may be over, while the guest's QEMU may
    still have in its memory what says where the content is. *doubtful*: those whose QEMU is gone: it may have taken
    that along (see lost()). *staging*: images with half-made files, or old ones, beside them. *noted*: images beside
    which its record stands. *owners*: those that the backing files had when it began.
    """

    record: Record | None = None
    pulled: tuple[RecordedDisk, ...] = ()
    unwritten: tuple[RecordedDisk, ...] = ()
    doubtful: tuple[RecordedDisk, ...] = ()
    staging: tuple[str, ...] = ()
    noted: tuple[str, ...] = ()
    owners: t.Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return self.record is not None or bool(self.staging or self.noted)

    @property
    def paths(self) -> set[str]:
        return {disk.source for disk in self._disks} | {*self.staging, *self.noted}

    @property
    def targets(self) -> frozenset[str]:
        """The disks that it was about."""
        return frozenset(disk.target for disk in self._disks)

    @property
    def _disks(self) -> tuple[RecordedDisk, ...]:
        return self.record.disks if self.record else ()


def find(
    state: DomainState,
    run: str | None,
    images: t.Iterable[str],
    note_of: NoteOf,
    is_pulled: t.Callable[[str], bool],
) -> Left:
    """What stands unfinished of the domain's record, and beside *images*. *run*: libvirt's number of the domain's run.

    Raises OperationInFlight where the run that wrote the record lives, DiskError where it was no flattening.
    """
    record = state.record
    require_own(state.name, state.uuid, record, "flatten", note_of)
    disks = record.disks if record else ()
    found = traces([*images, *(disk.source for disk in disks)], note_of)
    ours = found.of("flatten")
    live = disks if record and record.mode == "live" else ()
    same_run = [disk for disk in live if record and run == record.run and _runs_on(state, disk)]
    pulled = tuple(disk for disk in same_run if is_pulled(disk.target))
    return Left(
        record=record,
        pulled=pulled,
        unwritten=tuple(disk for disk in same_run if disk not in pulled),
        doubtful=tuple(disk for disk in live if disk not in same_run),
        staging=found.half_made(),
        noted=ours,
        owners={
            path: (owner[0], owner[1]) for one in ours for path, owner in (found.notes[one].get(OWNERS) or {}).items()
        },
    )


def adoptable(left: Left, items: t.Iterable[Flattening]) -> frozenset[str]:
    """The targets whose pull a dead run began just as it is wanted now: it is waited for."""
    return frozenset(item.target for item in items if recorded(item) in left.pulled)


def without(left: Left, adopted: t.Container[str]) -> Left:
    """What is left to settle where the pulls of *adopted* go on."""
    return replace(left, pulled=tuple(disk for disk in left.pulled if disk.target not in adopted))


def lost(left: Left, qemu_img: QemuImg) -> tuple[RecordedDisk, ...]:
    """The doubtful disks whose image names its old backing file no more, and has not all of what was in there.

    QEMU changes that reference before it writes the metadata of what it has pulled; when it is killed just then, or the
    host fails, the rest reads as zeros. What was pulled is the same as below, so with the reference all is well again.
    """
    return tuple(disk for disk in left.doubtful if _is_lost(disk, qemu_img))


def require_off(state: DomainState, lost: t.Sequence[RecordedDisk]) -> None:
    """Raises DiskError where a guest runs on images of which a part is lost."""
    if state.active:
        images = ", ".join(disk.source for disk in lost)
        raise DiskError(
            f"{state.name}: {images} lost a part of what was pulled into it, as its QEMU was killed then; "
            "a guest runs on it again, and reads zeros there: destroy the domain and run again, which brings back "
            "what was below",
            state=state.state,
        )


def repair(state: DomainState, left: Left, lost: t.Sequence[RecordedDisk], named: str, work: Work) -> tuple[Step, ...]:
    """The steps that let each of the *lost* images read its old backing file again, which the definition is to name, as
    *named* does; and that settle the rest."""
    again = [
        Step(
            f"have {disk.source} refer to {disk.below} again: {disk.target} went off before all of that was in it",
            partial(work.refer_again, disk),
        )
        for disk in lost
    ]
    define = (Step("", partial(work.name_again, named)),) if named != state.definition else ()
    return (*again, *define, *settlement(state, left, work))


def with_old_chains(definition: str, disks: t.Iterable[RecordedDisk], qemu_img: QemuImg) -> str:
    """The definition with all the backing files that the images of *disks* had, where it names any."""
    for disk in disks:
        chain = _chain_below(disk, qemu_img)
        links = [_xml_disks.ChainLink(image.path, image.format) for image in chain]
        definition = _disk_changes.with_chain(definition, disk.target, links)
    return definition


def settled_images(
    state: DomainState, items: t.Iterable[Flattening], operation: Operation | None, qemu_img: QemuImg
) -> tuple[Step, ...]:
    """The steps that check those images first on which another verb died.

    Raises DiskError where a running guest does not allow that.
    """
    note_of = _beside.notes(operation)
    found: list[Step] = []
    for item in items:
        note = note_of(item.path)
        empty = operation is None and note and note.get("verb") == "unknown"  # or cut off: seen once it is held
        if not note or empty or note.get("alive") or note.get("verb") == "flatten":
            continue
        if state.active:
            _settle.require_checkable(state.name, state.state, item.path, note)
        found += _settle.settle(look_for(item.path, item.image.format, note), qemu_img)
    return tuple(found)


def settlement(state: DomainState, left: Left, work: Work) -> tuple[Step, ...]:
    """The steps that end what a dead run left, where there is nothing else to do."""
    images = {disk.path for disk in state.disks if disk.path}
    return (
        *settle(left, work.end_pull, work.write_out),
        Step(f"forget the interrupted flattening of {state.name}", partial(work.forget, images)),
    )


def settle(left: Left, end_pull: t.Callable[[str], None], write_out: t.Callable[[str], None]) -> tuple[Step, ...]:
    """The steps that end what goes on for nobody, remove what is half-made, give files their owners back, and bring
    what was pulled to stable storage (*write_out*)."""
    pulls = [
        Step(
            f"end the pull into {disk.source} ({disk.target}), which an interrupted run began",
            partial(end_pull, disk.target),
        )
        for disk in left.pulled
    ]
    owners = [Step("", partial(_rest.give_back, left.owners))] if left.owners else []
    written = [Step("", partial(write_out, disk.target)) for disk in left.unwritten]
    return (*pulls, *discarding(left.staging), *owners, *written)


def _runs_on(state: DomainState, disk: RecordedDisk) -> bool:
    return any(known.target == disk.target and known.live and known.path == disk.source for known in state.disks)


def _is_lost(disk: RecordedDisk, qemu_img: QemuImg) -> bool:
    if disk.below is None or not os.path.exists(disk.source) or not os.path.exists(disk.below):
        return False
    image = _image.inspect(qemu_img, disk.source, disk.format)
    if image.backing_file is not None and os.path.realpath(image.backing_file) == os.path.realpath(disk.below):
        return False
    chain = _chain_below(disk, qemu_img)
    paths = [os.path.realpath(each.path) for each in chain]
    base = os.path.realpath(disk.base) if disk.base else None
    merged = paths.index(base) if base in paths else len(paths)
    wanted = qemu_img.allocated(disk.below, chain[0].format, merged)
    return not covers(qemu_img.held(disk.source, disk.format), wanted, image.virtual_size)


def _chain_below(disk: RecordedDisk, qemu_img: QemuImg) -> tuple[_image.Image, ...]:
    """The backing files that the image had."""
    return _image.chain(qemu_img, _image.inspect(qemu_img, disk.below or "", disk.below_format))
