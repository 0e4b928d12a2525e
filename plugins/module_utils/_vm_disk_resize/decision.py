# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The decision to change the size of a domain's disk: to what, by which way, and what stands in the way. Pure."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainDisk, DomainState
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, InvalidRequest, UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
from ansible_collections.kvmops.disk.plugins.module_utils._image.layout import RESIZABLE_FORMATS, Layout
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan, Step
from ansible_collections.kvmops.disk.plugins.module_utils._size import (
    LARGEST,
    exact_size,
    format_size,
)
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_resize.wish import ResizeWish

#: The formats that have blocks to reserve when they grow.
_WITH_POLICY = ("raw", "qcow2")
#: Those of RESIZABLE_FORMATS that qemu-img can make smaller.
_SHRINKABLE = ("raw", "qcow2")


@dataclass(frozen=True)
class Resizing:
    """A disk that is to have another size: *image* is its top, *before* and *after* are bytes."""

    disk: DomainDisk
    image: Image
    before: int
    after: int
    live: bool

    @property
    def target(self) -> str:
        return self.disk.target

    @property
    def path(self) -> str:
        return self.image.path

    @property
    def growth(self) -> int:
        """The bytes that are added; negative where it shrinks."""
        return self.after - self.before

    @property
    def mode(self) -> str:
        return "live" if self.live else "offline"


class Hands(t.Protocol):
    """Who does it."""

    def grow_live(self) -> None: ...

    def resize(self) -> None: ...

    def revert(self) -> None: ...


def plan_resize(state: DomainState, item: Resizing, policy: str | None, hands: Hands) -> Plan:
    """The plan that brings the disk to its new size. *policy* is the preallocation of what is added off line."""
    verb, how = ("grow" if item.growth > 0 else "shrink"), ""
    if not item.live:
        how = f", preallocation {policy}" if policy else ""
    summary = f"{verb} {item.target} of {state.name} from {exact_size(item.before)} to {exact_size(item.after)}"
    if item.live:
        step = Step(f"{summary} while it runs ({item.path})", hands.grow_live)
    else:
        step = Step(f"{summary} ({item.path}{how})", hands.resize, hands.revert if item.growth > 0 else None)
    return Plan({item.target: {"virtual_size": item.before}}, {item.target: {"virtual_size": item.after}}, (step,))


def require_image_file(state: DomainState, disk: DomainDisk) -> None:
    """Raises DiskError where the disk is not one that an image file is behind."""
    element, what = disk.element, f"{state.name}: {disk.target}"
    if element.device != "disk":
        raise DiskError(f"{what}: is a {element.device}, asked to resize a disk: name another")
    if element.type == "block":
        raise refused_device(what, disk.path or "a block device")
    if disk.path is None or element.type not in ("file", "volume"):
        raise DiskError(
            f"{what}: its source is of type {element.type}, and only image files are resized: resize it where it is "
            "kept, then tell a running guest with virsh blockresize"
        )
    if element.sliced:
        raise DiskError(f"{what}: is a slice of {disk.path}, which has the size that the definition says: not resized")


def refused_device(what: str, path: str) -> DiskError:
    """The error for a disk on a block device, whose size is not the domain's business."""
    return DiskError(
        f"{what}: is the block device {path}, and only image files are resized: resize the device itself (with "
        "lvextend, for example), then tell a running guest with virsh blockresize",
        path=path,
    )


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


def policy(wish: ResizeWish, item: Resizing, length: int) -> str | None:
    """The preallocation of what is added off line: what the task says, else what the image looks like.

    *length* is that of its file. An image does not remember its policy and a plain resize adds a hole (HAZARDS C11).
    One that occupies as many bytes as its disk has was reserved, or written to the last cluster; a qcow2 image that is
    as long as its disk, but has holes, has all its tables. An overlay, or one with snapshots, can be long for other
    reasons.
    """
    if item.growth < 0 or item.image.format not in _WITH_POLICY:
        return None
    if wish.preallocation is not None:
        return None if wish.preallocation == "off" else wish.preallocation
    if item.image.backing_file is not None or item.image.snapshots or not item.before:
        return None
    if item.image.actual_size >= item.before:
        return "falloc"
    return "metadata" if item.image.format == "qcow2" and length >= item.before else None


def bytes_added(item: Resizing, chosen: str | None, metadata: int) -> int:
    """What the file system must take at once for the growth; *metadata*: what the whole image has of that, at most.

    A resize that runs out of space in the middle can end in an assertion (HAZARDS C12).
    """
    if item.growth < 0:
        return 0
    if chosen is None:
        return _table_added(item)
    return metadata + (item.growth if chosen in ("falloc", "full") else 0)


def _table_added(item: Resizing) -> int:
    """The bytes of a larger first table (L1), where a qcow2 image needs one: QEMU makes it anew elsewhere in the file,
    with eight bytes for each table below it (qcow2_grow_l1_table in block/qcow2-cluster.c)."""
    cluster = item.image.cluster_size
    if item.image.format != "qcow2" or cluster is None:
        return 0
    covered = cluster * (cluster // (16 if item.image.extended_l2 else 8))
    before, after = -(-item.before // covered), -(-item.after // covered)
    return -(-8 * after // cluster) * cluster if after > before else 0


def can_shrink(image_format: str) -> bool:
    """Whether qemu-img can make images of that format smaller."""
    return image_format in _SHRINKABLE


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


def require_no_cut(item: Resizing, below: Image) -> None:
    """Raises DiskError where the overlay would be smaller than its backing file, which cuts that off (HAZARDS A16)."""
    if item.after < min(item.before, below.virtual_size):
        raise DiskError(
            f"{item.path}: asked for {exact_size(item.after)}, but its backing file {below.path} has "
            f"{exact_size(below.virtual_size)}: a smaller overlay cuts off the end of the disk: ask for as much or "
            "more",
            virtual_size=item.before,
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


_CONVERT = "convert the disk first (kvmops.disk.vm_disk_convert), to qcow2 or raw"


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


def require_valid_policy(wish: ResizeWish, image_format: str) -> None:
    """Raises InvalidRequest where images of that format do not know the preallocation."""
    if image_format in RESIZABLE_FORMATS:
        Layout(image_format, preallocation=wish.preallocation).require_valid()
