# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The decision by which way disks are flattened, and whether something stands in the way of that. Pure."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._domain import disk_chain as _disk_chain
from ansible_collections.kvmops.disk.plugins.module_utils._domain import ready as _ready
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._image import layout as _layout
from ansible_collections.kvmops.disk.plugins.module_utils._image.choices import REBASEABLE_FORMATS

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainState
    from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten.decision import Flattening
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten.wish import FlattenWish

#: The first QEMU whose copy-on-read, by which it pulls, knows subclusters.
PULLS_SUBCLUSTERS = (8, 2)


def way(state: DomainState, wish: FlattenWish) -> str:
    """How the disks are to be flattened: live or offline. Raises DiskError where it cannot be as the task wants it."""
    if not state.active:
        if wish.mode == "live":
            raise DiskError(
                f"{state.name}: is {state.state}, and method is live, which only pulls below a running guest: "
                "start the domain, or set method to auto or offline",
                state=state.state,
            )
        return "offline"
    if wish.mode == "offline":
        raise DiskError(
            f"{state.name}: is {state.state}, and method is offline: shut it down first, or set method to auto, "
            "which flattens the disk while the guest runs",
            state=state.state,
        )
    if state.state not in ("running", "paused"):
        raise DiskError(
            f"{state.name}: is {state.state}: its disks cannot be flattened now: wait, or resume it", state=state.state
        )
    return "live"


def require_flattenable(state: DomainState, items: t.Sequence[Flattening], jobs: t.Sequence[str]) -> None:
    """Raises DiskError where the domain, or a disk of it, is in no state to be flattened; *jobs* are its block jobs."""
    _ready.require_ready(state, jobs, "a flattening", "which knows the old backing files")
    for item in items:
        _ready.require_plain_disk(state, item.disk, "flatten")
        require_as_named(state, item)
        if item.disk.element.sliced:
            raise DiskError(f"{state.name}: {item.target}: is a slice of {item.path}: not flattened", path=item.path)
        _require_flattenable_image(item)


def require_survivable(state: DomainState, item: Flattening, version: tuple[int, int]) -> None:
    """Raises DiskError where a QEMU of that *version* would abort in the pull, and the guest with it (HAZARDS P9)."""
    if item.image.extended_l2 and version < PULLS_SUBCLUSTERS:
        number = ".".join(map(str, version))
        raise DiskError(
            f"{state.name}: {item.target}: {item.path} has subclusters (extended_l2), and QEMU {number} aborts when it "
            f"pulls into such an image, so that its guest would die: shut {state.name} down, and run again, which "
            "flattens the disk offline",
            path=item.path,
            qemu_version=number,
        )


def require_no_bitmaps(item: Flattening, bitmaps: t.Sequence[str]) -> None:
    """Raises DiskError where a new image in the place of the old one would lose its dirty *bitmaps*."""
    if bitmaps:
        raise DiskError(
            f"{item.path}: holds {len(bitmaps)} dirty bitmap(s) ({', '.join(bitmaps)}), which a new image in its place "
            "would not have: remove them, or flatten the disk while the domain runs, which keeps them",
            path=item.path,
            bitmaps=list(bitmaps),
        )


def require_explained(state: DomainState, misnamed: t.Iterable[Flattening], left: t.Container[str]) -> None:
    """Raises UnsafeImage where the definition names backing files that a *misnamed* disk has no more, and it is not
    known whose doing that is: *left* are the targets that a dead run flattened."""
    for item in misnamed:
        if item.target not in left:
            require_as_named(state, item)


def require_as_named(state: DomainState, item: Flattening) -> None:
    """Raises UnsafeImage where libvirt's XML names other backing files: the guest sees what that says."""
    if not item.as_named:
        raise _disk_chain.another_chain(state, item.disk, item.images)


def require_base(item: Flattening, found: str | None) -> None:
    """Raises DiskError where the image, which is flattened, has another file below it, *found*, than it is to have."""
    wanted = item.base_file
    if found != wanted:
        raise DiskError(
            f"{item.path}: has the backing file {found or 'none'} after it was flattened, wanted {wanted or 'none'}: "
            "see what has become of it with vm_disk_info",
            path=item.path,
        )


def require_alike(item: Flattening, image: Image, below: str | None) -> None:
    """Raises DiskError where *image*, the new one, is not laid out like the old one, or has another file *below* it
    than it is to have."""
    require_base(item, below)
    _layout.require_alike(item.image, image)


def _require_flattenable_image(item: Flattening) -> None:
    image = item.image
    if image.format not in REBASEABLE_FORMATS:
        raise DiskError(
            f"{image.path}: the backing file of a {image.format} image cannot be changed, only that of "
            f"{' and '.join(REBASEABLE_FORMATS)} images: convert it with vm_disk_convert, which makes a new image",
            path=image.path,
        )
    if image.encrypted or item.disk.element.encrypted:
        raise DiskError(f"{image.path}: is encrypted: not flattened", path=image.path)
    if image.data_file is not None:
        raise DiskError(f"{image.path}: keeps its data in {image.data_file}: not flattened", path=image.path)
    if image.snapshots:
        names = [snapshot.name for snapshot in image.snapshots]
        raise DiskError(
            f"{image.path}: holds {len(names)} internal snapshot(s) ({', '.join(names)}), which read its backing files "
            "and would lose what is there: delete them first",
            path=image.path,
            snapshots=names,
        )
    for each in (image, *item.merged):
        if each.corrupt:
            raise UnsafeImage(f"{each.path}: is marked corrupt: check and repair it first", path=each.path)
        if each.encrypted:
            raise DiskError(
                f"{each.path}: is encrypted, and its content would be stored unencrypted in {image.path}: not "
                "flattened",
                path=each.path,
            )
