# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is found of a domain, its snapshots, the images of its disks and what a dead run left of them: facts for
decisions. Pure."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass, field
from ansible_collections.kvmops.disk.plugins.module_utils._files.names import Names
from ansible_collections.kvmops.disk.plugins.module_utils._xml.disks import ChainLink

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainState
    from ansible_collections.kvmops.disk.plugins.module_utils._xml.records import Record, RecordedDisk
    from ansible_collections.kvmops.disk.plugins.module_utils._xml.snapshots import DomainSnapshot

#: The format of an overlay.
OVERLAY = "qcow2"

#: The images of each disk, the one that counts first.
Chains = t.Mapping[str, tuple[ChainLink, ...]]


@dataclass(frozen=True)
class Unvouched:
    """The first reference in a chain that neither the definition nor a snapshot names: *image* *points* there."""

    image: str
    points: str


@dataclass(frozen=True)
class Orphan:
    """An overlay of a snapshot, for the disk *target*, on which the domain does not run any more: it went back by other
    means, to an internal snapshot for one. It reads the image below it, which so cannot be written."""

    path: str
    snapshot: str
    target: str


@dataclass(frozen=True)
class Observed:
    """A domain with its snapshots and the images of its disks, as they are, or as they are going to be.

    *unvouched*: where, offline, the chain of a disk ends before a reference that nobody vouches for, by target.
    *named*: of which disks the definition names the backing files. *names*: which names of images mean one file.
    *orphans*: overlays that are there and no part of a chain.
    """

    state: DomainState
    snapshots: tuple[DomainSnapshot, ...]
    chains: Chains
    unvouched: t.Mapping[str, Unvouched] = field(default_factory=dict)
    named: t.Mapping[str, bool] = field(default_factory=dict)
    names: Names = field(default_factory=Names)
    orphans: tuple[Orphan, ...] = ()


@dataclass(frozen=True)
class Left:
    """What a dead run left of a domain's snapshots.

    *unfinished*: the snapshot whose overlays it was merging. *unused*: overlays that nobody uses: made for a snapshot
    that was never taken, or merged. *staging*: overlays that are half made. *working*: targets whose merge goes on
    without it. *doubtful*: merged overlays whose QEMU is gone, and may have taken along what it had merged. *owed*: the
    domain ran before it went back, and is off. *noted*: images beside which its record stands. *blank*:
    those beside which stands one of a run that died before it wrote anything down: it goes along with the others.
    """

    record: Record | None = None
    unfinished: DomainSnapshot | None = None
    unused: tuple[str, ...] = ()
    staging: tuple[str, ...] = ()
    working: frozenset[str] = frozenset()
    doubtful: tuple[RecordedDisk, ...] = ()
    owed: bool = False
    noted: tuple[str, ...] = ()
    blank: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.record is not None or bool(self.staging or self.noted)

    @property
    def paths(self) -> set[str]:
        disks = self.record.disks if self.record else ()
        return {path for disk in disks for path in (disk.source, disk.dest) if path} | {
            *self.staging,
            *self.noted,
            *self.blank,
        }

    @property
    def recorded(self) -> dict[str, RecordedDisk]:
        """The overlays of the merge that is to be finished."""
        return {disk.source: disk for disk in self.record.disks} if self.record and self.unfinished else {}


def find(name: str | None, snapshots: t.Iterable[DomainSnapshot]) -> DomainSnapshot | None:
    """The snapshot of that name."""
    return next((snapshot for snapshot in snapshots if snapshot.name == name), None)


def orphans_of(snapshots: t.Iterable[DomainSnapshot], chains: Chains, names: Names) -> tuple[Orphan, ...]:
    """The overlays of external *snapshots* that are no part of any of *chains*."""
    used = [link.path for chain in chains.values() for link in chain]
    return tuple(
        Orphan(disk.overlay, snapshot.name, disk.target)
        for snapshot in snapshots
        for disk in snapshot.external
        if disk.overlay is not None and not any(names.same(disk.overlay, path) for path in used)
    )


def image_of(snapshot: DomainSnapshot, target: str) -> str:
    """The image that a disk had at the snapshot, in words."""
    image = snapshot.image(target)
    return str(image.source or image.volume) if image else "nothing"
