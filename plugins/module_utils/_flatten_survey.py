# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What has to be true of the world before the disks of a domain are made independent: chains, users, space."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from ansible_collections.kvmops.disk.plugins.module_utils import _capacity, _disk_chain, _flatten, _image, _usage
from ansible_collections.kvmops.disk.plugins.module_utils._domain import DomainDisk, DomainState
from ansible_collections.kvmops.disk.plugins.module_utils._errors import ImageInUse
from ansible_collections.kvmops.disk.plugins.module_utils._flatten import Flattening, FlattenWish
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt import Hypervisor
from ansible_collections.kvmops.disk.plugins.module_utils._qemu_img import QemuImg


@dataclass(frozen=True)
class FlattenSurvey:
    """One look at everything around the disks of *state* that *wish* means."""

    hypervisor: Hypervisor
    qemu_img: QemuImg
    state: DomainState
    wish: FlattenWish

    def observed(self, disk: DomainDisk) -> Flattening:
        """The disk with its images. Raises UnsafeImage for references that nobody vouches for, InvalidRequest where the
        base is not among them."""
        path = t.cast(str, disk.path)
        image = _image.inspect(self.qemu_img, path, disk.format)
        images: tuple[_image.Image, ...] = (image,)
        if image.backing_file is not None:
            images = _disk_chain.followed(self.qemu_img, self.state, disk, image, trusted=self.wish.trusted)
        return Flattening(disk, images, _flatten.position(self.state, disk, images, self.wish.base))

    def require_unused(self, items: t.Sequence[Flattening]) -> None:
        """Raises ImageInUse where somebody else has to do with an image that is to change, or writes one below it.

        Off line, the overlays of other domains that are off too do not stand in the way: they read the same afterwards.
        """
        live = self.state.active
        users = _usage.domain_users(self.hypervisor)
        for item in items:
            others = [
                user
                for user in users
                if (user.uuid, user.target) != (self.state.uuid, item.target)
                and (live or user.running or user.role != "backing file of")
            ]
            _usage.require_unused(item.path, others, "flatten it", locks=not live)
            for below in item.images[1:] if not live else ():
                if _usage.is_locked(below.path, against_readers=True):
                    raise ImageInUse(
                        f"{below.path}: is open for writing, asked to flatten {item.path}, which reads it: "
                        "stop what uses it first",
                        path=below.path,
                        in_use_by=[],
                    )

    def require_no_bitmaps(self, items: t.Sequence[Flattening]) -> None:
        """Raises DiskError where a new image would not have the dirty bitmaps of the old one."""
        for item in items:
            specific = self.qemu_img.info(item.path, item.image.format).get("format-specific", {}).get("data", {})
            _flatten.require_no_bitmaps(item, [bitmap["name"] for bitmap in specific.get("bitmaps", ())])

    def require_space(self, items: t.Sequence[Flattening]) -> None:
        """Raises NotEnoughSpace. Live, the image grows where it is; off line, it is made anew beside it."""
        live = self.state.active
        demands = []
        for item in items:
            image = item.image
            layout = _flatten.layout(image)
            options = layout.options() if layout.format == "qcow2" else {}
            measured = self.qemu_img.measure(item.path, image.format, "qcow2", options).required
            needed = _flatten.most_bytes(item, measured)
            demands.append((item.file, max(0, needed - image.actual_size) if live else needed))
        _capacity.require_space(demands)
