# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What has to be true of the world before the images of a domain's snapshots change: chains, users, dependents,
space."""

from __future__ import annotations

import os
import typing as t
from dataclasses import dataclass, replace

from ansible_collections.kvmops.disk.plugins.module_utils._capacity import space as _space
from ansible_collections.kvmops.disk.plugins.module_utils._content import merge as _merge
from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainDisk, DomainState
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._files import staging as _staging
from ansible_collections.kvmops.disk.plugins.module_utils._formats import bitmaps as _bitmaps
from ansible_collections.kvmops.disk.plugins.module_utils._image import image as _image
from ansible_collections.kvmops.disk.plugins.module_utils._image.trust import Trust
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.connection import Hypervisor
from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg
from ansible_collections.kvmops.disk.plugins.module_utils._usage import dependents as _dependents
from ansible_collections.kvmops.disk.plugins.module_utils._usage import users as _users
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot import decision as _decision
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot.decision import Taking
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot.decision_merge import Merge, Removal
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot.leftovers import Left
from ansible_collections.kvmops.disk.plugins.module_utils._xml.disks import ChainLink
from ansible_collections.kvmops.disk.plugins.module_utils._xml.snapshots import DomainSnapshot

#: What the first clusters of an overlay take.
_OVERLAY_BYTES = 1 << 20


@dataclass(frozen=True)
class Unvouched:
    """The first reference in a chain that neither the definition nor a snapshot names: *image* *points* there."""

    image: str
    points: str


@dataclass(frozen=True)
class VmSnapshotSurvey:
    """One look at everything around the images of *state* and its *snapshots*."""

    hypervisor: Hypervisor
    qemu_img: QemuImg
    state: DomainState
    snapshots: tuple[DomainSnapshot, ...]
    trusted: bool
    search_paths: tuple[str, ...]

    def chains(self) -> tuple[dict[str, tuple[ChainLink, ...]], dict[str, Unvouched]]:
        """The images of each disk, the one that counts first, as libvirt has them, or, off line, as they say
        themselves.

        Off line, a reference that nobody vouches for ends the chain; the second part has these, by target.
        """
        chains: dict[str, tuple[ChainLink, ...]] = {}
        unvouched: dict[str, Unvouched] = {}
        for disk in self.state.disks:
            if disk.element.device != "disk" or disk.path is None or not os.path.isfile(disk.path):
                continue
            if disk.live is not None:
                chains[disk.target] = (ChainLink(disk.path, disk.format, disk.live.index), *(disk.live.chain or ()))
                continue
            links, stop = self._links(disk)
            chains[disk.target] = links
            if stop is not None:
                unvouched[disk.target] = stop
        return chains, unvouched

    def require_takeable(self, items: t.Sequence[Taking], ours: t.Container[str]) -> None:
        """Raises DiskError where an overlay cannot be made; *ours* are files of a dead run, which are removed first."""
        for item in items:
            _staging.require_directory(item.overlay, "snapshot")
            if os.path.lexists(item.overlay) and item.overlay not in ours:
                raise DiskError(
                    f"{item.overlay}: exists already: it is left alone: remove it, or choose another name for the "
                    "snapshot",
                    path=item.overlay,
                )
            _image.require_regular_file(t.cast(str, item.below.path))
        _space.require_space([(os.path.realpath(item.overlay), _OVERLAY_BYTES) for item in items])

    def require_mergeable(
        self,
        removals: t.Sequence[Removal],
        chains: _decision.Chains,
        unvouched: t.Mapping[str, Unvouched],
        left: Left,
        going: t.Collection[str],
    ) -> None:
        """Raises DiskError where an image would be written, or removed, that others use, or that is not what it is said
        to be (HAZARDS A12). *chains*: the images that the disks have. *going*: overlays that will be gone before;
        *left*: what a dead run left, as of a merge that goes on QEMU lets nobody look at what it has done."""
        merges = [merge for removal in removals for merge in removal.merges]
        if not merges:
            return
        self._require_known(merges, unvouched)
        paths = sorted({path for merge in merges for path in merge.paths})
        users = [user for user in _users.domain_users(self.hypervisor) if user.uuid != self.state.uuid]
        directories = _dependents.directories_to_search(paths, self.search_paths, self.hypervisor)
        readers = _dependents.Dependents(directories, _users.domain_users(self.hypervisor))
        for merge in merges:
            own = [*going, *(link.path for link in chains[merge.target])]
            for path in (t.cast(str, merge.overlay.path), t.cast(str, merge.into.path)):
                self._require_own(merge, path)
                others = [one for one in readers.of(path) if not any(_decision.same(one, name) for name in own)]
                to_do = f"merge {merge.overlay.path} into {merge.into.path}"
                _dependents.require_none(path, others, to_do, "keep the snapshot")
                _users.require_unused(path, users, to_do, locks=not self.state.active)
            self._require_whole(merge)
        self._require_space([merge for merge in merges if merge.target not in left.working])

    def require_no_dependents(self, snapshot: DomainSnapshot, chains: _decision.Chains) -> None:
        """Raises HasDependents where libvirt removes an overlay, on its way back, that others read, or ImageInUse."""
        users = _users.domain_users(self.hypervisor)
        others = [user for user in users if user.uuid != self.state.uuid]
        paths = [str(link.path) for chain in chains.values() for link in chain[:1]]
        paths += [str(disk.overlay) for disk in snapshot.external]
        readers = _dependents.Dependents(
            _dependents.directories_to_search(paths, self.search_paths, self.hypervisor), users
        )
        known = {str(disk.overlay) for one in self.snapshots for disk in one.external}
        for path in sorted(set(paths)):
            to_do = f"revert to the snapshot {snapshot.name}"
            found = [one for one in readers.of(path) if not any(_decision.same(one, name) for name in known)]
            _dependents.require_none(path, found, to_do, "take a new snapshot instead")
            _users.require_unused(path, others, to_do, locks=False)

    def is_at(self, snapshot: DomainSnapshot, chains: _decision.Chains) -> bool:
        """Whether the domain, which is off, is on empty overlays over the images that the snapshot has kept."""
        for disk in snapshot.external:
            image, chain = snapshot.image(disk.target), chains.get(disk.target, ())
            if image is None or len(chain) < 2 or not _decision.same(chain[1].path, image.source):
                return False
            if self.qemu_img.held(str(chain[0].path), str(chain[0].format)):
                return False
        return True

    def images(self, chain: t.Iterable[ChainLink]) -> tuple[_image.Image, ...]:
        """The facts of those images of a disk that are there."""
        return tuple(
            _image.inspect(self.qemu_img, str(link.path), link.format)
            for link in chain
            if link.path and os.path.isfile(link.path)
        )

    def _links(self, disk: DomainDisk) -> tuple[tuple[ChainLink, ...], Unvouched | None]:
        """The images of a disk that is off, as their headers name them, until one that nobody vouches for."""
        known = {os.path.realpath(path) for path in self._named(disk)}
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

    def _named(self, disk: DomainDisk) -> t.Iterator[str]:
        """The files that the definition, or a snapshot, names for a disk."""
        elements = [disk.defined, *(snapshot.image(disk.target) for snapshot in self.snapshots)]
        for element in elements:
            names = (element.source, *(link.path for link in element.chain or ())) if element is not None else ()
            yield from (name for name in names if name)
        for snapshot in self.snapshots:
            yield from (one.overlay for one in snapshot.external if one.target == disk.target and one.overlay)

    def _require_known(self, merges: t.Iterable[Merge], unvouched: t.Mapping[str, Unvouched]) -> None:
        for merge in merges:
            found = unvouched.get(merge.target)
            if found is not None:
                raise UnsafeImage(
                    f"{found.image}: {found.points}, which neither the definition of {self.state.name} nor a "
                    f"snapshot names for {merge.target}: name it as backingStore in the definition, or set "
                    "trusted=true if you know that it belongs there",
                    path=found.image,
                )

    def _require_own(self, merge: Merge, path: str) -> None:
        """Raises DiskError where another disk of the domain has the image, too."""
        for disk in self.state.disks:
            if disk.target != merge.target and _decision.same(disk.path, path):
                raise DiskError(f"{path}: is {disk.target} of {self.state.name}, too: not merged", path=path)

    def _require_whole(self, merge: Merge) -> None:
        """Raises DiskError where a merge would lose what an image holds beside the disk, or cannot be."""
        overlay, into = self._images_of(merge)
        for image in (overlay, into):
            _image.require_regular_file(image.path)
        _merge.require_readable(replace(image, data_file=None) for image in (overlay, into))  # that is vouched for
        _merge.require_mergeable(_merge.Observed((overlay, into), ()))
        _merge.require_no_snapshots(overlay, "delete them first")
        if not self.state.active:
            way_out = "remove them, or merge it while the domain runs, which keeps them"
            _merge.require_no_bitmaps(overlay, _bitmaps.bitmaps_of(overlay.path, overlay.format), way_out)

    def _require_space(self, merges: t.Iterable[Merge]) -> None:
        """Raises NotEnoughSpace; an image grows by what the overlay has and it has not."""
        demands: dict[str, int] = {}
        for merge in merges:
            overlay, into = self._images_of(merge)
            held = self.qemu_img.held(overlay.path, overlay.format)
            in_base = self.qemu_img.held(into.path, into.format, data=True)
            needed = _merge.bytes_needed(into, overlay.virtual_size, held, in_base)
            for bitmap in _bitmaps.bitmaps_of(overlay.path, overlay.format):
                needed += bitmap.bytes_needed(overlay.virtual_size, into.cluster_size or 1)
            file = os.path.realpath(into.path)
            demands[file] = demands.get(file, 0) + needed
        _space.require_space(list(demands.items()))

    def _images_of(self, merge: Merge) -> tuple[_image.Image, _image.Image]:
        overlay, into = (
            _image.inspect(self.qemu_img, str(link.path), link.format) for link in (merge.overlay, merge.into)
        )
        return overlay, into


def _points_elsewhere(image: _image.Image, known: t.Container[str]) -> str | None:
    """What an image points to that is not *known*, in words. What is no file on this host is not followed anyway."""
    if image.data_file is not None and os.path.realpath(image.data_file) not in known:
        return f"keeps its data in {image.data_file}"
    below = image.backing_file
    if below is not None and os.path.isabs(below) and os.path.realpath(below) not in known:
        return f"has the backing file {below}"
    return None
