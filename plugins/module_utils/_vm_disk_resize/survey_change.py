# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What has to be true of the world before a disk gets another size: its chain, users, dependents, space."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ansible_collections.kvmops.disk.plugins.module_utils._capacity import space as _space
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass, replace
from ansible_collections.kvmops.disk.plugins.module_utils._domain import disk_chain as _disk_chain
from ansible_collections.kvmops.disk.plugins.module_utils._domain import domain as _domain
from ansible_collections.kvmops.disk.plugins.module_utils._errors import NotEnoughSpace
from ansible_collections.kvmops.disk.plugins.module_utils._host import access as _access
from ansible_collections.kvmops.disk.plugins.module_utils._image import alignment as _alignment
from ansible_collections.kvmops.disk.plugins.module_utils._image import image as _image
from ansible_collections.kvmops.disk.plugins.module_utils._image import whole as _whole
from ansible_collections.kvmops.disk.plugins.module_utils._image.trust import Trust
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_resize import decision as _decision
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_resize import decision_obstacles as _obstacles

if TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainState
    from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.domain import Domain
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg
    from ansible_collections.kvmops.disk.plugins.module_utils._task.surroundings import Surroundings
    from ansible_collections.kvmops.disk.plugins.module_utils._usage.users import Claim
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_resize.decision import Resizing
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_resize.wish import ResizeWish


@dataclass(frozen=True)
class ChangeSurvey:
    """One look at everything around the disk of *state* whose size is to change as *wish* says."""

    domain: Domain
    surroundings: Surroundings
    qemu_img: QemuImg
    state: DomainState
    wish: ResizeWish

    def jobs(self, item: Resizing) -> list[str]:
        """The disk, where a block job runs on it."""
        return _domain.block_jobs(self.domain, replace(self.state, disks=(item.disk,))) if item.live else []

    def policy(self, item: Resizing) -> str | None:
        """The preallocation of what would be added offline."""
        return _decision.policy(self.wish, item, os.path.getsize(item.path))

    def require_known_chain(self, item: Resizing) -> None:
        """qemu-img opens the chain to resize its top: all of it has to be known, and to fit. A live QEMU has it open.

        Raises UnsafeImage, too, where one of its images was cut short.
        """
        if item.live:
            _whole.require_whole((item.disk, *(item.disk.chain or ())))
            return
        _whole.require_whole([item.image])
        images: tuple[_image.Image, ...] = (item.image,)
        if item.image.backing_file is not None:
            images = _disk_chain.followed(self.qemu_img, self.state, item.disk, item.image, trusted=self.wish.trusted)
            _obstacles.require_no_cut(item, images[1])
        Trust(self.wish.trusted).require_believable(item.image)
        _disk_chain.require_same_chain(self.state, item.disk, images)

    def require_openable(self, item: Resizing) -> None:
        """Raises DiskError where the domain could not open the image in its new size."""
        _alignment.require_openable(
            *(item.path, item.image.format, item.after, item.disk.element.cache),
            f"{self.state.name}: {item.target}",
            _alignment.HAVE_IT_ROUNDED,
        )

    def require_unused(self, item: Resizing) -> None:
        """Raises ImageInUse or HasDependents where others have to do with the image."""

        def is_other(claim: Claim) -> bool:
            return (claim.uuid, claim.target) != (self.state.uuid, item.target)

        self.surroundings.require_unused(item.path, "resize it", is_other, locks=not item.live)
        if not item.live:
            _access.require_writable(item.path, "resize it")
        if not self.wish.allow_dependents:
            self.surroundings.require_no_dependents(item.path, "resize it")

    def require_room(self, item: Resizing, policy: str | None) -> None:
        """Raises NotEnoughSpace where the file system cannot take the growth, or promises too much with it."""
        if item.image.format == "raw":
            _space.require_length(item.path, item.after)
        added = _decision.bytes_added(item, policy, self._metadata(item) if policy else 0)
        try:
            _space.require_space([(os.path.realpath(item.path), added)])
        except NotEnoughSpace as error:
            if self.wish.preallocation is not None:
                raise
            raise _obstacles.fully_allocated(error) from error
        if item.growth > 0:
            grown = _space.NewImage(item.path, max(item.after, item.image.actual_size))
            self.surroundings.require_promises([grown], self.wish.max_overcommit, self.qemu_img)

    def _metadata(self, item: Resizing) -> int:
        """The bytes of metadata that the whole image has at most, once it is resized."""
        if item.image.format != "qcow2":
            return 0
        extended = "on" if item.image.extended_l2 else "off"
        options = {"cluster_size": str(item.image.cluster_size), "extended_l2": extended}
        return self.qemu_img.measure_empty(item.after, "qcow2", options).required
