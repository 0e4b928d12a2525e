# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The decision about an external snapshot that is taken: of which disks, with which overlays, in which steps. Pure.

A snapshot keeps the image of each of its disks as it was, and the guest writes to an overlay over it.
"""

from __future__ import annotations

import os
import typing as t
from functools import partial

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import replace
from ansible_collections.kvmops.disk.plugins.module_utils._domain import ready as _ready
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, MissingImage
from ansible_collections.kvmops.disk.plugins.module_utils._image.layout import known_suffixes
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Step
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot.decision_change import (
    Taking,
    record,
    recorded_taking,
)
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot.decision_found import (
    OVERLAY,
    Observed,
)

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainDisk, DomainState
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot.wish import VmSnapshotWish
    from ansible_collections.kvmops.disk.plugins.module_utils._xml.records import Record


#: What a ``<disk>`` says of snapshots where none is to be taken of it, or somebody else takes it by other means.
_LEFT_OUT = ("no", "manual")


class Work(t.Protocol):
    """What is done to the world when a snapshot is taken."""

    def begin(self, items: t.Sequence[Taking]) -> None: ...

    def restore(self) -> None: ...

    def stage(self, item: Taking) -> None: ...

    def withdraw(self, item: Taking) -> None: ...

    def take(self, items: t.Sequence[Taking]) -> None: ...

    def finish(self) -> None: ...


def select(state: DomainState, wish: VmSnapshotWish) -> list[DomainDisk]:
    """The disks that a new snapshot is to be of.

    Raises InvalidRequest for one that the domain does not have, DiskError for one that cannot get an overlay.
    """
    if wish.disks is None:
        chosen = [disk for disk in state.disks if _is_meant_by_default(state, disk)]
        advice = ": name in disks those that the snapshot is to be of"
    else:
        chosen, advice = [], ""
        for wanted in wish.disks:
            disk = state.disk(wanted)
            if disk is None:
                raise state.no_such_disk(wanted)
            if disk not in chosen:
                chosen.append(disk)
    for disk in chosen:
        try:
            _require_overlayable(state, disk)
        except DiskError as error:
            raise DiskError(f"{error}{advice}", **error.facts) from error
    if not chosen:
        raise _nothing_chosen(state)
    return chosen


def require_quiescable(state: DomainState, quiesce: str, has_agent: bool) -> None:
    """Raises DiskError where the task wants frozen file systems, and nobody could freeze them."""
    if quiesce != "required" or not state.active:
        return
    if state.state != "running":
        raise DiskError(
            f"{state.name}: is {state.state}, so its guest agent cannot freeze the file systems: resume it, or set "
            "quiesce to auto or never",
            state=state.state,
        )
    if not has_agent:
        raise DiskError(
            f"{state.name}: no guest agent answers, which would freeze the file systems: install and start "
            "qemu-guest-agent in the guest, give the domain its channel (org.qemu.guest_agent.0), or set quiesce to "
            "auto or never",
        )


def require_images(observed: Observed, disks: t.Sequence[DomainDisk]) -> None:
    """Raises MissingImage where one of *disks* has no image that could be kept."""
    missing = [disk for disk in disks if disk.target not in observed.chains]
    if missing:
        name = observed.state.name
        raise MissingImage(f"{missing[0].path}: is missing, or is not a file: {name} has it as a disk")


def takings(observed: Observed, name: str, disks: t.Sequence[DomainDisk]) -> tuple[Taking, ...]:
    """The *disks* with the overlays that a snapshot *name* gives them: NAME.SNAPSHOT.qcow2 beside the image NAME.qcow2.

    The name of the snapshot whose overlay the image is itself gives way to the new one.
    """
    earlier = {disk.overlay: snapshot.name for snapshot in observed.snapshots for disk in snapshot.external}
    stems = {disk.target: _stem(str(disk.path), earlier.get(disk.path)) for disk in disks}
    several = [stem for stem in stems.values() if list(stems.values()).count(stem) > 1]
    found = []
    for disk in disks:
        stem = stems[disk.target]
        path = f"{stem}.{disk.target}.{name}.{OVERLAY}" if stem in several else f"{stem}.{name}.{OVERLAY}"
        below, *chain = observed.chains[disk.target]
        found.append(Taking(disk, path, below, tuple(chain), disk.target not in observed.unvouched))
    return tuple(found)


def taken(observed: Observed, items: t.Sequence[Taking]) -> Observed:
    """The images of the disks once the snapshot is taken."""
    chains = {item.target: item.outcome.images for item in items}
    named = {item.target: item.named for item in items}
    return replace(observed, chains={**observed.chains, **chains}, named={**observed.named, **named})


def taken_record(state: DomainState, run: str | None, name: str, items: t.Sequence[Taking]) -> Record:
    """What the domain's metadata is to say of a snapshot that is being taken."""
    disks = (recorded_taking(item) for item in items)
    return record(state, run, name, "take", tuple(disks))


def steps(state: DomainState, name: str, items: t.Sequence[Taking], work: Work) -> tuple[Step, ...]:
    """The steps that take the snapshot *name*, in order: record, make each overlay, take, forget."""
    found = [Step("", lambda: work.begin(items), work.restore)]
    found += [Step("", partial(work.stage, item), partial(work.withdraw, item)) for item in items]
    where = ", ".join(
        f"{item.target} on {item.overlay} (over {os.path.basename(str(item.below.path))})" for item in items
    )
    how = "while it runs" if state.active else "which is off"
    said = f"take the snapshot {name} of {state.name}, {how}: {where}"
    found.append(Step(said, lambda: work.take(items), commits=True))
    found.append(Step("", work.finish))
    return tuple(found)


def _is_meant_by_default(state: DomainState, disk: DomainDisk) -> bool:
    """Whether a snapshot that names no disks is of this one, too: the guest can write to it, and has it where it runs,
    and libvirt's XML does not leave it out."""
    return disk.element.device == "disk" and not disk.element.readonly and state.has(disk) and not _is_left_out(disk)


def _is_left_out(disk: DomainDisk) -> bool:
    """Whether the running domain, or its definition, leaves the disk out of snapshots, or to somebody else."""
    elements = (disk.live, disk.defined)
    return any(element is not None and element.snapshot in _LEFT_OUT for element in elements)


def _nothing_chosen(state: DomainState) -> DiskError:
    left_out = [disk.target for disk in state.disks if _is_left_out(disk)]
    marked = f"; the XML leaves {', '.join(left_out)} out of snapshots: name in disks those that it is to be of"
    return DiskError(
        f"{state.name}: has no disk that could be written to: there is nothing to take a snapshot of"
        + (marked if left_out else "")
    )


def _require_overlayable(state: DomainState, disk: DomainDisk) -> None:
    _ready.require_plain_disk(state, disk, "snapshot", "snapshotted")
    what = f"{state.name}: {disk.target}"
    if disk.element.encrypted:
        raise DiskError(f"{what}: is encrypted, and an overlay would hold new data unencrypted: not snapshotted")
    if disk.element.sliced:
        raise DiskError(f"{what}: is a slice of {disk.path}: not snapshotted")


def _stem(path: str, earlier: str | None) -> str:
    """The path without the suffix of its format, and without the name of the snapshot whose overlay it is."""
    stem, suffix = os.path.splitext(path)
    if suffix.lower() not in known_suffixes():
        return path
    ending = f".{earlier}"
    return stem[: -len(ending)] if earlier is not None and stem.endswith(ending) else stem
