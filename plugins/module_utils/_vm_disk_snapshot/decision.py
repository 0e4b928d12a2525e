# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The decision about an external snapshot of a domain that is taken, or gone back to. Pure.

A snapshot keeps the image of each of its disks as it was, and the guest writes to an overlay over it.
"""

from __future__ import annotations

import os
import typing as t
from dataclasses import dataclass, replace
from datetime import datetime, timezone

from ansible_collections.kvmops.disk.plugins.module_utils._domain import ready as _ready
from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainDisk, DomainState
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError
from ansible_collections.kvmops.disk.plugins.module_utils._image.layout import known_suffixes
from ansible_collections.kvmops.disk.plugins.module_utils._recovery.leftovers import DISK_SNAPSHOT
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot.wish import VmSnapshotWish
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disks as _disks
from ansible_collections.kvmops.disk.plugins.module_utils._xml.disks import ChainLink
from ansible_collections.kvmops.disk.plugins.module_utils._xml.records import Record, RecordedDisk
from ansible_collections.kvmops.disk.plugins.module_utils._xml.snapshots import DomainSnapshot

#: The format of an overlay.
OVERLAY = "qcow2"


@dataclass(frozen=True)
class Taking:
    """One disk that gets an overlay: at *overlay*, over the image *below* it, with the backing files *chain* of that.

    *named*: whether all of them are vouched for, so that the definition may name them.
    """

    disk: DomainDisk
    overlay: str
    below: ChainLink
    chain: tuple[ChainLink, ...]
    named: bool

    @property
    def target(self) -> str:
        return self.disk.target

    @property
    def outcome(self) -> Outcome:
        return Outcome(self.target, (ChainLink(self.overlay, OVERLAY), self.below, *self.chain), self.named)


@dataclass(frozen=True)
class Outcome:
    """What the definition is to say of a disk: its *images*, the upper ones first; the backing files among them only
    where it is *explicit*."""

    target: str
    images: tuple[ChainLink, ...]
    explicit: bool


#: The images of each disk, the one that counts first.
Chains = t.Mapping[str, tuple[ChainLink, ...]]


def find(name: str | None, snapshots: t.Iterable[DomainSnapshot]) -> DomainSnapshot | None:
    """The snapshot of that name."""
    return next((snapshot for snapshot in snapshots if snapshot.name == name), None)


def select(state: DomainState, wish: VmSnapshotWish) -> list[DomainDisk]:
    """The disks that a new snapshot is to be of.

    Raises InvalidRequest for one that the domain does not have, DiskError for one that cannot get an overlay.
    """
    if wish.disks is None:
        chosen = [disk for disk in state.disks if disk.element.device == "disk" and not disk.element.readonly]
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
            _require_overlayable(state.name, disk)
        except DiskError as error:
            raise DiskError(f"{error}{advice}", **error.facts) from error
    if not chosen:
        raise DiskError(f"{state.name}: has no disk that could be written to: there is nothing to take a snapshot of")
    return chosen


def require_same(state: DomainState, wish: VmSnapshotWish, found: DomainSnapshot) -> None:
    """Raises DiskError where the snapshot that exists is not the one that the task wants."""
    what = f"{state.name}: has a snapshot {found.name} already, "
    if not found.is_external:
        kind = "with the memory of the guest" if found.memory != "no" else "inside of images"
        raise DiskError(f"{what}{kind}: choose another name, or delete it with virsh snapshot-delete")
    if wish.disks is None:
        return
    wanted = {_target(state, found, name) for name in wish.disks}
    targets = {disk.target for disk in found.external}
    if targets != wanted:
        missing, more = sorted(wanted - targets), sorted(targets - wanted)
        difference = [f"not of {', '.join(missing)}"] if missing else []
        difference += [f"also of {', '.join(more)}"] if more else []
        raise DiskError(
            f"{what}but {' and '.join(difference)}: choose another name, or remove it first with state=absent",
            snapshot_disks=sorted(targets),
        )


def _target(state: DomainState, found: DomainSnapshot, name: str) -> str:
    """The disk that *name* means: by its target, its image, or the image that it had before the snapshot *found*."""
    disk = state.disk(name)
    if disk is not None:
        return disk.target
    for one in found.external:
        image = found.image(one.target)
        if image is not None and image.source == name:
            return one.target
    raise state.no_such_disk(name)


def takings(
    name: str,
    disks: t.Sequence[DomainDisk],
    chains: Chains,
    snapshots: t.Sequence[DomainSnapshot],
    unvouched: t.Container[str],
) -> tuple[Taking, ...]:
    """The disks with the overlays that a snapshot *name* gives them: NAME.SNAPSHOT.qcow2 beside the image NAME.qcow2.

    The name of the snapshot whose overlay the image is itself gives way to the new one. *unvouched*: targets with a
    backing file that nobody has named.
    """
    earlier = {disk.overlay: snapshot.name for snapshot in snapshots for disk in snapshot.external}
    stems = {disk.target: _stem(str(disk.path), earlier.get(disk.path)) for disk in disks}
    several = [stem for stem in stems.values() if list(stems.values()).count(stem) > 1]
    found = []
    for disk in disks:
        stem = stems[disk.target]
        path = f"{stem}.{disk.target}.{name}.{OVERLAY}" if stem in several else f"{stem}.{name}.{OVERLAY}"
        below, *chain = chains[disk.target]
        found.append(Taking(disk, path, below, tuple(chain), disk.target not in unvouched))
    return tuple(found)


def require_quiet(state: DomainState, jobs: t.Sequence[str]) -> None:
    """Raises DiskError where the domain is in no state for a change of its snapshots; *jobs* are its block jobs."""
    _ready.require_quiet(
        state, jobs, "a change of the images", "which would resume on other images than it was saved on"
    )
    if state.active and state.state not in ("running", "paused"):
        raise DiskError(
            f"{state.name}: is {state.state}: its disks cannot be changed now: wait, or resume it", state=state.state
        )


def require_revertible(
    state: DomainState, wish: VmSnapshotWish, snapshots: t.Sequence[DomainSnapshot], version: tuple[int, int]
) -> DomainSnapshot:
    """The snapshot to go back to. Raises DiskError where there is none, or libvirt cannot go back to it."""
    found = find(wish.name, snapshots)
    if found is None:
        known = ", ".join(one.name for one in snapshots) or "none"
        raise DiskError(
            f"{state.name}: has no snapshot {wish.name} to revert to; it has: {known}",
            snapshots=[one.name for one in snapshots],
        )
    if not found.is_external:
        raise DiskError(
            f"{state.name}: its snapshot {found.name} is not one of disks alone in files of their own: revert to it "
            "with virsh snapshot-revert"
        )
    if version < (9, 10):
        kept = ", ".join(f"{disk.target}: {image_of(found, disk.target)}" for disk in found.external)
        raise DiskError(
            f"{state.name}: libvirt {version[0]}.{version[1]} cannot revert to an external snapshot, which needs "
            f"9.10 or newer: shut the domain down and define it with the images that {found.name} has kept ({kept}), "
            "or with new overlays over these (kvmops.disk.qcow2_image with backing_file), and remove libvirt's "
            "records with virsh snapshot-delete --metadata",
            libvirt_version=list(version),
        )
    _require_names_for_libvirt(state, found)
    return found


def taken_record(state: DomainState, run: str | None, name: str, items: t.Sequence[Taking]) -> Record:
    """What the domain's metadata is to say of a snapshot that is being taken."""
    disks = (recorded_taking(item) for item in items)
    return record(state, run, name, "take", tuple(disks))


def revert_record(state: DomainState, runs: bool, run: str | None, snapshot: DomainSnapshot) -> Record:
    """What it is to say of a way back to *snapshot*; *runs*: the domain is to run afterwards."""
    return replace(record(state, run, snapshot.name, "revert", recorded_revert(snapshot)), was_running=runs)


def recorded_revert(snapshot: DomainSnapshot) -> tuple[RecordedDisk, ...]:
    """The disks that go back to *snapshot*, as the metadata records them: from the overlay to the image below it."""
    found = []
    for one in snapshot.external:
        image = snapshot.image(one.target)
        overlay, overlay_format = one.overlay or "", one.format or OVERLAY
        known = (image.source, image.format) if image is not None and image.source else (overlay, overlay_format)
        found.append(RecordedDisk(one.target, overlay, overlay_format, *known))
    return tuple(found)


def recorded_taking(item: Taking) -> RecordedDisk:
    """One disk that gets an overlay, as the metadata records it."""
    below = item.below
    return RecordedDisk(item.target, below.path or "", below.format or "raw", item.overlay, OVERLAY)


def with_outcomes(definition: str, outcomes: t.Iterable[Outcome]) -> str:
    """The definition whose disks are as *outcomes* say; of several on one disk the last one counts."""
    for outcome in {outcome.target: outcome for outcome in outcomes}.values():
        chain = outcome.images[1:] if outcome.explicit else None
        definition = _disks.with_image(definition, outcome.target, outcome.images[0], chain)
    return definition


def same(one: str | None, other: str | None) -> bool:
    """Whether two names mean the same file."""
    return one is not None and other is not None and os.path.realpath(one) == os.path.realpath(other)


def record(state: DomainState, run: str | None, name: str, change: str, disks: tuple[RecordedDisk, ...]) -> Record:
    return Record(
        verb=DISK_SNAPSHOT,
        mode="live" if state.active else "offline",
        started=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        was_running=state.active,
        remove_source=False,
        disks=disks,
        run=run,
        snapshot=name,
        change=change,
    )


def _require_overlayable(name: str, disk: DomainDisk) -> None:
    _ready.require_plain_disk(name, disk, "snapshot", "snapshotted")
    what = f"{name}: {disk.target}"
    if disk.element.encrypted:
        raise DiskError(f"{what}: is encrypted, and an overlay would hold new data unencrypted: not snapshotted")
    if disk.element.sliced:
        raise DiskError(f"{what}: is a slice of {disk.path}: not snapshotted")


def image_of(snapshot: DomainSnapshot, target: str) -> str:
    image = snapshot.image(target)
    return str(image.source or image.volume) if image else "nothing"


def _stem(path: str, earlier: str | None) -> str:
    """The path without the suffix of its format, and without the name of the snapshot whose overlay it is."""
    stem, suffix = os.path.splitext(path)
    if suffix.lower() not in known_suffixes():
        return path
    ending = f".{earlier}"
    return stem[: -len(ending)] if earlier is not None and stem.endswith(ending) else stem


def _require_names_for_libvirt(state: DomainState, snapshot: DomainSnapshot) -> None:
    """Raises DiskError where libvirt would give the overlays of two disks one name: BASE.EPOCH for BASE.qcow2 and
    BASE.raw."""
    seen: dict[str, str] = {}
    for disk in snapshot.external:
        stem = os.path.splitext(image_of(snapshot, disk.target))[0]
        if stem in seen:
            raise DiskError(
                f"{state.name}: libvirt cannot revert to the snapshot {snapshot.name}, as its overlays for "
                f"{seen[stem]} and {disk.target} would have one name, {stem}.EPOCH: move one of the images with "
                "vm_disk_convert once the snapshots are removed"
            )
        seen[stem] = disk.target
