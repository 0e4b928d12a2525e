# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The decision which disks of a domain are to be converted, to where, and what stands in the way. Pure."""

from __future__ import annotations

import os
import typing as t
from dataclasses import dataclass

from ansible_collections.kvmops.disk.plugins.module_utils._domain import ready as _ready
from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainDisk, DomainState
from ansible_collections.kvmops.disk.plugins.module_utils._errors import (
    DiskError,
    InvalidRequest,
    NotEnoughSpace,
    UnsafeImage,
)
from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
from ansible_collections.kvmops.disk.plugins.module_utils._image.layout import (
    Layout,
)
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert.wish import LIVE_FORMATS, ConvertWish
from ansible_collections.kvmops.disk.plugins.module_utils._xml.disks import ChainLink, DiskChange, DiskElement
from ansible_collections.kvmops.disk.plugins.module_utils._xml.records import Record, RecordedDisk, now


@dataclass(frozen=True)
class Conversion:
    """One disk that is to be converted; *backing* is the backing file that the new image is to have, if any."""

    disk: DomainDisk
    source: str
    dest: str
    backing: ChainLink | None = None

    @property
    def target(self) -> str:
        return self.disk.target

    @property
    def source_format(self) -> str:
        return self.disk.format


def select(state: DomainState, wish: ConvertWish) -> tuple[list[DomainDisk], list[Conversion]]:
    """The disks that the task means, and those of them that are not yet as it wants.

    A disk may be named by the source that it had before its conversion: the domain then has the destination instead.
    Raises InvalidRequest for a disk that the domain does not have.
    """
    meant: list[DomainDisk] = []
    for wanted in wish.disks:
        disk = state.disk(wanted) or _converted_from(state, wish, wanted)
        if disk is None:
            raise state.no_such_disk(wanted)
        if disk not in meant:
            meant.append(disk)
    return meant, [_conversion(disk, wish) for disk in meant if not _is_granted(disk, wish)]


def require_convertible(state: DomainState, conversions: t.Sequence[Conversion], jobs: t.Sequence[str]) -> None:
    """Raises DiskError where the domain, or a disk of it, is in no state to be converted; *jobs* are its block jobs."""
    _ready.require_ready(state, jobs, "a conversion", "which would resume on the old disk")
    for conversion in conversions:
        _ready.require_plain_disk(state.name, conversion.disk, "convert")


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


def kept_backing(state: DomainState, item: Conversion, image: Image, layout: Layout) -> ChainLink:
    """The backing file that *image* has and the new image is to have (shallow).

    The domain's XML says its format, else the image, which is believed only where the task trusts it.
    """
    link = next((link for link in item.disk.chain or () if link.path == image.backing_file), None)
    backing_format = (link.format if link else None) or image.backing_format
    if backing_format is None:
        raise UnsafeImage(
            f"{image.path}: neither it nor the definition of {state.name} says the format of its backing file "
            f"{image.backing_file}: name it as backingStore in the definition",
            path=image.path,
        )
    layout.require_valid(overlay=True)
    return ChainLink(image.backing_file, backing_format)


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


def require_free_destinations(conversions: t.Sequence[Conversion], exists: t.Callable[[str], bool]) -> None:
    """Raises InvalidRequest or DiskError where a destination is taken, or asked for twice."""
    seen: set[str] = set()
    for conversion in conversions:
        dest = conversion.dest
        if os.path.realpath(dest) == os.path.realpath(conversion.source):
            raise InvalidRequest(
                f"{conversion.target}: source and destination are the same file, {dest}: give another dest"
            )
        if os.path.realpath(dest) in seen:
            raise InvalidRequest(
                f"dest_dir: two disks would become {dest}: convert them one by one, each with its dest"
            )
        seen.add(os.path.realpath(dest))
        if exists(dest):
            raise DiskError(f"{dest}: exists already: it is left alone: remove it, or choose another dest", path=dest)


def predicted(item: Conversion, source: Image, image_format: str) -> Image:
    """The new image as far as it is known before it is made; it will occupy about what its source does."""
    return Image(
        item.dest,
        image_format,
        source.virtual_size,
        source.actual_size,
        backing_file=item.backing.path if item.backing else None,
        backing_format=item.backing.format if item.backing else None,
    )


def record(mode: str, runs: bool, wish: ConvertWish, conversions: t.Sequence[Conversion]) -> Record:
    """What the domain's metadata is to say of conversions in flight; *runs*: the domain ran before."""
    return Record(
        verb="convert",
        mode=mode,
        started=now(),
        was_running=runs,
        remove_source=not wish.keep_source,
        disks=tuple(recorded(item, wish) for item in conversions),
    )


def recorded(item: Conversion, wish: ConvertWish) -> RecordedDisk:
    """One conversion as the domain's metadata records it: all that decides what the new image is like."""
    options = {name: value for name, value in wish.layout.options().items() if value != "off"}
    return RecordedDisk(
        *(item.target, item.source, item.source_format, item.dest, wish.layout.format),
        base=item.backing.path if item.backing else None,
        options=",".join(f"{name}={value}" for name, value in sorted(options.items())),
        block="yes" if wish.block_device else None,
    )


def change(item: Conversion, wish: ConvertWish) -> DiskChange:
    """What the definition is to say of a converted disk."""
    return DiskChange(
        item.target, item.dest, wish.layout.format, keeps_chain=item.backing is not None, block=wish.block_device
    )


def is_defined(state: DomainState, disk: RecordedDisk) -> bool:
    """Whether the domain's definition names the new image of a recorded conversion."""
    found = next((known.defined for known in state.disks if known.target == disk.target), None)
    return found is not None and (found.source, found.format) == (disk.dest, disk.format)


def is_live(state: DomainState, disk: RecordedDisk) -> bool:
    """Whether the running guest uses the new image of a recorded conversion."""
    found = _live(state, disk)
    return found is not None and found.source == disk.dest


def is_copied(state: DomainState, disk: RecordedDisk) -> bool:
    """Whether the block job of a recorded live conversion goes on."""
    found = _live(state, disk)
    return found is not None and found.mirror == disk.dest


def _live(state: DomainState, disk: RecordedDisk) -> DiskElement | None:
    return next((known.live for known in state.disks if known.target == disk.target), None)


def _converted_from(state: DomainState, wish: ConvertWish, wanted: str) -> DomainDisk | None:
    if not wanted.startswith("/"):
        return None
    disk = state.disk(wish.destination(wanted))
    return disk if disk is not None and _is_granted(disk, wish) else None


def _is_granted(disk: DomainDisk, wish: ConvertWish) -> bool:
    """Both what runs and what is defined are as wanted."""
    known: list[DiskElement] = [element for element in (disk.live, disk.defined) if element is not None]
    return disk.path is not None and all(
        wish.is_granted(disk.path if element is disk.element else element.source or "", element.format)
        for element in known
    )


def _conversion(disk: DomainDisk, wish: ConvertWish) -> Conversion:
    return Conversion(disk, disk.path or "", wish.destination(disk.path) if disk.path else "")
