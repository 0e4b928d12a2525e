# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A look at the disks that a task is about: their images, and what these would give back."""

from __future__ import annotations

import os
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._content import reclaimable as _reclaimable
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass, replace
from ansible_collections.kvmops.disk.plugins.module_utils._domain import disk_chain as _disk_chain
from ansible_collections.kvmops.disk.plugins.module_utils._errors import LibvirtFailed
from ansible_collections.kvmops.disk.plugins.module_utils._files import same_file as _same_file
from ansible_collections.kvmops.disk.plugins.module_utils._image import image as _image
from ansible_collections.kvmops.disk.plugins.module_utils._image.anew import at_least
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_reclaim import decision as _decision
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_reclaim import decision_obstacles as _obstacles
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_reclaim.decision import Reclaiming

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainDisk, DomainState
    from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.domain import Domain, GuestFileSystem
    from ansible_collections.kvmops.disk.plugins.module_utils._progress import Progress
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg, Range
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_reclaim.wish import ReclaimWish


#: What images occupy at most by their content, by their path and what last wrote them.
Read = dict[tuple[object, ...], int]


@dataclass(frozen=True)
class Survey:
    """One look at the disks of *state* that *wish* means. *read* is what an earlier look has read: the content of an
    image that is as it was then is not read again."""

    domain: Domain
    qemu_img: QemuImg
    state: DomainState
    wish: ReclaimWish
    progress: Progress
    read: Read

    def observed(self, disk: DomainDisk) -> Reclaiming:
        """The disk with its images. Raises UnsafeImage for references that nobody vouches for, or for a block device
        under the name of an image."""
        path = t.cast(str, disk.path)
        _image.require_regular_file(path)
        image = _image.inspect(self.qemu_img, path, disk.format)
        images = _disk_chain.followed(self.qemu_img, self.state, disk, image, trusted=self.wish.trusted)
        _disk_chain.require_same_chain(self.state, disk, images)
        return Reclaiming(disk, images)

    def foretold_live(self, items: t.Iterable[Reclaiming]) -> list[Reclaiming]:
        """*items*, with what the guest needs of them by what its agent says. Raises DiskError where that is silent."""
        systems = self._guest_file_systems()
        return [replace(item, most=_decision.most_after_trim(item, systems)) for item in items]

    def foretold_offline(self, item: Reclaiming) -> Reclaiming:
        """The disk, with what its image occupies at most when it is rewritten.

        Its content is read only where the tables do not tell of enough. Raises ImageInUse where somebody writes it.
        """
        _obstacles.require_whole_sectors(item, os.path.getsize(item.path))
        image = item.image
        rows = self.qemu_img.own_map(image.path, image.format)
        most = _reclaimable.most_by_tables(image, rows)
        if not _decision.is_worth(at_least(image, most), image, self.wish):
            most = self._most_by_content(item, rows)
        return replace(item, most=most)

    def _most_by_content(self, item: Reclaiming, rows: t.Sequence[Range]) -> int:
        file = os.path.realpath(item.path)
        key = (file, *_same_file.file_identity(file), *_same_file.last_write(file))
        if key not in self.read:
            subject = f"{self.state.name} {item.target}"
            with self.progress.phase(subject, "read", sum(row.length for row in rows if row.data)) as phase:
                self.read[key] = _reclaimable.most_by_content(self.qemu_img, item.image, rows, phase.percent)
        return self.read[key]

    def _guest_file_systems(self) -> list[GuestFileSystem]:
        from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.acting import acting

        try:
            return acting(self.domain).guest_file_systems(self.wish.agent_timeout)
        except LibvirtFailed as error:
            raise _obstacles.agent_silent(self.state, error) from error
