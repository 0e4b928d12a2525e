# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What has to be true of the world before the images of a domain's snapshots change: users, dependents, space."""

from __future__ import annotations

import os
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._capacity import space as _space
from ansible_collections.kvmops.disk.plugins.module_utils._content import merge as _merge
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass, replace
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._files import base_note as _base_note
from ansible_collections.kvmops.disk.plugins.module_utils._files import names as _names
from ansible_collections.kvmops.disk.plugins.module_utils._files import staging as _staging
from ansible_collections.kvmops.disk.plugins.module_utils._formats import bitmaps as _bitmaps
from ansible_collections.kvmops.disk.plugins.module_utils._host import access as _access
from ansible_collections.kvmops.disk.plugins.module_utils._image import alignment as _alignment
from ansible_collections.kvmops.disk.plugins.module_utils._image import image as _image
from ansible_collections.kvmops.disk.plugins.module_utils._image import whole as _whole
from ansible_collections.kvmops.disk.plugins.module_utils._usage import dependents as _dependents
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disks as _disks

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg
    from ansible_collections.kvmops.disk.plugins.module_utils._task.surroundings import Surroundings
    from ansible_collections.kvmops.disk.plugins.module_utils._usage.users import Claim
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot.decision_change import (
        Merge,
        Removal,
        Taking,
    )
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot.decision_found import Left, Observed
    from ansible_collections.kvmops.disk.plugins.module_utils._xml.snapshots import DomainSnapshot

#: What the first clusters of an overlay take.
_OVERLAY_BYTES = 1 << 20


@dataclass(frozen=True)
class ChangeSurvey:
    """Looks at what is around the images that were *observed*."""

    surroundings: Surroundings
    qemu_img: QemuImg
    observed: Observed

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
            _whole.require_whole((item.below, *item.chain))
        _space.require_space([(os.path.realpath(item.overlay), _OVERLAY_BYTES) for item in items])

    def require_mergeable(self, removals: t.Sequence[Removal], left: Left, going: t.Collection[str]) -> None:
        """Raises DiskError where an image would be written, or removed, that others use, or that is not what it is said
        to be (HAZARDS A12). *going*: overlays that will be gone before. *left*: what a dead run left; QEMU lets nobody
        look at what a merge that goes on has done."""
        merges = [merge for removal in removals for merge in removal.merges]
        if not merges:
            return
        self._require_known(merges)
        paths = sorted({path for merge in merges for path in merge.paths})
        readers = self.surroundings.readers(paths)
        for merge in merges:
            own = [*going, *(link.path for link in self.observed.chains[merge.target])]
            for path in (t.cast(str, merge.overlay.path), t.cast(str, merge.into.path)):
                self._require_own(merge, path)
                to_do = f"merge {merge.overlay.path} into {merge.into.path}"
                found = _without(readers.of(path), own)
                _dependents.require_none(path, found, to_do, self._way_out(found))
                self.surroundings.require_unused(path, to_do, self._is_other, locks=not self.observed.state.active)
            self._require_whole(merge)
            self._require_writable(merge)
        self._require_space([merge for merge in merges if merge.target not in left.working])

    def _way_out(self, found: t.Sequence[str]) -> str:
        """What to do about the overlays *found* that stand in the way of a merge."""
        names = self.observed.names
        ours = [one for one in self.observed.orphans if any(names.same(one.path, path) for path in found)]
        if not ours:
            return "keep the snapshot"
        told = ", ".join(f"{one.path}, the overlay of its snapshot {one.snapshot}" for one in ours)
        return (
            f"keep the snapshot. {self.observed.state.name} does not run on {told}, any more: if what it holds is not "
            "needed, remove that snapshot first (state=absent), and then the file"
        )

    def require_no_dependents(self, snapshot: DomainSnapshot) -> None:
        """Raises HasDependents where libvirt removes an overlay, on its way back, that others read, or ImageInUse."""
        paths = [str(link.path) for chain in self.observed.chains.values() for link in chain[:1]]
        paths += [str(disk.overlay) for disk in snapshot.external]
        readers = self.surroundings.readers(paths)
        known = {str(disk.overlay) for one in self.observed.snapshots for disk in one.external}
        to_do = f"revert to the snapshot {snapshot.name}"
        for path in sorted(set(paths)):
            _dependents.require_none(path, _without(readers.of(path), known), to_do, "take a new snapshot instead")
            self.surroundings.require_unused(path, to_do, self._is_other, locks=False)

    def _is_other(self, claim: Claim) -> bool:
        """Whether a claim on an image is not that of the domain itself."""
        return claim.uuid != self.observed.state.uuid

    def _require_known(self, merges: t.Iterable[Merge]) -> None:
        """Raises UnsafeImage where a chain goes on below what somebody vouches for."""
        for merge in merges:
            found = self.observed.unvouched.get(merge.target)
            if found is not None:
                raise UnsafeImage(
                    f"{found.image}: {found.points}, which neither the definition of {self.observed.state.name} nor "
                    f"a snapshot names for {merge.target}: name it as backingStore in the definition, or set "
                    "trusted=true if you know that it belongs there",
                    path=found.image,
                )

    def _require_own(self, merge: Merge, path: str) -> None:
        """Raises DiskError where another disk of the domain has the image, too."""
        state = self.observed.state
        for disk in state.disks:
            if disk.target != merge.target and self.observed.names.same(disk.path, path):
                raise DiskError(f"{path}: is {disk.target} of {state.name}, too: not merged", path=path)

    def _require_whole(self, merge: Merge) -> None:
        """Raises DiskError where a merge would lose what an image holds beside the disk, or cannot be."""
        overlay, into = self._images_of(merge)
        for image in (overlay, into):
            _image.require_regular_file(image.path)
        _merge.require_readable(replace(image, data_file=None) for image in (overlay, into))  # that is vouched for
        _whole.require_whole((overlay, into))
        self._require_openable(merge, overlay, into)
        _merge.require_mergeable(_merge.Observed((overlay, into), ()))
        _merge.require_no_snapshots(overlay, "delete them first")
        if not self.observed.state.active:
            way_out = "remove them, or merge it while the domain runs, which keeps them"
            _merge.require_no_bitmaps(overlay, _bitmaps.bitmaps_of(overlay.path, overlay.format), way_out)

    def _require_writable(self, merge: Merge) -> None:
        """Raises DiskError where who writes an image for the merge may not: QEMU, below a guest, or this process. What
        becomes the image of the disk is QEMU's anyway."""
        state, to_do = self.observed.state, f"merge {merge.overlay.path} into {merge.into.path}"
        for link in (merge.into, merge.above):
            if link is None or link.path is None or not os.path.exists(link.path):  # the same task makes it
                continue
            if state.active:
                _access.require_writable_by_qemu(link.path, self._qemu_user, to_do)
            elif merge.above is None:  # a base that was protected for what is merged gets its mode back after that
                note = _base_note.own_note(link.path)
                _access.require_writable_by_qemu(link.path, self._qemu_user, to_do, note.mode if note else None)
            else:
                _access.require_writable(link.path, to_do)

    def _qemu_user(self) -> tuple[int, int] | None:
        """None also where the domain has a user of its own."""
        hypervisor = next(iter(self.surroundings.libvirts.own), None)
        if hypervisor is None or _disks.has_own_user(self.observed.state.definition):
            return None
        return hypervisor.qemu_user()

    def _require_openable(self, merge: Merge, overlay: _image.Image, into: _image.Image) -> None:
        """Raises DiskError where the domain could not open the merged image, which is to be its disk."""
        disk = self.observed.state.disk(merge.target)
        if merge.above is None and disk is not None:
            size = max(overlay.virtual_size, into.virtual_size)
            what, way_out = f"{self.observed.state.name}: {merge.target}", "grow the disk to it (vm_disk_resize)"
            _alignment.require_openable(into.path, into.format, size, disk.element.cache, what, way_out)

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


def _without(found: t.Iterable[str], own: t.Collection[str | None]) -> list[str]:
    """What is *found*, without the images *own*, whatever their names."""
    return [one for one in found if not any(_names.are_same(one, name) for name in own)]
