# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The decision how external snapshots of a domain are removed: which are too many, and which overlay is merged into
which image. Pure.

To remove a snapshot is to merge its overlays into the images below them, whose content at the snapshot is gone then.
"""

from __future__ import annotations

import typing as t
from functools import partial

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import replace
from ansible_collections.kvmops.disk.plugins.module_utils._domain import ready as _ready
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Step
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot.decision_change import (
    Merge,
    Outcome,
    Removal,
    record,
)
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot.decision_found import (
    Chains,
    Observed,
    find,
    image_of,
)
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disk_changes as _disk_changes
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disks as _disks
from ansible_collections.kvmops.disk.plugins.module_utils._xml import snapshots as _snapshots
from ansible_collections.kvmops.disk.plugins.module_utils._xml.disks import ChainLink

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainState
    from ansible_collections.kvmops.disk.plugins.module_utils._files.names import Names
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot.wish import VmSnapshotWish
    from ansible_collections.kvmops.disk.plugins.module_utils._xml.records import Record, RecordedDisk
    from ansible_collections.kvmops.disk.plugins.module_utils._xml.snapshots import DomainSnapshot


class Work(t.Protocol):
    """What is done to the world when a snapshot is removed."""

    def begin(self, removal: Removal) -> None: ...

    def restore(self) -> None: ...

    def merge(self, item: Merge) -> None: ...

    def end(self, item: Merge) -> None: ...

    def name(self, removal: Removal) -> None: ...

    def finish(self, removal: Removal) -> None: ...


def doomed(wish: VmSnapshotWish, snapshots: t.Sequence[DomainSnapshot]) -> list[str]:
    """The names of the snapshots that go: the one that the task names, then those which are too many."""
    named = [str(wish.name)] if wish.state == "absent" and find(wish.name, snapshots) is not None else []
    return [*named, *(one.name for one in surplus(wish, snapshots, named))]


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


def removals(observed: Observed, names: t.Iterable[str], recorded: t.Mapping[str, RecordedDisk]) -> tuple[Removal, ...]:
    """How each of the snapshots *names* goes, one after the other.

    *recorded*: disks of the merge that a dead run began, by overlay. Raises DiskError where one cannot be merged back
    safely.
    """
    found: list[Removal] = []
    for name in names:
        snapshot = find(name, observed.snapshots)
        if snapshot is not None:
            removal = _removal(observed, snapshot, recorded)
            observed = removed(observed, [removal])
            found.append(removal)
    return tuple(found)


def removed(observed: Observed, gone: t.Sequence[Removal]) -> Observed:
    """The snapshots that stay, and the images of the disks, once *gone* are gone."""
    return replace(observed, chains=_without(observed.chains, gone), snapshots=_staying(observed, gone))


def merge_record(state: DomainState, run: str | None, removal: Removal) -> Record:
    """What the domain's metadata is to say of overlays that are being merged; those that a dead run has merged stay in
    it."""
    return record(state, run, removal.snapshot.name, "merge", removal.recorded)


def steps(state: DomainState, removal: Removal, work: Work, *, resumed: bool) -> tuple[Step, ...]:
    """The steps, in order: record, merge each overlay, name what is left, remove the overlays and forget.

    *resumed*: a dead run had begun with it. Nothing is undone but what goes on below the guest: the image that the
    snapshot kept has changed.
    """
    found = [Step("", lambda: work.begin(removal), work.restore)]
    for item in removal.merges:
        how = "finish merging" if resumed else "merge"
        where = f", below {state.name} while it runs" if state.active else f" of {state.name}"
        found.append(Step(f"{how} {item}{where}", partial(work.merge, item), partial(work.end, item)))
    found.append(Step(_farewell(removal, state.name), lambda: work.name(removal), commits=True))
    found.append(Step("", lambda: work.finish(removal)))
    return tuple(found)


def renamed(xml: str, removal: Removal, names: Names) -> str:
    """The XML of another snapshot, which names what the overlays of *removal* are in now, and these no more."""
    for disk in removal.recorded:
        image = removal.snapshot.image(disk.target)
        explicit = image is not None and image.chain is not None
        xml = _snapshots.with_domains(xml, _renaming(disk, removal.chains.get(disk.target, ()), explicit, names))
    return xml


def _without(chains: Chains, gone: t.Iterable[Removal]) -> dict[str, tuple[ChainLink, ...]]:
    """The images of each disk once the overlays of *gone* are merged."""
    merged = {(merge.target, merge.overlay.path) for removal in gone for merge in removal.merges}
    return {
        target: tuple(link for link in chain if (target, link.path) not in merged) for target, chain in chains.items()
    }


def _staying(observed: Observed, gone: t.Sequence[Removal]) -> tuple[DomainSnapshot, ...]:
    """The snapshots that stay, as libvirt knows them once *gone* are gone."""
    names = {removal.snapshot.name for removal in gone}
    kept = []
    for snapshot in observed.snapshots:
        if snapshot.name in names:
            continue
        parent = snapshot.parent
        while parent in names:
            above = find(parent, observed.snapshots)
            parent = above.parent if above else None
        xml = snapshot.xml
        for removal in gone:
            xml = renamed(xml, removal, observed.names)
        known = _snapshots.snapshot(xml)
        kept.append(replace(known, parent=parent, current=snapshot.current))
    return tuple(kept)


def _renaming(
    merged: RecordedDisk, images: t.Sequence[ChainLink], explicit: bool, names: Names
) -> t.Callable[[str], str]:
    """What lets the definition of a domain name the image that the overlay *merged* is in now.

    *images* are those of the disk; *explicit*: the definition named the backing files before there was the overlay.
    """

    def rename(domain: str) -> str:
        found = next((disk for disk in _disks.disks(domain) if disk.target == merged.target), None)
        if found is None:
            return domain
        if not names.same(found.source, merged.source):
            links = (link.path for link in found.chain or () if names.same(link.path, merged.source))
            name = next(links, None)
            return _disk_changes.without_link(domain, merged.target, name) if name else domain
        number = next((number for number, link in enumerate(images) if names.same(link.path, merged.dest)), None)
        below = images[number + 1 :] if number is not None and explicit else None
        return _disk_changes.with_image(domain, merged.target, ChainLink(merged.dest, merged.format), below)

    return rename


def _farewell(removal: Removal, name: str) -> str:
    gone = [disk.source for disk in removal.recorded]
    text = f"remove the snapshot {removal.snapshot.name} of {name}" + (f" with {', '.join(gone)}" if gone else "")
    left = ", ".join(removal.orphans)
    return text + (f"; {left}, which the domain does not use, is left alone" if left else "")


def _removal(observed: Observed, snapshot: DomainSnapshot, recorded: t.Mapping[str, RecordedDisk]) -> Removal:
    state, names = observed.state, observed.names
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
        chain = observed.chains.get(one.target)
        if chain is None:
            raise DiskError(
                f"{state.name}: its snapshot {snapshot.name} is of {one.target}, which the domain no longer has: "
                "attach the disk again, or remove libvirt's record with virsh snapshot-delete --metadata"
            )
        disk = state.disk(one.target)
        if disk is not None:
            _ready.require_plugged_in(state, disk)
        number = next((number for number, link in enumerate(chain) if names.same(link.path, one.overlay)), None)
        if number is None:
            known = recorded.get(str(one.overlay))
            if known is None:
                _require_unneeded(observed, snapshot, str(one.overlay))
                orphans.append(str(one.overlay))
            else:
                merged.append(known)
                top = names.same(chain[0].path, known.dest)
                settled.append(Outcome(one.target, chain, _is_explicit(observed, snapshot, one.target, top)))
            continue
        merges.append(_merge(observed, snapshot, one.target, chain, number))
    return Removal(snapshot, tuple(merges), tuple(merged), tuple(orphans), tuple(settled))


def _is_explicit(observed: Observed, snapshot: DomainSnapshot, target: str, top: bool) -> bool:
    """Whether the definition is to name the backing files of a disk: as it did before the snapshot, where the image
    that the disk had then is the *top* one again, else as it does now."""
    if not top:
        return observed.named.get(target, False)
    image = snapshot.image(target)
    return image is not None and image.chain is not None


def _merge(
    observed: Observed, snapshot: DomainSnapshot, target: str, chain: tuple[ChainLink, ...], number: int
) -> Merge:
    """How the image of that *number* in *chain*, the overlay of *snapshot*, goes. Raises DiskError where the chain is
    not what libvirt knows."""
    image = snapshot.image(target)
    below = chain[number + 1] if number + 1 < len(chain) else None
    known = image is None or image.type == "volume"  # of a volume, the path is not in libvirt's record
    if below is None or not (known or (image is not None and observed.names.same(image.source, below.path))):
        raise DiskError(
            f"{observed.state.name}: {target}: below {chain[number].path}, the overlay of the snapshot "
            f"{snapshot.name}, is {below.path if below else 'nothing'}, and libvirt knows it over "
            f"{image_of(snapshot, target)}: the chain was changed: bring the two together first",
        )
    explicit = _is_explicit(observed, snapshot, target, number == 0)
    above = chain[number - 1] if number else None
    return Merge(target, chain[number], below, above, (*chain[:number], *chain[number + 1 :]), explicit)


def _require_unneeded(observed: Observed, snapshot: DomainSnapshot, overlay: str) -> None:
    """Raises DiskError where *overlay*, which the domain does not use, belongs to a branch that it could go back to."""
    needed_by = [
        other.name
        for other in observed.snapshots
        if other.name != snapshot.name and any(observed.names.same(disk.source, overlay) for disk in other.defined)
    ]
    if needed_by or snapshot.reverted:
        others = f"other snapshots ({', '.join(needed_by)}) build on it" if needed_by else "the domain went back to it"
        raise DiskError(
            f"{observed.state.name}: the overlay of its snapshot {snapshot.name}, {overlay}, is not one of the "
            f"images that the domain runs on now, and {others}: decide which of the two to keep: delete it with "
            "virsh snapshot-delete",
            snapshots=needed_by,
        )


def _depth(snapshot: DomainSnapshot, snapshots: t.Sequence[DomainSnapshot]) -> int:
    """How many snapshots are above this one in libvirt's tree: dates are whole seconds."""
    depth, above = 0, find(snapshot.parent, snapshots)
    while above is not None and depth <= len(snapshots):
        depth, above = depth + 1, find(above.parent, snapshots)
    return depth
