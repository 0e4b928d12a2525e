# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The decision by which way disks are converted, and whether something stands in the way of that. Pure."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._domain import ready as _ready
from ansible_collections.kvmops.disk.plugins.module_utils._errors import (
    DiskError,
    InvalidRequest,
    NotEnoughSpace,
    UnsafeImage,
)
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert.wish import LIVE_FORMATS, ConvertWish

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainState
    from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert.decision import Conversion


@dataclass(frozen=True)
class Place:
    """What is found where a new image is to be: *file* is what it would be by whatever links, *is_source* where that is
    the old image. *exists*: something stands there that is not about to be removed."""

    file: str
    is_source: bool = False
    is_block_device: bool = False
    exists: bool = False


def way(state: DomainState, wish: ConvertWish) -> str:
    """How the disks are to be converted: live or offline. Raises DiskError where it cannot be as the task wants it."""
    if wish.mode == "offline" or (wish.mode == "auto" and not state.active):
        if wish.block_device:
            raise DiskError(
                f"{state.name}: a disk is only copied to a block device while its guest runs: start the domain, "
                "and set mode to live",
                state=state.state,
            )
        require_stoppable(state, wish)
        return "offline"
    if not state.active:
        raise DiskError(
            f"{state.name}: is {state.state}, and mode is live, which only copies below a running guest: "
            "start the domain, or set mode to auto or offline",
            state=state.state,
        )
    if state.state not in ("running", "paused"):
        raise DiskError(
            f"{state.name}: is {state.state}: its disks cannot be copied now: wait, or resume it", state=state.state
        )
    if wish.layout.format not in LIVE_FORMATS:
        raise InvalidRequest(
            f"format: {wish.layout.format} images are not made below a running guest, only {', '.join(LIVE_FORMATS)}: "
            f"set mode to offline, which shuts {state.name} down"
        )
    if wish.compress:
        raise InvalidRequest(
            "compress: what is copied below a running guest cannot be compressed: leave it out, "
            f"or set mode to offline, which shuts {state.name} down"
        )
    if wish.layout.format == "raw" and wish.layout.preallocation == "full":
        raise InvalidRequest(
            "preallocation: the zeros of a raw image cannot be written below a running guest: use falloc "
            f"(lazy_zeroed_thick), or set mode to offline, which shuts {state.name} down"
        )
    return "live"


def way_to_fit(wish: ConvertWish) -> str:
    """What to do where the domain could not open a raw image of the disk's size."""
    if wish.align_size:  # a copy below a guest has the size that the guest sees
        return "grow the disk to that size first (kvmops.disk.vm_disk_resize), or set method=offline"
    return "grow the disk to that size first (kvmops.disk.vm_disk_resize), or set align_size=true and method=offline"


def require_convertible(state: DomainState, conversions: t.Sequence[Conversion], jobs: t.Sequence[str]) -> None:
    """Raises DiskError where the domain, or a disk of it, is in no state to be converted; *jobs* are its block jobs."""
    _ready.require_ready(state, jobs, "a conversion", "which would resume on the old disk")
    for conversion in conversions:
        _ready.require_plain_disk(state, conversion.disk, "convert", devices=True)


def require_stoppable(state: DomainState, wish: ConvertWish) -> None:
    """Raises DiskError where the domain would have to go off for the conversion, and may or can not."""
    if not state.active or wish.shutdown == "force":
        return
    if wish.shutdown == "never":
        raise DiskError(
            f"{state.name}: is {state.state}, and shutdown is never: shut it down first, "
            "or set shutdown to graceful or force",
            state=state.state,
        )
    if state.state != "running":
        raise DiskError(
            f"{state.name}: is {state.state}, so its guest cannot shut down: resume it, or set shutdown to force",
            state=state.state,
        )


def require_convertible_device(item: Conversion, wish: ConvertWish) -> None:
    """Raises InvalidRequest where the source is a block device, and would be removed, or says where the new image is to
    be."""
    if wish.dest is None and wish.dest_dir is None:
        raise InvalidRequest(
            f"{item.target}: is on the block device {item.source}, beside which is no place for an image: give dest or "
            "dest_dir",
            path=item.source,
        )
    if not wish.keep_source:
        raise InvalidRequest(
            f"keep_source: {item.source} is a block device, which is never removed: leave keep_source out, and remove "
            "it (lvremove, ...) when it is not needed any more",
            path=item.source,
        )


def require_convertible_image(conversion: Conversion, image: Image, keep_source: bool) -> None:
    """Raises DiskError where converting the image would lose something that it holds."""
    if image.encrypted or conversion.disk.element.encrypted:
        raise DiskError(
            f"{image.path}: is encrypted: the new image would hold its content unencrypted: not converted",
            path=image.path,
        )
    if image.corrupt:
        raise UnsafeImage(f"{image.path}: is marked corrupt: check and repair it first", path=image.path)
    if image.snapshots and not keep_source:
        names = [snapshot.name for snapshot in image.snapshots]
        raise DiskError(
            f"{image.path}: holds {len(names)} internal snapshot(s) ({', '.join(names)}), "
            "which the new image would not have: keep the source, or delete them",
            snapshots=names,
        )


def require_fitting_device(item: Conversion, wish: ConvertWish, needed: int, size: int, available: int) -> None:
    """Raises NotEnoughSpace or DiskError where a device of *available* bytes cannot hold a disk of *size* bytes.

    *needed* is what qcow2 would take now. A raw disk is as long as its device, and a copy to a longer one is none that
    QEMU ends well (HAZARDS G6).
    """
    if wish.layout.format == "raw" and available != size:
        raise DiskError(
            f"{item.dest}: has {available} bytes, {item.target} has {size}: as raw both must have the same size: "
            "resize one of them, or choose format=qcow2 for a larger device",
            required_bytes=size,
            available_bytes=available,
        )
    if needed > available:
        raise NotEnoughSpace(
            f"{item.dest}: has {available} bytes, and {item.target} needs {needed}: choose a larger device",
            required_bytes=needed,
            available_bytes=available,
        )


def require_free_destinations(
    conversions: t.Sequence[Conversion], places: t.Mapping[str, Place], *, block_device: bool
) -> None:
    """Raises InvalidRequest or DiskError where a destination is taken, or asked for twice, or is none of the kind that
    is meant. *places* is what was found there, by target."""
    seen: set[str] = set()
    for conversion in conversions:
        dest, place = conversion.dest, places[conversion.target]
        if place.is_source:
            raise InvalidRequest(
                f"{conversion.target}: source and destination are the same file, {dest}: give another dest"
            )
        if place.file in seen:
            raise InvalidRequest(
                f"dest_dir: two disks would become {dest}: convert them one by one, each with its dest"
            )
        seen.add(place.file)
        _require_meant(dest, place, block_device)
        if place.exists and not block_device:
            raise DiskError(f"{dest}: exists already: it is left alone: remove it, or choose another dest", path=dest)


def _require_meant(dest: str, place: Place, block_device: bool) -> None:
    """Raises InvalidRequest where the destination is a block device and none is meant, or the other way round."""
    if place.is_block_device and not block_device:
        raise InvalidRequest(
            f"{dest}: is a block device, whose content would be overwritten: set block_device=true if that is meant",
            path=dest,
        )
    if block_device and not place.is_block_device:
        raise InvalidRequest(
            f"{dest}: asked for a block device, and is something else: leave block_device out", path=dest
        )
