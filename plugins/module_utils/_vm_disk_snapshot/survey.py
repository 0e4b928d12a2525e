# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is there of a domain's snapshots and the images of its disks; looked at, and nothing else."""

from __future__ import annotations

import os
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._domain import domain as _domain
from ansible_collections.kvmops.disk.plugins.module_utils._files.names import Names, looked_up
from ansible_collections.kvmops.disk.plugins.module_utils._image import image as _image
from ansible_collections.kvmops.disk.plugins.module_utils._image.trust import Trust
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot.decision_found import (
    Chains,
    Observed,
    Unvouched,
    orphans_of,
)
from ansible_collections.kvmops.disk.plugins.module_utils._xml import snapshots as _snapshots
from ansible_collections.kvmops.disk.plugins.module_utils._xml.disks import ChainLink, DiskElement

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainDisk, DomainState
    from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.domain import Domain
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg
    from ansible_collections.kvmops.disk.plugins.module_utils._xml.snapshots import DomainSnapshot


@dataclass(frozen=True)
class Survey:
    """Looks at *domain* and its images; *trusted*: at all that the images name."""

    domain: Domain
    qemu_img: QemuImg
    trusted: bool

    def look(self, state: DomainState) -> Observed:
        """The snapshots of the domain, which is in *state*, and the images of its disks."""
        xmls, current = self.domain.snapshot_xmls()
        snapshots = tuple(_snapshots.snapshot(xml, current) for xml in xmls)
        chains, unvouched = self._chains(state, snapshots)
        named = {disk.target: disk.defined is not None and disk.defined.chain is not None for disk in state.disks}
        names = _names(state, snapshots, chains)
        orphans = tuple(one for one in orphans_of(snapshots, chains, names) if os.path.isfile(one.path))
        return Observed(state, snapshots, chains, unvouched, named, names, orphans)

    def is_at(self, observed: Observed, snapshot: DomainSnapshot) -> bool:
        """Whether the domain is off, and on empty overlays over the images that the snapshot has kept."""
        if observed.state.active or not snapshot.is_external:
            return False
        for disk in snapshot.external:
            image, chain = snapshot.image(disk.target), observed.chains.get(disk.target, ())
            if image is None or len(chain) < 2 or not observed.names.same(chain[1].path, image.source):
                return False
            if self.qemu_img.held(str(chain[0].path), str(chain[0].format)):
                return False
        return True

    def jobs(self, state: DomainState) -> list[str]:
        """The targets on which a block job runs."""
        return _domain.block_jobs(self.domain, state) if state.active else []

    def has_agent(self, state: DomainState) -> bool:
        """Whether an agent in the running guest answers."""
        return state.active and _snapshots.has_agent(self.domain.xml(inactive=False))

    def is_there(self, path: str) -> bool:
        """Whether an image is there."""
        return os.path.isfile(path)

    def images(self, chain: t.Iterable[ChainLink]) -> tuple[_image.Image, ...]:
        """The facts of those images of a disk that are there."""
        return tuple(
            _image.inspect(self.qemu_img, str(link.path), link.format)
            for link in chain
            if link.path and os.path.isfile(link.path)
        )

    def _chains(
        self, state: DomainState, snapshots: t.Sequence[DomainSnapshot]
    ) -> tuple[dict[str, tuple[ChainLink, ...]], dict[str, Unvouched]]:
        """The images of each disk as libvirt has them, or, offline, as they say themselves, until a reference that
        nobody vouches for; the second part has these, by target."""
        chains: dict[str, tuple[ChainLink, ...]] = {}
        unvouched: dict[str, Unvouched] = {}
        for disk in state.disks:
            if disk.element.device != "disk" or disk.path is None or not os.path.isfile(disk.path):
                continue
            if disk.live is not None:
                chains[disk.target] = (ChainLink(disk.path, disk.format, disk.live.index), *(disk.live.chain or ()))
                continue
            links, stop = self._links(disk, snapshots)
            chains[disk.target] = links
            if stop is not None:
                unvouched[disk.target] = stop
        return chains, unvouched

    def _links(
        self, disk: DomainDisk, snapshots: t.Sequence[DomainSnapshot]
    ) -> tuple[tuple[ChainLink, ...], Unvouched | None]:
        """The images of a disk that is off, as their headers name them, until one that nobody vouches for."""
        known = {os.path.realpath(path) for path in _named(disk, snapshots)}
        top = self._believed(t.cast(str, disk.path), disk.format)
        links: list[ChainLink] = []
        for image in _image.descent(top, self._believed):
            links.append(ChainLink(image.path, image.format))
            points = None if self.trusted else _points_elsewhere(image, known)
            if points is not None:
                return tuple(links), Unvouched(image.path, points)
        return tuple(links), None

    def _believed(self, path: str, image_format: str | None) -> _image.Image:
        image = _image.inspect(self.qemu_img, path, image_format)
        Trust(self.trusted).require_believable(image)
        return image


def _named(disk: DomainDisk, snapshots: t.Sequence[DomainSnapshot]) -> t.Iterator[str]:
    """The files that the definition, or a snapshot, names for a disk."""
    elements = [disk.defined, *(snapshot.image(disk.target) for snapshot in snapshots)]
    for element in elements:
        yield from _files_of(element)
    for snapshot in snapshots:
        yield from (one.overlay for one in snapshot.external if one.target == disk.target and one.overlay)


def _files_of(element: DiskElement | None) -> t.Iterator[str]:
    """The files that a disk of a definition names: its image and the backing files of that."""
    if element is not None:
        yield from (name for name in (element.source, *(link.path for link in element.chain or ())) if name)


def _names(state: DomainState, snapshots: t.Sequence[DomainSnapshot], chains: Chains) -> Names:
    """All names of images that the domain, its record and its snapshots tell of, and what they lead to."""
    elements = [one for disk in state.disks for one in (disk.defined, disk.live)]
    elements += [one for snapshot in snapshots for one in snapshot.defined]
    record = state.record.disks if state.record else ()
    return looked_up(
        [
            *(disk.path for disk in state.disks),
            *(link.path for chain in chains.values() for link in chain),
            *(name for element in elements for name in _files_of(element)),
            *(one.overlay for snapshot in snapshots for one in snapshot.external),
            *(name for disk in record for name in (disk.source, disk.dest, disk.base)),
        ]
    )


def _points_elsewhere(image: _image.Image, known: t.Container[str]) -> str | None:
    """What an image points to that is not *known*, in words. What is no file on this host is not followed anyway."""
    if image.data_file is not None and os.path.realpath(image.data_file) not in known:
        return f"keeps its data in {image.data_file}"
    below = image.backing_file
    if below is not None and os.path.isabs(below) and os.path.realpath(below) not in known:
        return f"has the backing file {below}"
    return None
