# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The decision how external snapshots of a domain are removed: which are too many, and which overlay is merged into
which image. Pure.

To remove a snapshot is to merge its overlays into the images below them, whose content at the snapshot is gone then.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, replace

from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainState
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot.decision import (
    OVERLAY,
    Chains,
    Outcome,
    find,
    image_of,
    record,
    same,
)
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot.wish import VmSnapshotWish
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disks as _disks
from ansible_collections.kvmops.disk.plugins.module_utils._xml import snapshots as _snapshots
from ansible_collections.kvmops.disk.plugins.module_utils._xml.disks import ChainLink
from ansible_collections.kvmops.disk.plugins.module_utils._xml.records import Record, RecordedDisk
from ansible_collections.kvmops.disk.plugins.module_utils._xml.snapshots import DomainSnapshot


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

    @property
    def chain(self) -> tuple[ChainLink, ...]:
        """What is below the image that is written."""
        return self.after[self.after.index(self.into) + 1 :]

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
    def recorded(self) -> tuple[RecordedDisk, ...]:
        """All overlays that are merged once it is gone."""
        return (*self.merged, *(recorded_merge(merge) for merge in self.merges))


def surplus(
    wish: VmSnapshotWish, snapshots: t.Sequence[DomainSnapshot], gone: t.Container[str]
) -> list[DomainSnapshot]:
    """The snapshots that are too many, the oldest first. One that the task wants to be there is none of them."""
    if wish.keep is None:
        return []
    prefix = wish.prefix or ""
    counted = [one for one in snapshots if one.is_external and one.name.startswith(prefix) and one.name not in gone]
    is_new = wish.state == "present" and wish.name is not None and find(wish.name, snapshots) is None
    more = len(counted) + (is_new and str(wish.name).startswith(prefix)) - wish.keep
    oldest_first = sorted(counted, key=lambda one: (one.date or "", _depth(one, snapshots)))
    wanted = wish.name if wish.state == "present" else None
    return [one for one in oldest_first[: max(0, more)] if one.name != wanted]


def removals(
    state: DomainState,
    doomed: t.Iterable[str],
    chains: Chains,
    snapshots: t.Sequence[DomainSnapshot],
    recorded: t.Mapping[str, RecordedDisk],
    named: t.Mapping[str, bool],
) -> tuple[Removal, ...]:
    """How each of the snapshots *doomed* goes, one after the other.

    *recorded*: disks of the merge that a dead run began, by overlay. *named*: of which disks the definition names the
    backing files. Raises DiskError where one cannot be merged back safely.
    """
    found: list[Removal] = []
    for name in doomed:
        snapshot = find(name, snapshots)
        if snapshot is not None:
            removal = _removal(state, snapshot, chains, snapshots, recorded, named)
            chains = without(chains, [removal])
            snapshots = predicted(snapshots, [removal], chains)
            found.append(removal)
    return tuple(found)


def merge_record(state: DomainState, run: str | None, removal: Removal) -> Record:
    """What it is to say of overlays that are being merged; those that a dead run has merged stay in it."""
    return record(state, run, removal.snapshot.name, "merge", removal.recorded)


def recorded_merge(merge: Merge) -> RecordedDisk:
    """One overlay that is merged, as the metadata records it."""
    overlay, into = merge.overlay, merge.into
    known = (overlay.path or "", overlay.format or OVERLAY, into.path or "", into.format or "raw")
    return RecordedDisk(merge.target, *known, base=merge.above.path if merge.above else None)


def renamed(xml: str, removal: Removal, chains: Chains) -> str:
    """The XML of another snapshot, which names what the overlays of *removal* are in now, and these no more."""
    for disk in removal.recorded:
        image = removal.snapshot.image(disk.target)
        explicit = image is not None and image.chain is not None
        xml = _snapshots.with_domains(xml, _renaming(disk, chains.get(disk.target, ()), explicit))
    return xml


def _renaming(merged: RecordedDisk, images: t.Sequence[ChainLink], explicit: bool) -> t.Callable[[str], str]:
    """What lets the definition of a domain name the image that the overlay *merged* is in now.

    *images* are those of the disk; *explicit*: the definition named the backing files before there was the overlay.
    """

    def rename(domain: str) -> str:
        found = next((disk for disk in _disks.disks(domain) if disk.target == merged.target), None)
        if found is None:
            return domain
        if not same(found.source, merged.source):
            links = (link.path for link in found.chain or () if same(link.path, merged.source))
            name = next(links, None)
            return _disks.without_link(domain, merged.target, name) if name else domain
        number = next((number for number, link in enumerate(images) if same(link.path, merged.dest)), None)
        below = images[number + 1 :] if number is not None and explicit else None
        return _disks.with_image(domain, merged.target, ChainLink(merged.dest, merged.format), below)

    return rename


def without(chains: Chains, removed: t.Iterable[Removal]) -> dict[str, tuple[ChainLink, ...]]:
    """The images of each disk once the overlays of *removed* are merged."""
    gone = {(merge.target, merge.overlay.path) for removal in removed for merge in removal.merges}
    return {
        target: tuple(link for link in chain if (target, link.path) not in gone) for target, chain in chains.items()
    }


def predicted(
    snapshots: t.Sequence[DomainSnapshot], removed: t.Sequence[Removal], chains: Chains
) -> list[DomainSnapshot]:
    """The *snapshots* that stay, as libvirt knows them once *removed* are gone; *chains* are the images then."""
    names = {removal.snapshot.name for removal in removed}
    kept = []
    for snapshot in snapshots:
        if snapshot.name in names:
            continue
        parent = snapshot.parent
        while parent in names:
            above = find(parent, snapshots)
            parent = above.parent if above else None
        xml = snapshot.xml
        for removal in removed:
            xml = renamed(xml, removal, chains)
        known = _snapshots.snapshot(xml)
        kept.append(replace(known, parent=parent, current=snapshot.current))
    return kept


def _removal(
    state: DomainState,
    snapshot: DomainSnapshot,
    chains: Chains,
    snapshots: t.Sequence[DomainSnapshot],
    recorded: t.Mapping[str, RecordedDisk],
    named: t.Mapping[str, bool],
) -> Removal:
    if not snapshot.is_external:
        raise DiskError(
            f"{state.name}: its snapshot {snapshot.name} is not one of disks alone in files of their own: delete it "
            "with virsh snapshot-delete"
        )
    merges: list[Merge] = []
    merged: list[RecordedDisk] = []
    orphans: list[str] = []
    settled: list[Outcome] = []
    for one in snapshot.external:
        chain = chains.get(one.target)
        if chain is None:
            raise DiskError(
                f"{state.name}: its snapshot {snapshot.name} is of {one.target}, which the domain no longer has: "
                "attach the disk again, or remove libvirt's record with virsh snapshot-delete --metadata"
            )
        number = next((number for number, link in enumerate(chain) if same(link.path, one.overlay)), None)
        if number is None:
            known = recorded.get(str(one.overlay))
            if known is None:
                _require_unneeded(state, snapshot, str(one.overlay), snapshots)
                orphans.append(str(one.overlay))
            else:
                merged.append(known)
                top = same(chain[0].path, known.dest)
                settled.append(Outcome(one.target, chain, _is_explicit(snapshot, one.target, top, named)))
            continue
        merges.append(_merge(state, snapshot, one.target, chain, number, named))
    return Removal(snapshot, tuple(merges), tuple(merged), tuple(orphans), tuple(settled))


def _is_explicit(snapshot: DomainSnapshot, target: str, top: bool, named: t.Mapping[str, bool]) -> bool:
    """Whether the definition is to name the backing files of a disk: as it did before the snapshot, where the image
    that the disk had then is the *top* one again, else as it does now."""
    if not top:
        return named.get(target, False)
    image = snapshot.image(target)
    return image is not None and image.chain is not None


def _merge(
    state: DomainState,
    snapshot: DomainSnapshot,
    target: str,
    chain: tuple[ChainLink, ...],
    number: int,
    named: t.Mapping[str, bool],
) -> Merge:
    image = snapshot.image(target)
    below = chain[number + 1] if number + 1 < len(chain) else None
    if below is None or (image is not None and not same(image.source, below.path) and image.type != "volume"):
        raise DiskError(
            f"{state.name}: {target}: below {chain[number].path}, the overlay of the snapshot {snapshot.name}, is "
            f"{below.path if below else 'nothing'}, and libvirt knows it over {image_of(snapshot, target)}: the "
            "chain was changed: bring the two together first",
        )
    explicit = _is_explicit(snapshot, target, number == 0, named)
    above = chain[number - 1] if number else None
    return Merge(target, chain[number], below, above, (*chain[:number], *chain[number + 1 :]), explicit)


def _require_unneeded(
    state: DomainState, snapshot: DomainSnapshot, overlay: str, snapshots: t.Sequence[DomainSnapshot]
) -> None:
    """Raises DiskError where *overlay*, which the domain does not use, belongs to a branch that it could go back to."""
    needed_by = [
        other.name
        for other in snapshots
        if other.name != snapshot.name and any(same(disk.source, overlay) for disk in other.defined)
    ]
    if needed_by or snapshot.reverted:
        others = f"other snapshots ({', '.join(needed_by)}) build on it" if needed_by else "the domain went back to it"
        raise DiskError(
            f"{state.name}: the overlay of its snapshot {snapshot.name}, {overlay}, is not one of the images that "
            f"the domain runs on now, and {others}: decide which of the two to keep: delete it with virsh "
            "snapshot-delete",
            snapshots=needed_by,
        )


def _depth(snapshot: DomainSnapshot, snapshots: t.Sequence[DomainSnapshot]) -> int:
    """How many snapshots are above this one in libvirt's tree: dates are whole seconds."""
    depth, above = 0, find(snapshot.parent, snapshots)
    while above is not None and depth <= len(snapshots):
        depth, above = depth + 1, find(above.parent, snapshots)
    return depth
