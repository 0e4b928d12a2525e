# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The decision which disks of a domain are to be made independent, of what, and what stands in the way. Pure."""

from __future__ import annotations

import os
import typing as t
from dataclasses import dataclass, replace

from ansible_collections.kvmops.disk.plugins.module_utils._domain import disk_chain as _disk_chain
from ansible_collections.kvmops.disk.plugins.module_utils._domain import ready as _ready
from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainDisk, DomainState
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, InvalidRequest, UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
from ansible_collections.kvmops.disk.plugins.module_utils._image.layout import REBASEABLE_FORMATS, Layout
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten.wish import FlattenWish
from ansible_collections.kvmops.disk.plugins.module_utils._xml.disks import ChainLink
from ansible_collections.kvmops.disk.plugins.module_utils._xml.records import Record, RecordedDisk, now


@dataclass(frozen=True)
class Flattening:
    """One disk with its images, its own first, of which those before number *keep* are to become one."""

    disk: DomainDisk
    images: tuple[Image, ...]
    keep: int

    @property
    def target(self) -> str:
        return self.disk.target

    @property
    def path(self) -> str:
        return self.images[0].path

    @property
    def file(self) -> str:
        """The file itself, where *path* is a link to it."""
        return os.path.realpath(self.path)

    @property
    def image(self) -> Image:
        return self.images[0]

    @property
    def merged(self) -> tuple[Image, ...]:
        """The backing files that the image is to be independent of."""
        return self.images[1 : self.keep]

    @property
    def base(self) -> Image | None:
        """The backing file that the image is to have."""
        return self.images[self.keep] if self.keep < len(self.images) else None

    @property
    def named_base(self) -> ChainLink | None:
        """The same as libvirt's XML names it; None where there is none, or the XML says nothing of backing files."""
        return (self.disk.chain or ())[self.keep - 1] if self.base and self.disk.chain else None

    def __str__(self) -> str:
        what = ", ".join(image.path for image in self.merged)
        return f"{what} into {self.path} ({self.target})" + (f", down to {self.base.path}" if self.base else "")


def select(state: DomainState, wish: FlattenWish) -> list[DomainDisk]:
    """The disks that the task means.

    Raises InvalidRequest for one that the domain does not have, DiskError for one that is no disk or has no image.
    """
    meant: list[DomainDisk] = []
    for wanted in wish.disks:
        disk = state.disk(wanted)
        if disk is None:
            raise state.no_such_disk(wanted)
        if disk.element.device != "disk" or disk.path is None:
            _ready.require_plain_disk(state.name, disk, "flatten")
        if disk not in meant:
            meant.append(disk)
    return meant


def position(state: DomainState, disk: DomainDisk, images: t.Sequence[Image], base: str | None) -> int:
    """The number of *base* among *images*, the disk's own first; that behind the last where it is None.

    Raises InvalidRequest where it is not below the disk's image. A disk without backing files has none too many.
    """
    if base is None or len(images) == 1:
        return len(images)
    wanted = os.path.realpath(base)
    for number, image in enumerate(images):
        if number and os.path.realpath(image.path) == wanted:
            return number
    chain = [image.path for image in images]
    raise InvalidRequest(
        f"{state.name}: {disk.target}: base: {base} is not below its image: the chain is {' -> '.join(chain)}: "
        "name one of the backing files, or leave base out",
        backing_chain=chain,
    )


def is_granted(item: Flattening) -> bool:
    """Whether the image has what the task wants below it: then there is nothing between the two."""
    return not item.merged


def way(state: DomainState, wish: FlattenWish) -> str:
    """How the disks are to be flattened: live or offline. Raises DiskError where it cannot be as the task wants it."""
    if not state.active:
        if wish.mode == "live":
            raise DiskError(
                f"{state.name}: is {state.state}, and mode is live, which only pulls below a running guest: "
                "start the domain, or set mode to auto or offline",
                state=state.state,
            )
        return "offline"
    if wish.mode == "offline":
        raise DiskError(
            f"{state.name}: is {state.state}, and mode is offline: shut it down first, or set mode to auto, "
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
        _ready.require_plain_disk(state.name, item.disk, "flatten")
        _disk_chain.require_same_chain(state, item.disk, item.images)
        if item.disk.element.sliced:
            raise DiskError(f"{state.name}: {item.target}: is a slice of {item.path}: not flattened", path=item.path)
        _require_flattenable_image(item)


def require_no_bitmaps(item: Flattening, bitmaps: t.Sequence[str]) -> None:
    """Raises DiskError where a new image in the place of the old one would lose its dirty *bitmaps*."""
    if bitmaps:
        raise DiskError(
            f"{item.path}: holds {len(bitmaps)} dirty bitmap(s) ({', '.join(bitmaps)}), which a new image in its place "
            "would not have: remove them, or flatten the disk while the domain runs, which keeps them",
            path=item.path,
            bitmaps=list(bitmaps),
        )


def layout(image: Image) -> Layout:
    """The layout that a new image in the place of *image* is to have."""
    if image.format != "qcow2":
        return Layout(image.format)
    return Layout(
        "qcow2",
        cluster_size=image.cluster_size,
        compat=image.compat,
        refcount_bits=image.refcount_bits,
        lazy_refcounts=image.lazy_refcounts or None,
        extended_l2=image.extended_l2 or None,
        compression_type=image.compression_type if image.compression_type != "zlib" else None,
    )


def most_bytes(item: Flattening, measured: int) -> int:
    """What the image occupies at most afterwards: *measured* for its whole content, or what is really merged."""
    if item.base is None:
        return measured
    return min(measured, sum(image.actual_size for image in (item.image, *item.merged)))


def predicted(item: Flattening) -> tuple[Image, ...]:
    """The images of the disk afterwards, as far as they are known before; its own will grow."""
    base = item.base
    top = replace(item.image, backing_file=base.path if base else None, backing_format=base.format if base else None)
    return (top, *item.images[item.keep :])


def record(state: DomainState, mode: str, run: str | None, items: t.Sequence[Flattening]) -> Record:
    """What the domain's metadata is to say of what is in flight; *run*: libvirt's number of the running domain."""
    return Record(
        verb="flatten",
        mode=mode,
        started=now(),
        was_running=state.active,
        remove_source=False,
        disks=tuple(recorded(item) for item in items),
        run=run,
    )


def recorded(item: Flattening) -> RecordedDisk:
    """One disk as the domain's metadata records it."""
    image, below = item.image, item.images[1]
    return RecordedDisk(
        *(item.target, image.path, image.format, image.path, image.format),
        base=item.base.path if item.base else None,
        below=below.path,
        below_format=below.format,
    )


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


def require_base(item: Flattening, image: Image) -> None:
    """Raises DiskError where *image*, which is flattened, names another backing file than it is to have."""
    wanted = os.path.realpath(item.base.path) if item.base else None
    found = os.path.realpath(image.backing_file) if image.backing_file else None
    if found != wanted:
        raise DiskError(
            f"{item.path}: has the backing file {found or 'none'} after it was flattened, wanted {wanted or 'none'}: "
            "see what has become of it with vm_disk_info",
            path=item.path,
        )


def require_alike(item: Flattening, image: Image) -> None:
    """Raises DiskError where *image*, the new one, is not laid out like the old one."""
    require_base(item, image)
    for name in ("virtual_size", "cluster_size", "compat", "refcount_bits", "extended_l2", "compression_type"):
        old, new = getattr(item.image, name), getattr(image, name)
        if old != new:
            raise DiskError(
                f"{item.path}: the new image has {name} {new}, the old one {old}: it was removed, "
                "and the old one is as it was",
                path=item.path,
            )
