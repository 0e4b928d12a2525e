# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What can be merged into what, and what it takes."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass, replace
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._image.choices import FORMATS, RESIZABLE_FORMATS
from ansible_collections.kvmops.disk.plugins.module_utils._image.trust import require_writable_alone
from ansible_collections.kvmops.disk.plugins.module_utils._ranges import Ranges, length, overlap, united
from ansible_collections.kvmops.disk.plugins.module_utils._size import exact_size

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._formats.bitmaps import Bitmap
    from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image

#: The formats of images that it merges into: those that QEMU can open anew for writing.
BASE_FORMATS = tuple(name for name in FORMATS if name != "parallels")


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
        raise DiskError(f"{base.path}: QEMU cannot merge into a {base.format} image: convert it", path=base.path)
    if base.virtual_size < size:
        _require_growable(base, size)


def require_no_snapshots(overlay: Image, way_out: str) -> None:
    """Raises DiskError where the overlay, which is to go, holds internal snapshots."""
    _require_none(overlay, "internal snapshot(s)", [snapshot.name for snapshot in overlay.snapshots], way_out)


def require_no_bitmaps(overlay: Image, bitmaps: t.Sequence[Bitmap], way_out: str) -> None:
    """Raises DiskError where the overlay, which is to go, holds dirty *bitmaps*, which qemu-img leaves behind."""
    _require_none(overlay, "dirty bitmap(s)", [bitmap.text for bitmap in bitmaps], way_out)


def bytes_needed(base: Image, size: int, held: Ranges, in_base: Ranges) -> int:
    """What *base* may have to take more, at most, where the ranges *held* of a disk of *size* bytes are merged into it;
    *in_base* are the ranges of data that it holds already. One that is fully allocated stays so."""
    size = max(base.virtual_size, size)
    cluster = base.cluster_size or 1
    aligned = united([(start // cluster * cluster, min(-(-end // cluster) * cluster, size)) for start, end in held])
    new = length(aligned) - (0 if base.snapshots else overlap(aligned, in_base))
    if base.format == "raw":
        left = max(0, size - base.actual_size)
        return left if base.is_thick else min(new, left)
    clusters = -(-new // cluster)
    tables = -(-clusters * (8 + (base.refcount_bits or 0) // 8) // cluster) + 3 if clusters else 0
    return new + tables * cluster


def _require_kept_secret(observed: Observed) -> None:
    """Raises where the merge would store in the clear what is encrypted, or where QEMU would not find the base."""
    above, base = observed.images[:-1], observed.base
    for image in above:
        if image.encrypted and not base.encrypted:
            raise UnsafeImage(
                f"{image.path}: is encrypted, and its base {base.path} would hold its content unencrypted: convert "
                "the overlay into a new image with kvmops.disk.qcow2_convert instead (decrypt=true if that is "
                "meant)",
                path=image.path,
            )
    if observed.between and any(image.encrypted for image in observed.images):
        raise DiskError(
            f"{base.path}: QEMU cannot find a base by its name if secrets open the images above it: merge into the "
            f"backing file, {observed.between[0].path}, first, and then from there into the next one",
            path=base.path,
            backing_chain=[image.path for image in observed.images[1:]],
        )


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


def _require_none(overlay: Image, what: str, names: t.Sequence[str], way_out: str) -> None:
    if names:
        raise DiskError(
            f"{overlay.path}: holds {len(names)} {what} ({', '.join(names)}), which would be lost with it: {way_out}",
            path=overlay.path,
        )
