# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The decision to change the size of a domain's disk: of which image, to what, and what that adds. Pure."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._errors import (
    DiskError,
)
from ansible_collections.kvmops.disk.plugins.module_utils._image.choices import RESIZABLE_FORMATS
from ansible_collections.kvmops.disk.plugins.module_utils._image.layout import Layout
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan, Step
from ansible_collections.kvmops.disk.plugins.module_utils._size import (
    exact_size,
)

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainDisk, DomainState
    from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
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


class Work(t.Protocol):
    """Who does it."""

    def grow_live(self) -> None: ...

    def resize(self) -> None: ...

    def revert(self) -> None: ...


def plan_resize(state: DomainState, item: Resizing, policy: str | None, work: Work) -> Plan:
    """The plan that brings the disk to its new size. *policy* is the preallocation of what is added offline."""
    verb, how = ("grow" if item.growth > 0 else "shrink"), ""
    if not item.live:
        how = f", preallocation {policy}" if policy else ""
    summary = f"{verb} {item.target} of {state.name} from {exact_size(item.before)} to {exact_size(item.after)}"
    if item.live:
        step = Step(f"{summary} while it runs ({item.path})", work.grow_live)
    else:
        step = Step(f"{summary} ({item.path}{how})", work.resize, work.revert if item.growth > 0 else None)
    return Plan({item.target: {"virtual_size": item.before}}, {item.target: {"virtual_size": item.after}}, (step,))


def require_image_file(state: DomainState, disk: DomainDisk) -> None:
    """Raises DiskError where the disk is not one that an image file is behind."""
    element, what = disk.element, f"{state.name}: {disk.target}"
    if element.device != "disk":
        raise DiskError(f"{what}: is a {element.device}, asked to resize a disk: name another")
    if element.type == "block":
        raise refused_device(what, disk.path or "a block device")
    if disk.problem is not None:
        raise DiskError(f"{what}: {disk.problem}")
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


def policy(wish: ResizeWish, item: Resizing, length: int) -> str | None:
    """The preallocation of what is added offline: what the task says, else what the image looks like.

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


def can_shrink(image_format: str) -> bool:
    """Whether qemu-img can make images of that format smaller."""
    return image_format in _SHRINKABLE


def require_valid_policy(wish: ResizeWish, image_format: str) -> None:
    """Raises InvalidRequest where images of that format do not know the preallocation."""
    if image_format in RESIZABLE_FORMATS:
        Layout(image_format, preallocation=wish.preallocation).require_valid()


def _table_added(item: Resizing) -> int:
    """The bytes of a larger first table (L1), where a qcow2 image needs one: QEMU makes it anew elsewhere in the file,
    with eight bytes for each table below it (qcow2_grow_l1_table in block/qcow2-cluster.c)."""
    cluster = item.image.cluster_size
    if item.image.format != "qcow2" or cluster is None:
        return 0
    covered = cluster * (cluster // (16 if item.image.extended_l2 else 8))
    before, after = -(-item.before // covered), -(-item.after // covered)
    return -(-8 * after // cluster) * cluster if after > before else 0
