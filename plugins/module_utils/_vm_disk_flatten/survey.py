# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A look at the disks that a task is about: their images, and what the definition names of those."""

from __future__ import annotations

import os
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._domain import disk_chain as _disk_chain
from ansible_collections.kvmops.disk.plugins.module_utils._image import image as _image
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten import decision as _decision
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten.decision import Flattening
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disk_changes as _disk_changes
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disks as _disks

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainDisk, DomainState
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten.wish import FlattenWish


@dataclass(frozen=True)
class Survey:
    """One look at the disks of *state* that *wish* means."""

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
        files = tuple(os.path.realpath(image.path) for image in images)
        found = number_of(self.wish.base, files) if self.wish.base is not None else None
        keep = _decision.position(self.state, disk, images, self.wish.base, found)
        return Flattening(disk, images, files, keep, _disk_chain.is_as_named(disk, images))

    def is_misnamed(self, item: Flattening) -> bool:
        """Whether the definition names backing files that the image has no more."""
        defined, definition = item.disk.defined, self.state.definition
        return bool(defined and defined.chain) and shortened(definition, [item]) != definition

    def definition_diff(self, items: t.Sequence[Flattening]) -> tuple[dict[str, t.Any], ...]:
        """What Ansible shows of the definition once the disks are flattened; nothing where there are none."""
        before = self.state.definition
        return ({"prepared": _disk_changes.definition_diff(before, shortened(before, items))},) if items else ()


def shortened(definition: str, items: t.Iterable[Flattening]) -> str:
    """The definition with the backing files that the images have once they are flattened."""
    for item in items:
        definition = _disk_changes.with_shorter_chain(definition, item.target, _named(definition, item))
    return definition


def file_below(image: _image.Image) -> str | None:
    """The file that an image reads below its own content, wherever its name leads."""
    return os.path.realpath(image.backing_file) if image.backing_file else None


def number_of(base: str, files: t.Sequence[str]) -> int | None:
    """The number of *base* among the *files* of a disk's images, its own first, which does not count."""
    wanted = os.path.realpath(base)
    return next((number for number, file in enumerate(files) if number and file == wanted), None)


def _named(definition: str, item: Flattening) -> str | None:
    """The base as the definition calls it."""
    if item.base is None:
        return None
    wanted = item.base_file
    links = [link for disk in _disks.disks(definition) if disk.target == item.target for link in disk.chain or ()]
    names = [link.path for link in links if link.path and os.path.realpath(link.path) == wanted]
    return names[0] if names else item.base.path
