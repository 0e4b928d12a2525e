# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What becomes of a domain's snapshots in one run, as facts, and how its metadata records that. Pure."""

from __future__ import annotations

import typing as t
from datetime import datetime, timezone

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._recovery.verbs import DISK_SNAPSHOT
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot.decision_found import OVERLAY, Left
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disk_changes as _disk_changes
from ansible_collections.kvmops.disk.plugins.module_utils._xml.disks import ChainLink
from ansible_collections.kvmops.disk.plugins.module_utils._xml.records import Record, RecordedDisk

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainDisk, DomainState
    from ansible_collections.kvmops.disk.plugins.module_utils._xml.snapshots import DomainSnapshot


@dataclass(frozen=True)
class Outcome:
    """What the definition is to say of a disk: its *images*, the upper ones first; the backing files among them only
    where it is *explicit*."""

    target: str
    images: tuple[ChainLink, ...]
    explicit: bool


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
class Merge:
    """One overlay that is merged into the image below it. *above* is the overlay over it, None where it is the image of
    the disk; *after* are the images of the disk afterwards, and *explicit* whether the definition names them all."""

    target: str
    overlay: ChainLink
    into: ChainLink
    above: ChainLink | None
    after: tuple[ChainLink, ...]
    explicit: bool

    @property
    def paths(self) -> tuple[str, ...]:
        links = (self.overlay, self.into, self.above)
        return tuple(link.path for link in links if link is not None and link.path)

    @property
    def outcome(self) -> Outcome:
        return Outcome(self.target, self.after, self.explicit)

    def __str__(self) -> str:
        return f"{self.overlay.path} into {self.into.path} ({self.target})"


@dataclass(frozen=True)
class Removal:
    """A snapshot that is to go: by *merges*; *merged* are overlays that a dead run has merged already, *orphans* those
    which the domain does not use any more, by somebody else's doing. *settled* is what the definition is to say of
    disks whose overlay was merged already."""

    snapshot: DomainSnapshot
    merges: tuple[Merge, ...]
    merged: tuple[RecordedDisk, ...] = ()
    orphans: tuple[str, ...] = ()
    settled: tuple[Outcome, ...] = ()

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """What the definition is to say once it is gone."""
        return (*self.settled, *(merge.outcome for merge in self.merges))

    @property
    def chains(self) -> dict[str, tuple[ChainLink, ...]]:
        """The images of its disks once it is gone, by target."""
        return {outcome.target: outcome.images for outcome in self.outcomes}

    @property
    def recorded(self) -> tuple[RecordedDisk, ...]:
        """All overlays that are merged once it is gone."""
        return (*self.merged, *(recorded_merge(merge) for merge in self.merges))


@dataclass(frozen=True)
class Settlement:
    """How that is settled which a dead run *left*: overlays are merged *again*, removals *finished*."""

    left: Left
    again: tuple[RecordedDisk, ...] = ()
    finished: tuple[Removal, ...] = ()


@dataclass(frozen=True)
class Change:
    """What a run does: settles what a dead one left, takes a snapshot, removes others, goes back to one."""

    settlement: Settlement | None = None
    takings: tuple[Taking, ...] = ()
    removed: tuple[Removal, ...] = ()
    reverted: DomainSnapshot | None = None

    @property
    def removals(self) -> tuple[Removal, ...]:
        """All snapshots that go, in order."""
        return (*(self.settlement.finished if self.settlement else ()), *self.removed)

    @property
    def overlays(self) -> frozenset[str]:
        """The overlays that are made: they may have the names of others that are removed before."""
        return frozenset(item.overlay for item in self.takings)

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """What the definition is to say of the disks once what the task asks for is done."""
        return (
            *(item.outcome for item in self.takings),
            *(outcome for removal in self.removed for outcome in removal.outcomes),
        )

    @property
    def paths(self) -> set[str]:
        """The images that it touches."""
        found = {path for item in self.takings for path in (item.overlay, str(item.below.path))}
        found |= {path for removal in self.removals for merge in removal.merges for path in merge.paths}
        disks = recorded_revert(self.reverted) if self.reverted is not None else ()
        return found | {path for disk in disks for path in (disk.source, disk.dest) if path}


def with_outcomes(definition: str, outcomes: t.Iterable[Outcome]) -> str:
    """The definition whose disks are as *outcomes* say; of several on one disk the last one counts."""
    for outcome in {outcome.target: outcome for outcome in outcomes}.values():
        chain = outcome.images[1:] if outcome.explicit else None
        definition = _disk_changes.with_image(definition, outcome.target, outcome.images[0], chain)
    return definition


def record(state: DomainState, run: str | None, name: str, change: str, disks: tuple[RecordedDisk, ...]) -> Record:
    """What the domain's metadata is to say of a *change* (take, merge, revert) of its snapshot *name*."""
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


def recorded_taking(item: Taking) -> RecordedDisk:
    """One disk that gets an overlay, as the metadata records it."""
    below = item.below
    return RecordedDisk(item.target, below.path or "", below.format or "raw", item.overlay, OVERLAY)


def recorded_merge(merge: Merge) -> RecordedDisk:
    """One overlay that is merged, as the metadata records it."""
    overlay, into = merge.overlay, merge.into
    known = (overlay.path or "", overlay.format or OVERLAY, into.path or "", into.format or "raw")
    return RecordedDisk(merge.target, *known, base=merge.above.path if merge.above else None)


def recorded_revert(snapshot: DomainSnapshot) -> tuple[RecordedDisk, ...]:
    """The disks that go back to *snapshot*, as the metadata records them: from the overlay to the image below it."""
    found = []
    for one in snapshot.external:
        image = snapshot.image(one.target)
        overlay, overlay_format = one.overlay or "", one.format or OVERLAY
        known = (image.source, image.format) if image is not None and image.source else (overlay, overlay_format)
        found.append(RecordedDisk(one.target, overlay, overlay_format, *known))
    return tuple(found)
