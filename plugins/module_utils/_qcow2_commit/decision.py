# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The decision to merge an overlay into an image below it, and what becomes of the overlay. Pure, but for its steps."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, replace
from functools import partial

from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, InvalidRequest, UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._formats.bitmaps import Bitmap
from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
from ansible_collections.kvmops.disk.plugins.module_utils._image.layout import FORMATS, RESIZABLE_FORMATS, Layout
from ansible_collections.kvmops.disk.plugins.module_utils._image.trust import require_writable_alone
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan, Step
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_commit.wish import CommitWish
from ansible_collections.kvmops.disk.plugins.module_utils._ranges import Ranges, length, overlap, united
from ansible_collections.kvmops.disk.plugins.module_utils._size import exact_size

#: The formats of overlays that qemu-img merges, and whose headers say the format of what they read.
OVERLAYS = ("qcow2", "qed")
#: The formats of images that it merges into: those that QEMU can open anew for writing.
BASE_FORMATS = tuple(name for name in FORMATS if name != "parallels")
#: What can become of an overlay.
ENDS = ("keep", "empty", "remove")


@dataclass(frozen=True)
class Observed:
    """The chain from the overlay down to the base; the base is the last of *images*.

    *held*: the ranges of the disk, in bytes, that the images above the base hold; *differs*: whether the base has other
    content there, as far as that is known.
    """

    images: tuple[Image, ...]
    held: Ranges
    differs: bool = True

    @property
    def overlay(self) -> Image:
        return self.images[0]

    @property
    def base(self) -> Image:
        return self.images[-1]

    @property
    def between(self) -> tuple[Image, ...]:
        return self.images[1:-1]

    @property
    def is_merged(self) -> bool:
        """Whether the base, by itself, is the disk that the overlay shows."""
        has_all = not self.held or not self.differs
        return has_all and self.base.virtual_size >= self.overlay.virtual_size


@dataclass(frozen=True)
class Deeds:
    """How it is done: the merge with its proof, the overlay emptied or that withdrawn, a file removed."""

    merge: t.Callable[[], None]
    empty: t.Callable[[], None]
    withdraw: t.Callable[[], None]
    remove: t.Callable[[str], None]


def depth_of_base(wish: CommitWish, chain: t.Sequence[Image], same: t.Callable[[str, str], bool]) -> int:
    """The place of the base in *chain*, whose first is the overlay; *same* tells whether two names mean one file.

    Raises DiskError where there is no backing file, or none that the task means.
    """
    below = chain[1:]
    if not below:
        raise DiskError(f"{wish.path}: has no backing file, so that there is nothing to merge it into", path=wish.path)
    depth = 1
    if wish.base is not None:
        found = [number for number, image in enumerate(chain) if number and same(image.path, wish.base)]
        if not found:
            shown = ", ".join(image.path for image in below)
            raise InvalidRequest(
                f"base: {wish.base} is not below {wish.path}, which reads {shown}: name one of these",
                backing_chain=[image.path for image in below],
            )
        depth = found[0]
    base = chain[depth]
    if wish.base_format is not None and wish.base_format != base.format:
        raise UnsafeImage(
            f"{base.path}: asked for {wish.base_format}, but {chain[depth - 1].path} reads it as {base.format}: name "
            "the right format",
            path=base.path,
            format=base.format,
        )
    return depth


def require_readable(images: t.Iterable[Image]) -> None:
    """Raises where qemu-img cannot read one of *images* as it is, or would follow what the task does not name."""
    for image in images:
        require_writable_alone(replace(image, dirty=False))


def require_mergeable(observed: Observed) -> None:
    """Raises where QEMU could not merge the images, or where the base would not be the disk that the overlay shows."""
    for above, below in zip(observed.images, observed.images[1:]):
        if above.virtual_size < below.virtual_size:
            raise UnsafeImage(
                f"{above.path}: has {exact_size(above.virtual_size)}, less than its backing file {below.path} with "
                f"{exact_size(below.virtual_size)}: it cuts the disk off, which a merge would undo: grow it to "
                "the same size first",
                path=above.path,
                virtual_size=above.virtual_size,
            )
    _require_kept_secret(observed)
    base, size = observed.base, observed.overlay.virtual_size
    if base.format not in BASE_FORMATS:
        raise DiskError(f"{base.path}: QEMU merges nothing into a {base.format} image: convert it", path=base.path)
    if base.virtual_size < size:
        _require_growable(base, size)


def _require_kept_secret(observed: Observed) -> None:
    """Raises where the merge would store in the clear what is encrypted, or where QEMU would not find the base."""
    above, base = observed.images[:-1], observed.base
    for image in above:
        if image.encrypted and not base.encrypted:
            raise UnsafeImage(
                f"{image.path}: is encrypted, and its base {base.path} is not, which would hold its content in the "
                "clear: convert the overlay into a new image with kvmops.disk.qcow2_convert instead (decrypt=true "
                "where that is meant)",
                path=image.path,
            )
    if observed.between and any(image.encrypted for image in observed.images):
        raise DiskError(
            f"{base.path}: QEMU does not find a base by its name where secrets open the images above it: merge into "
            f"the backing file, {observed.between[0].path}, first, and then on from there",
            path=base.path,
            backing_chain=[image.path for image in observed.images[1:]],
        )


def require_endable(wish: CommitWish, overlay: Image, bitmaps: t.Sequence[Bitmap]) -> None:
    """Raises DiskError where emptying or removing the overlay would lose more than what the base then has."""
    if wish.end == "keep":
        return
    keys = len(overlay.encryption.taken_slots) if overlay.encryption else 1
    if wish.end == "empty" and keys > 1:
        raise DiskError(
            f"{overlay.path}: {keys} keys open it, and an empty image in its place would have just the one that the "
            "task gives: set overlay to keep, or to remove, or remove the other keys first (kvmops.disk.qcow2_image)",
            path=overlay.path,
        )
    keep = ", or set overlay to keep"
    require_no_snapshots(overlay, f"delete them first{keep}")
    require_no_bitmaps(
        overlay,
        bitmaps,
        f"merge them into those of the base, or remove them, with kvmops.disk.qcow2_bitmap{keep}",
    )


def require_no_snapshots(overlay: Image, way_out: str) -> None:
    """Raises DiskError where the overlay, which is to go, holds internal snapshots."""
    _require_none(overlay, "internal snapshot(s)", [snapshot.name for snapshot in overlay.snapshots], way_out)


def require_no_bitmaps(overlay: Image, bitmaps: t.Sequence[Bitmap], way_out: str) -> None:
    """Raises DiskError where the overlay, which is to go, holds dirty *bitmaps*, which qemu-img leaves behind."""
    _require_none(overlay, "dirty bitmap(s)", [bitmap.text for bitmap in bitmaps], way_out)


def _require_none(overlay: Image, what: str, names: t.Sequence[str], way_out: str) -> None:
    if names:
        raise DiskError(
            f"{overlay.path}: holds {len(names)} {what} ({', '.join(names)}), which would be gone with it: {way_out}",
            path=overlay.path,
        )


def bytes_needed(base: Image, size: int, held: Ranges, in_base: Ranges) -> int:
    """What *base* may have to take more, at most, where the ranges *held* of a disk of *size* bytes are merged into it;
    *in_base* are the ranges of data that it holds already."""
    size = max(base.virtual_size, size)
    cluster = base.cluster_size or 1
    aligned = united([(start // cluster * cluster, min(-(-end // cluster) * cluster, size)) for start, end in held])
    new = length(aligned) - (0 if base.snapshots else overlap(aligned, in_base))
    if base.format == "raw":
        return min(new, max(0, size - base.actual_size))
    clusters = -(-new // cluster)
    tables = -(-clusters * (8 + (base.refcount_bits or 0) // 8) // cluster) + 3 if clusters else 0
    return new + tables * cluster


def plan_commit(wish: CommitWish, observed: Observed, deeds: Deeds) -> Plan:
    """The plan that merges the overlay and deals with it; empty where that is done."""
    overlay, base = observed.overlay, observed.base
    steps = []
    if not observed.is_merged:
        steps.append(Step(_summary(observed), deeds.merge))
    if wish.end == "empty" and (observed.held or steps):
        steps.append(Step(f"empty {overlay.path}", deeds.empty, deeds.withdraw))
    gone = removed(wish, observed)
    steps += [Step(f"remove {path}", partial(deeds.remove, path)) for path in gone]
    before = {
        "base": base.path,
        "virtual_size": base.virtual_size,
        "unmerged_bytes": 0 if observed.is_merged and wish.end == "keep" else length(observed.held),
        "overlay": "present",
    }
    size = max(base.virtual_size, overlay.virtual_size)
    after = {**before, "virtual_size": size, "unmerged_bytes": 0, "overlay": "absent" if gone else "present"}
    return Plan(before, after, tuple(steps))


def removed(wish: CommitWish, observed: Observed) -> list[str]:
    """The files that go, the overlay first: each is whole as long as those below it are there."""
    return [image.path for image in observed.images[:-1]] if wish.end == "remove" else []


def invalid(wish: CommitWish, observed: Observed) -> list[str]:
    """The images between that are left, and are no disk of their own any more: what they read was written to."""
    return [] if observed.is_merged or wish.end == "remove" else [image.path for image in observed.between]


def empty_layout(overlay: Image) -> Layout:
    """The layout of an empty image in the place of *overlay*, a qcow2 image."""
    return Layout("qcow2").amended(overlay)


def _summary(observed: Observed) -> str:
    overlay, base, between = observed.overlay, observed.base, observed.between
    also = f", with {', '.join(image.path for image in between)}," if between else ""
    grown = ""
    if base.virtual_size < overlay.virtual_size:
        grown = f", which grows from {exact_size(base.virtual_size)} to {exact_size(overlay.virtual_size)}"
    return f"merge {overlay.path}{also} into {base.path}{grown}"


def _require_growable(base: Image, size: int) -> None:
    found, asked = exact_size(base.virtual_size), exact_size(size)
    if base.format not in RESIZABLE_FORMATS:
        raise DiskError(
            f"{base.path}: has {found}, its overlay {asked}: {base.format} images cannot be grown: convert it into a "
            f"new image ({' or '.join(RESIZABLE_FORMATS)})",
            virtual_size=base.virtual_size,
        )
    if base.snapshots and base.compat == "0.10":
        raise DiskError(
            f"{base.path}: has {found}, its overlay {asked}: an image of compat 0.10 with {len(base.snapshots)} "
            "snapshot(s) cannot be grown: bring it to compat 1.1 with kvmops.disk.qcow2_image, or delete the snapshots",
            snapshots=[snapshot.name for snapshot in base.snapshots],
        )
