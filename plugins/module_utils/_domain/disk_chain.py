# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The backing files of a domain's disk: what its images say of them, and what libvirt's XML vouches for."""

from __future__ import annotations

import os
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._errors import UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._image import image as _image
from ansible_collections.kvmops.disk.plugins.module_utils._image.trust import Trust
from ansible_collections.kvmops.disk.plugins.module_utils._image.whole import require_whole

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainDisk, DomainState
    from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg


def followed(
    qemu_img: QemuImg, state: DomainState, disk: DomainDisk, image: Image, *, trusted: bool
) -> tuple[Image, ...]:
    """*image*, the disk's own, and those below it, of which none is opened before somebody vouches for it.

    Raises what require_known_references, _image.chain, Trust.require_believable and require_whole raise.
    """
    require_known_references(state, disk, [image], trusted)
    images = _image.chain(qemu_img, image)
    for one in images:
        Trust(trusted).require_believable(one)
    require_known_references(state, disk, images, trusted)
    require_whole(images)
    return images


def require_known_references(state: DomainState, disk: DomainDisk, images: t.Sequence[Image], trusted: bool) -> None:
    """Raises UnsafeImage where an image refers to a file that the domain's definition does not name.

    Following it would copy that file into the guest's disk (HAZARDS A7). *trusted* says that the task knows.
    """
    known = {link.path for link in disk.chain or ()}
    for image in images:
        if image.data_file is not None and not trusted:
            raise _unknown(state, disk, image.path, f"keeps its data in {image.data_file}")
        if image.backing_file is not None and image.backing_file not in known and not trusted:
            raise _unknown(state, disk, image.path, f"has the backing file {image.backing_file}")


def require_same_chain(state: DomainState, disk: DomainDisk, images: t.Sequence[Image]) -> None:
    """Raises UnsafeImage where libvirt's XML names other backing files of the disk than its *images* do, the disk's own
    first: the guest sees what the XML says, and qemu-img what they say."""
    if not is_as_named(disk, images):
        raise another_chain(state, disk, images)


def is_as_named(disk: DomainDisk, images: t.Sequence[Image]) -> bool:
    """Whether libvirt's XML names the backing files that *images* have, by whatever links, or none at all."""
    named = disk.chain
    if named is None:
        return True
    below = [(os.path.realpath(image.path), image.format) for image in images[1:]]
    same = [(os.path.realpath(link.path or ""), link.format or found[1]) for link, found in zip(named, below)]
    return same == below and len(named) == len(below)


def another_chain(state: DomainState, disk: DomainDisk, images: t.Sequence[Image]) -> UnsafeImage:
    """The error for a disk whose backing files are not those that libvirt's XML names."""
    in_xml = " -> ".join(f"{link.path} ({link.format})" for link in disk.chain or ()) or "none"
    in_images = " -> ".join(f"{image.path} ({image.format})" for image in images[1:]) or "none"
    return UnsafeImage(
        f"{state.name}: {disk.target}: libvirt's XML names the backing files {in_xml}, the images {in_images}: "
        "bring the two together first: the guest sees what the XML says",
        path=images[0].path,
    )


def _unknown(state: DomainState, disk: DomainDisk, path: str, points: str) -> UnsafeImage:
    return UnsafeImage(
        f"{path}: {points}, which the definition of {state.name} does not name for {disk.target}: following it could "
        "copy a foreign file into the disk: name it as backingStore in the definition, or set trusted=true if you "
        "know that it belongs there",
        path=path,
    )
