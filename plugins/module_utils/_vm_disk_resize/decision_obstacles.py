# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The decision whether something stands in the way of another size of a disk. Pure."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._errors import (
    DiskError,
    InvalidRequest,
    NotEnoughSpace,
    UnsafeImage,
)
from ansible_collections.kvmops.disk.plugins.module_utils._image.choices import RESIZABLE_FORMATS
from ansible_collections.kvmops.disk.plugins.module_utils._image.layout import Layout
from ansible_collections.kvmops.disk.plugins.module_utils._size import (
    LARGEST,
    exact_size,
    format_size,
)
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_resize.decision import Resizing, can_shrink

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainState
    from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_resize.wish import ResizeWish

#: What a dead run of these verbs leaves does not get worse when the image grows under its guest: a leak at most. What a
#: flattening or a conversion has left to finish is in the domain's metadata, too, which is looked at before.
_HARMLESS = frozenset(["resize", "convert", "flatten"])

_CONVERT = "convert the disk first (kvmops.disk.vm_disk_convert), to qcow2 or raw"


def require_resizable(state: DomainState, item: Resizing, wish: ResizeWish, jobs: t.Sequence[str]) -> None:
    """Raises DiskError where the disk must not get the size that it is to have, or cannot have it now.

    *jobs* are the targets with block jobs.
    """
    if item.growth < 0:
        _require_shrinkable(state, item, wish)
    _require_plain(state, item)
    _require_idle(state, item, jobs)
    _require_able(item)
    if item.live:
        _require_live(state, item, wish)
    else:
        _require_offline(state, item)


def require_settled(state: DomainState, item: Resizing, left: t.Mapping[str, t.Any] | None) -> None:
    """Raises DiskError where a dead run *left* something that has to be verified, which a guest's QEMU forbids."""
    if left and not left.get("alive") and left.get("verb") not in _HARMLESS:
        raise DiskError(
            f"{item.path}: a run ({left.get('verb')}) was interrupted on it, and it cannot be checked while "
            f"{state.name} is {state.state}: shut the domain down, then run again",
            operation=left,
        )


def require_no_cut(item: Resizing, below: Image) -> None:
    """Raises DiskError where the overlay would be smaller than its backing file, which cuts that off (HAZARDS A16)."""
    if item.after < min(item.before, below.virtual_size):
        raise DiskError(
            f"{item.path}: asked for {exact_size(item.after)}, but its backing file {below.path} has "
            f"{exact_size(below.virtual_size)}: a smaller overlay cuts off the end of the disk: ask for as much or "
            "more",
            virtual_size=item.before,
        )


def fully_allocated(error: NotEnoughSpace) -> NotEnoughSpace:
    """The error for a growth that does not fit since it is to be as allocated as its image is."""
    return NotEnoughSpace(
        f"{error}. The image is fully allocated, so what is added would be as well, unless preallocation=off",
        **error.facts,
    )


def require_size_reached(item: Resizing, found: int) -> None:
    """Raises DiskError where the disk has another size than it was given."""
    if found != item.after:
        raise DiskError(
            f"{item.path}: has {exact_size(found)} after the resize, asked for {exact_size(item.after)}: see what "
            "else resizes it",
            virtual_size=found,
        )


def _require_shrinkable(state: DomainState, item: Resizing, wish: ResizeWish) -> None:
    what = f"{state.name}: {item.target}"
    said = f"{what}: cannot shrink from {exact_size(item.before)} to {exact_size(item.after)}"
    if item.live:
        raise InvalidRequest(
            f"{said} while it is {state.state}: a disk is never shrunk under its guest: shut the domain down, after "
            "shrinking the file system inside",
            virtual_size=item.before,
        )
    if not wish.shrink:
        raise InvalidRequest(
            f"{said}: set shrink=true, after shrinking the file system inside", virtual_size=item.before
        )
    if item.image.format in RESIZABLE_FORMATS and not can_shrink(item.image.format):
        raise DiskError(f"{said}: {item.image.format} images only grow: {_CONVERT}", virtual_size=item.before)
    kept = [*state.snapshots, *state.checkpoints]
    if kept:
        raise DiskError(
            f"{said}: the domain has snapshots or checkpoints ({', '.join(kept)}), which hold the disk as it is: "
            "delete them first",
            snapshots=list(state.snapshots),
            checkpoints=list(state.checkpoints),
        )


def _require_plain(state: DomainState, item: Resizing) -> None:
    element, what = item.disk.element, f"{state.name}: {item.target}"
    if element.readonly or element.shareable or element.transient:
        kind = "read-only" if element.readonly else "shareable" if element.shareable else "transient"
        raise DiskError(f"{what}: is {kind}, so it may have other users or must stay as it is: not resized")
    live, defined = item.disk.live, item.disk.defined
    if live and defined and _source(live) != _source(defined):
        raise DiskError(
            f"{what}: the guest runs on {item.path} ({live.format}), but the definition names "
            f"{defined.source or defined.volume} ({defined.format}): bring the two together first, by a restart or "
            "with virsh"
        )


def _source(element: t.Any) -> tuple[str | None, ...]:
    return element.source, element.pool, element.volume, element.format


def _require_idle(state: DomainState, item: Resizing, jobs: t.Sequence[str]) -> None:
    if state.busy:
        raise DiskError(f"{state.name}: is being migrated, saved, dumped or backed up: wait until that is over")
    if item.target in jobs:
        raise DiskError(
            f"{state.name}: a block job runs on {item.target}: wait until it is over, or end it with "
            "virsh blockjob --abort",
            block_jobs=[item.target],
        )


def _require_able(item: Resizing) -> None:
    """Raises where no QEMU could give the image that size."""
    image = item.image
    found, asked = exact_size(item.before), exact_size(item.after)
    if image.format not in RESIZABLE_FORMATS:
        raise DiskError(
            f"{image.path}: has {found}, asked for {asked}: {image.format} images cannot be resized: {_CONVERT}"
        )
    if image.corrupt:
        raise UnsafeImage(f"{image.path}: is marked corrupt: check and repair it first", path=image.path)
    if image.snapshots and image.compat == "0.10":
        raise DiskError(
            f"{image.path}: has {found}, asked for {asked}: an image of compat 0.10 with {len(image.snapshots)} "
            "internal snapshot(s) cannot be resized: delete them, or amend it to compat 1.1 while the domain is off "
            "(kvmops.disk.qcow2_image)",
            snapshots=[snapshot.name for snapshot in image.snapshots],
        )
    largest = Layout(image.format).amended(image).largest_size() if image.format == "qcow2" else LARGEST
    if item.after > largest:
        raise InvalidRequest(
            f"{image.path}: has {found}, asked for {asked}, more than a qcow2 image with clusters of "
            f"{format_size(image.cluster_size or 0)} can hold ({format_size(largest)}): convert the disk to one with "
            "larger clusters first (kvmops.disk.vm_disk_convert)",
            virtual_size=item.before,
        )


def _require_live(state: DomainState, item: Resizing, wish: ResizeWish) -> None:
    if wish.preallocation not in (None, "off"):
        raise DiskError(
            f"{state.name}: {item.target}: is {state.state}, and what is added while its guest runs cannot be "
            f"reserved, asked for preallocation {wish.preallocation}: leave that out, or shut the domain down first"
        )


def _require_offline(state: DomainState, item: Resizing) -> None:
    image = item.image
    if state.managed_save:
        raise DiskError(
            f"{state.name}: has a managed-save image, whose guest knows the disk by its present size: start the "
            "domain, which resumes it, or drop it with virsh managedsave-remove"
        )
    if image.encrypted:
        raise DiskError(
            f"{image.path}: is encrypted, and cannot be resized without its secret: start the domain and grow the "
            "disk then, since libvirt gives QEMU the secret",
            path=image.path,
        )
    if image.data_file is not None:
        raise UnsafeImage(
            f"{image.path}: keeps its data in another file, {image.data_file}, which a resize would change too: "
            "convert the disk first, which brings the two together (kvmops.disk.vm_disk_convert)",
            path=image.path,
        )
