# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What stands in the way of a conversion: what would be lost by it, or could not be what is asked for."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, InvalidRequest, UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._image.choices import KEEP_REQUIRED
from ansible_collections.kvmops.disk.plugins.module_utils._image.creation import require_usable_base
from ansible_collections.kvmops.disk.plugins.module_utils._image.encryption import require_provable
from ansible_collections.kvmops.disk.plugins.module_utils._image.trust import require_not_corrupt
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_convert.decision_image import carried
from ansible_collections.kvmops.disk.plugins.module_utils._size import exact_size

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._formats.snapshots import Snapshot
    from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
    from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_convert.decision_image import Observed
    from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_convert.wish import ImageConvertWish


def find_snapshot(image: Image, name: str) -> Snapshot:
    """The snapshot of *image* with just that name. Raises DiskError without one, or with several (HAZARDS E1)."""
    found = [snapshot for snapshot in image.snapshots if snapshot.name == name]
    if len(found) == 1:
        return found[0]
    names = [snapshot.name for snapshot in image.snapshots]
    if not found:
        raise DiskError(f"{image.path}: has no snapshot {name!r}: it has {', '.join(names) or 'none'}", snapshots=names)
    raise DiskError(
        f"{image.path}: has {len(found)} snapshots named {name!r}: it is unclear which one is meant: rename or "
        "delete the others",
        snapshots=names,
    )


def require_readable_device(wish: ImageConvertWish) -> None:
    """Raises InvalidRequest where the source is a block device, and is to be removed."""
    if wish.remove_src:
        raise InvalidRequest(
            f"remove_src: {wish.src} is a block device, which is never removed: leave remove_src out, and remove it "
            "(lvremove, ...) when it is not needed any more",
            path=wish.src,
        )


def require_decryptable(wish: ImageConvertWish, images: t.Iterable[Image]) -> None:
    """Raises UnsafeImage where one of *images* is encrypted, and cannot be read, or may not be stored in the clear."""
    for image in images:
        if not image.encrypted:
            continue
        require_provable(image)
        missing = [
            *(["src_encryption with its secret"] if wish.openers is None else []),
            *(["decrypt=true"] if not (wish.decrypt or wish.encryption) else []),
        ]
        clear = "" if wish.encryption else ", and the new image would hold its content unencrypted"
        meant = "" if wish.encryption else " if that is meant, or encryption to encrypt it, too"
        if missing:
            raise UnsafeImage(
                f"{image.path}: is encrypted{clear}: set {' and '.join(missing)}{meant}",
                path=image.path,
            )


def require_convertible(wish: ImageConvertWish, found: Observed) -> None:
    """Raises DiskError where the conversion would lose something, or could not be what is asked for."""
    source = found.source[0]
    require_not_corrupt(found.source)
    if found.snapshot:
        _require_fitting_snapshot(wish, source, found.snapshot)
    if source.snapshots and wish.remove_src:
        names = [snapshot.name for snapshot in source.snapshots]
        raise DiskError(
            f"{source.path}: holds {len(names)} internal snapshot(s) ({', '.join(names)}), "
            "which the new image would not have: keep the source (remove_src=false), or delete them",
            snapshots=names,
        )
    wish.layout.require_valid(size=found.size, overlay=bool(found.base))
    if wish.keep_bitmaps == KEEP_REQUIRED and source.compat == "0.10":
        raise InvalidRequest(f"keep_bitmaps: {source.path} is of compat 0.10, which has no bitmaps: leave it out")
    carried(wish, found)
    for image in found.base:
        require_usable_base(image, encrypted=wish.encryption is not None)
    if found.base:
        _require_fitting_base(wish, found, found.base[0])


def require_replaceable(wish: ImageConvertWish, dest: Image) -> None:
    """Raises DiskError where the image at the destination holds what a new one would not."""
    if dest.snapshots:
        names = [snapshot.name for snapshot in dest.snapshots]
        raise DiskError(
            f"{dest.path}: holds {len(names)} internal snapshot(s) ({', '.join(names)}), which would be lost: "
            "delete them first, or choose another dest",
            path=dest.path,
            snapshots=names,
        )
    if dest.encrypted and wish.encryption is None:
        raise UnsafeImage(f"{dest.path}: is encrypted, and the new image would not be: not replaced", path=dest.path)
    if dest.data_file is not None and not dest.extents:
        raise UnsafeImage(
            f"{dest.path}: keeps its data in another file, {dest.data_file}, which would be left behind: not replaced",
            path=dest.path,
        )


def _require_fitting_snapshot(wish: ImageConvertWish, source: Image, snapshot: Snapshot) -> None:
    """qemu-img reads a snapshot at the size that the image has now: the rest is cut off, or has to be."""
    sizes = f"has {exact_size(snapshot.virtual_size)}, and the image has {exact_size(source.virtual_size)} now"
    if snapshot.virtual_size > source.virtual_size:
        raise DiskError(
            f"{source.path}: the snapshot {snapshot.name} {sizes}: its end would be lost: grow the image to that size "
            "first",
            virtual_size=snapshot.virtual_size,
        )
    if snapshot.virtual_size < source.virtual_size and wish.layout.format not in ("raw", "qcow2"):
        raise InvalidRequest(
            f"format: {wish.layout.format} images cannot be shrunk, and the snapshot {snapshot.name} {sizes}: convert "
            "to qcow2 or raw first",
        )


def _require_fitting_base(wish: ImageConvertWish, found: Observed, base: Image) -> None:
    if found.size < base.virtual_size:
        raise InvalidRequest(
            f"{wish.src}: has {exact_size(found.size)}, but the backing file {base.path} has "
            f"{exact_size(base.virtual_size)}: a smaller overlay cuts off the end of the disk: choose another backing "
            "file",
            virtual_size=base.virtual_size,
        )
    below = [image.path for image in found.base]
    if any(found.names.same(wish.dest, one) for one in below):
        raise InvalidRequest(f"dest: {wish.dest} is below the backing file {base.path}: give another dest")
    if wish.remove_src and any(found.names.same(wish.src, one) for one in below):
        raise InvalidRequest(f"remove_src: {wish.src} is below the backing file {base.path}, which needs it: keep it")
    if found.reads_base:
        recorded = found.source[0].backing_format
        if recorded != base.format:
            raise UnsafeImage(
                f"{wish.src}: records format {recorded} for its backing file {base.path}, asked for {base.format}: one "
                "of them is wrong",
                path=wish.src,
            )
        return
    bitmaps = wish.keep_bitmaps == KEEP_REQUIRED
    for name, given in (("snapshot", wish.snapshot), ("keep_bitmaps", bitmaps), ("rate_limit", wish.rate)):
        if given:
            raise InvalidRequest(
                f"{name}: only works with an unencrypted backing_file that {wish.src} reads: for another one only "
                f"the differences are copied: leave out {name} or backing_file"
            )
