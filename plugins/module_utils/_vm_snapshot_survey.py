# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What has to be true of the world before the images of a domain's snapshots change: chains, users, dependents,
space."""

from __future__ import annotations

import os
import typing as t
from dataclasses import dataclass

from ansible_collections.kvmops.disk.plugins.module_utils import (
    _capacity,
    _dependents,
    _image,
    _ranges,
    _staging,
    _usage,
    _vm_snapshot,
)
from ansible_collections.kvmops.disk.plugins.module_utils._domain import DomainDisk, DomainState
from ansible_collections.kvmops.disk.plugins.module_utils._domain_xml import ChainLink
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt import Hypervisor
from ansible_collections.kvmops.disk.plugins.module_utils._qemu_img import QemuImg
from ansible_collections.kvmops.disk.plugins.module_utils._snapshot_xml import DomainSnapshot
from ansible_collections.kvmops.disk.plugins.module_utils._trust import Trust
from ansible_collections.kvmops.disk.plugins.module_utils._vm_snapshot import Taking
from ansible_collections.kvmops.disk.plugins.module_utils._vm_snapshot_left import Left
from ansible_collections.kvmops.disk.plugins.module_utils._vm_snapshot_removal import Merge, Removal

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
        _capacity.require_space([(os.path.realpath(item.overlay), _OVERLAY_BYTES) for item in items])

    def require_mergeable(
        self,
        removals: t.Sequence[Removal],
        chains: _vm_snapshot.Chains,
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
        users = [user for user in _usage.domain_users(self.hypervisor) if user.uuid != self.state.uuid]
        directories = _dependents.directories_to_search(paths, self.search_paths, self.hypervisor)
        readers = _dependents.Dependents(directories, _usage.domain_users(self.hypervisor))
        for merge in merges:
            own = [*going, *(link.path for link in chains[merge.target])]
            for path in (t.cast(str, merge.overlay.path), t.cast(str, merge.into.path)):
                self._require_own(merge, path)
                others = [one for one in readers.of(path) if not any(_vm_snapshot.same(one, name) for name in own)]
                to_do = f"merge {merge.overlay.path} into {merge.into.path}"
                _dependents.require_none(path, others, to_do, "keep the snapshot")
                _usage.require_unused(path, users, to_do, locks=not self.state.active)
            self._require_whole(merge)
            self._require_no_bitmaps(merge)
        self._require_space([merge for merge in merges if merge.target not in left.working])

    def require_no_dependents(self, snapshot: DomainSnapshot) -> None:
        """Raises HasDependents where libvirt removes an overlay, on its way back, that others read, or ImageInUse."""
        users = _usage.domain_users(self.hypervisor)
        others = [user for user in users if user.uuid != self.state.uuid]
        paths = [str(link.path) for chain in self.chains()[0].values() for link in chain[:1]]
        paths += [str(disk.overlay) for disk in snapshot.external]
        readers = _dependents.Dependents(
            _dependents.directories_to_search(paths, self.search_paths, self.hypervisor), users
        )
        known = {str(disk.overlay) for one in self.snapshots for disk in one.external}
        for path in sorted(set(paths)):
            to_do = f"go back to the snapshot {snapshot.name}"
            found = [one for one in readers.of(path) if not any(_vm_snapshot.same(one, name) for name in known)]
            _dependents.require_none(path, found, to_do, "take a new snapshot instead")
            _usage.require_unused(path, others, to_do, locks=False)

    def is_at(self, snapshot: DomainSnapshot) -> bool:
        """Whether the domain, which is off, is on empty overlays over the images that the snapshot has kept."""
        chains, _unvouched = self.chains()
        for disk in snapshot.external:
            image, chain = snapshot.image(disk.target), chains.get(disk.target, ())
            if image is None or len(chain) < 2 or not _vm_snapshot.same(chain[1].path, image.source):
                return False
            if self.qemu_img.allocated(str(chain[0].path), str(chain[0].format), 1):
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
        path, image_format = t.cast(str, disk.path), disk.format
        image = self._believed(path, image_format)
        links = [ChainLink(path, image_format)]
        for below, below_format in _image.Links().of(path, image_format):
            if not self.trusted and os.path.realpath(below) not in known:
                return tuple(links), Unvouched(image.path, f"has the backing file {below}")
            if image.data_file is not None and not self.trusted:
                return tuple(links), Unvouched(image.path, f"keeps its data in {image.data_file}")
            image = self._believed(below, below_format)
            links.append(ChainLink(below, image.format))
        _image.chain(self.qemu_img, _image.inspect(self.qemu_img, path, image_format))  # whether it runs in a circle
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
                    f"{found.image}: {found.points}, which neither the definition of {self.state.name} nor a snapshot "
                    "names "
                    f"for {merge.target}: name it as backingStore in the definition, or set trusted=true where you "
                    "know "
                    "that it belongs there",
                    path=found.image,
                )

    def _require_own(self, merge: Merge, path: str) -> None:
        """Raises DiskError where another disk of the domain has the image, too."""
        for disk in self.state.disks:
            if disk.target != merge.target and _vm_snapshot.same(disk.path, path):
                raise DiskError(f"{path}: is {disk.target} of {self.state.name}, too: not merged", path=path)

    def _require_whole(self, merge: Merge) -> None:
        """Raises DiskError where a merge would lose what an image holds beside the disk, or cannot be."""
        overlay = _image.inspect(self.qemu_img, str(merge.overlay.path), merge.overlay.format)
        into = _image.inspect(self.qemu_img, str(merge.into.path), merge.into.format)
        for image in (overlay, into):
            if image.corrupt:
                raise UnsafeImage(f"{image.path}: is marked corrupt: check and repair it first", path=image.path)
            if image.encrypted:
                raise DiskError(f"{image.path}: is encrypted: not merged", path=image.path)
            _image.require_regular_file(image.path)
        if overlay.snapshots:
            names = [snapshot.name for snapshot in overlay.snapshots]
            raise DiskError(
                f"{overlay.path}: holds {len(names)} internal snapshot(s) ({', '.join(names)}), which would be gone "
                "with "
                "it: delete them first",
                path=overlay.path,
                snapshots=names,
            )

    def _require_no_bitmaps(self, merge: Merge) -> None:
        """Raises DiskError where qemu-img would leave the dirty bitmaps of an overlay behind; libvirt does not."""
        path = str(merge.overlay.path)
        specific = self.qemu_img.info(path, str(merge.overlay.format)).get("format-specific", {}).get("data", {})
        bitmaps = [bitmap["name"] for bitmap in specific.get("bitmaps", ())]
        if bitmaps and not self.state.active:
            raise DiskError(
                f"{path}: holds {len(bitmaps)} dirty bitmap(s) ({', '.join(bitmaps)}), which would be gone with it: "
                "remove "
                "them, or merge it while the domain runs",
                path=path,
                bitmaps=bitmaps,
            )

    def _require_space(self, merges: t.Iterable[Merge]) -> None:
        """Raises NotEnoughSpace; an image grows by what the overlay has and it has not."""
        demands: dict[str, int] = {}
        for merge in merges:
            overlay, into = merge.overlay, merge.into
            held = self.qemu_img.allocated(str(overlay.path), str(overlay.format), 1, data=True)
            below = self.qemu_img.allocated(str(into.path), str(into.format), 1, data=True)
            file = os.path.realpath(str(into.path))
            demands[file] = demands.get(file, 0) + _ranges.length(held) - _ranges.overlap(held, below)
        _capacity.require_space(list(demands.items()))
