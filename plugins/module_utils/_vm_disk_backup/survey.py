# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is seen of a domain that is to be backed up, and of its backups; looked at, and nothing else."""

from __future__ import annotations

import os
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._backup import store as _store
from ansible_collections.kvmops.disk.plugins.module_utils._capacity import space as _space
from ansible_collections.kvmops.disk.plugins.module_utils._content import transcode as _transcode
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._domain import disk_chain as _disk_chain
from ansible_collections.kvmops.disk.plugins.module_utils._domain import domain as _domain
from ansible_collections.kvmops.disk.plugins.module_utils._errors import MissingImage
from ansible_collections.kvmops.disk.plugins.module_utils._files import staging as _staging
from ansible_collections.kvmops.disk.plugins.module_utils._files import state as _state
from ansible_collections.kvmops.disk.plugins.module_utils._host import access as _access
from ansible_collections.kvmops.disk.plugins.module_utils._image import image as _image
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_backup.decision import Course, Observed
from ansible_collections.kvmops.disk.plugins.module_utils._xml import backups as _backups
from ansible_collections.kvmops.disk.plugins.module_utils._xml import identity as _identity
from ansible_collections.kvmops.disk.plugins.module_utils._xml import snapshots as _snapshots

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._backup.chains import Backup
    from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainDisk, DomainState
    from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.backups import BackedUpDomain
    from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.connection import Hypervisor
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_backup.wish import BackupWish

#: What an image takes beside its data: the first clusters, and tables, of 16 bytes for each cluster of 64 KiB.
_FIRST_CLUSTERS = 1 << 20
_BYTES_PER_TABLE_BYTE = 4096


@dataclass(frozen=True)
class Survey:
    """Looks at *domain* and its images, and at the directory *place* with its backups."""

    hypervisor: Hypervisor
    domain: BackedUpDomain
    qemu_img: QemuImg
    wish: BackupWish
    place: str

    def backups(self) -> tuple[Backup, ...]:
        """The backups of the domain. Raises NotBelieved where somebody else may have put them there."""
        if not _state.has_directory(self.place):
            return ()
        return _store.backups(self.wish.dest_dir, self.domain.uuid)

    def look(self, state: DomainState, disks: tuple[DomainDisk, ...], backups: tuple[Backup, ...]) -> Observed:
        """The domain with the images of *disks*, and its *backups*."""
        checkpoints = [_backups.checkpoint(xml) for xml in self.domain.checkpoint_xmls()]
        images = {disk.target: self._images(state, disk) for disk in disks}
        return Observed(
            state=state,
            disks=disks,
            images=images,
            sizes={target: self._size(state, target, found[0]) for target, found in images.items()},
            checkpoints={one.name: one for one in checkpoints},
            backups=backups,
            nvram=self.nvram(state) is not None,
        )

    def nvram(self, state: DomainState) -> str | None:
        """The file with the UEFI variables of the domain; None where it has none."""
        path = _identity.looks(state.definition).nvram
        return path if path is not None and os.path.isfile(path) else None

    def jobs(self, state: DomainState) -> list[str]:
        """The targets on which a block job runs."""
        return _domain.block_jobs(self.domain, state) if state.active else []

    def has_agent(self, state: DomainState) -> bool:
        """Whether an agent in the running guest answers."""
        return state.live is not None and _snapshots.has_agent(state.live)

    def require_place(self, state: DomainState) -> None:
        """Raises InvalidRequest where no backup could be made in the directory of the task."""
        directory = self.wish.dest_dir
        _staging.require_writable_directory(directory, "dest_dir")
        _staging.require_directory(self.place, "dest_dir")
        if state.active:
            _access.require(directory, self.hypervisor.qemu_user, "dest_dir")

    def require_room(self, observed: Observed, found: Course) -> None:
        """Raises NotEnoughSpace where the backup would not fit, as far as can be told beforehand."""
        demands = [(self.place, self._needed(observed, found, disk.target)) for disk in found.manifest.disks]
        _space.require_space(demands)

    def _needed(self, observed: Observed, found: Course, target: str) -> int:
        """The bytes that the copy of a disk takes at most."""
        images = observed.images[target]
        copied = _transcode.occupied(images)
        if target in found.bases:
            changed = observed.checkpoints[found.bases[target]].sizes[target]
            copied = changed if changed is not None else copied
        return copied + observed.sizes[target] // _BYTES_PER_TABLE_BYTE + _FIRST_CLUSTERS

    def _size(self, state: DomainState, target: str, top: _image.Image) -> int:
        return self.domain.capacity(target) if state.active else top.virtual_size

    def _images(self, state: DomainState, disk: DomainDisk) -> tuple[_image.Image, ...]:
        """The images of a disk. Raises MissingImage, and UnsafeImage where nobody vouches for what one of them
        refers to."""
        path = t.cast(str, disk.path)
        if not os.path.exists(path):
            raise MissingImage(f"{path}: is missing: {state.name} has it as {disk.target}", path=path)
        top = _image.inspect(self.qemu_img, path, disk.format)
        return _disk_chain.followed(self.qemu_img, state, disk, top, trusted=self.wish.trusted)
