# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The decision whether an image is to be made of another one, and what stands in the way. Pure."""

from __future__ import annotations

import os
import typing as t
from dataclasses import dataclass

from ansible_collections.kvmops.disk.plugins.module_utils._content.transcode import Recipe
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, InvalidRequest, UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._formats.qcow2 import Snapshot
from ansible_collections.kvmops.disk.plugins.module_utils._image.creation import bytes_needed, require_usable_base
from ansible_collections.kvmops.disk.plugins.module_utils._image.encryption import (
    HEADER_BYTES,
    require_provable,
)
from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
from ansible_collections.kvmops.disk.plugins.module_utils._image.trust import require_not_corrupt
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_convert.wish import ImageConvertWish
from ansible_collections.kvmops.disk.plugins.module_utils._size import exact_size

#: When a destination that exists is made anew.
UPDATES = ("missing", "changed", "always")


@dataclass(frozen=True)
class Observed:
    """What a conversion starts from: the source and what is below it, top first, and the same of the backing file."""

    source: tuple[Image, ...]
    base: tuple[Image, ...] = ()
    snapshot: Snapshot | None = None

    @property
    def size(self) -> int:
        """The virtual size of the disk to be made."""
        return self.snapshot.virtual_size if self.snapshot else self.source[0].virtual_size

    @property
    def reads_base(self) -> bool:
        """Whether the source reads the wanted backing file itself, and not by another file in between.

        One that is encrypted counts as another: ``convert -B`` cannot be given its secret.
        """
        below = self.source[0].backing_file
        if not self.base or below is None or any(image.encrypted for image in self.base):
            return False
        return os.path.realpath(below) == os.path.realpath(self.base[0].path)

    @property
    def encrypted(self) -> bool:
        """Whether something that is read is encrypted."""
        return any(image.encrypted for image in self.source)


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
    if wish.keep_bitmaps and source.compat == "0.10":
        raise InvalidRequest(f"keep_bitmaps: {source.path} is of compat 0.10, which has no bitmaps: leave it out")
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


def visible_difference(wish: ImageConvertWish, found: Observed, dest: Image) -> str | None:
    """What tells the destination from the wanted image before any content is read; None where nothing does."""
    if dest.virtual_size != found.size:
        return f"has {exact_size(dest.virtual_size)}, its source {exact_size(found.size)}"
    wanted = found.base[0].path if found.base else None
    if _real(dest.backing_file) != _real(wanted):
        return f"has the backing file {dest.backing_file or 'none'}, asked for {wanted or 'none'}"
    if dest.corrupt:
        return "is marked corrupt"
    if wish.encryption is None:
        return None
    if dest.encryption is None:
        return "is not encrypted"
    different = wish.encryption.differences(dest.encryption)
    return f"is encrypted with another {', '.join(sorted(different))}" if different else None


def require_kept(wish: ImageConvertWish, dest: Image) -> None:
    """Raises UnsafeImage where the image that is to be left alone is in the clear, and is not to be."""
    if wish.encryption is not None and not dest.encrypted:
        raise UnsafeImage(
            f"{dest.path}: is not encrypted, asked for encryption, and for update={wish.update}, which leaves it "
            "alone: set update to changed to replace it",
            path=dest.path,
            differences=["encryption"],
        )


def recipe(wish: ImageConvertWish, found: Observed) -> Recipe:
    """What is to be made of what."""
    return Recipe(
        source=wish.src,
        source_format=wish.src_format,
        layout=wish.layout,
        snapshot=(found.snapshot.id, found.snapshot.name) if found.snapshot else None,
        base=(found.base[0].path, found.base[0].format) if found.base else None,
        reads_base=found.reads_base,
        compress=wish.compress,
        bitmaps=wish.keep_bitmaps,
        rate=wish.rate,
        verify=wish.verify,
        encryption=wish.encryption,
    )


def space(wish: ImageConvertWish, found: Observed, estimate: int) -> int:
    """The bytes that the new image takes at once; *estimate* is what qcow2 would need.

    What looks like zeros when it is decrypted has to be written, unless the tables say that it is nothing.
    """
    needed = bytes_needed(wish.layout, found.size, estimate)
    if wish.encryption is None:
        return needed
    whole = wish.layout.format == "luks" or wish.layout.preallocation not in (None, "off")
    return max(needed, found.size if whole else 0) + HEADER_BYTES


def predicted(wish: ImageConvertWish, found: Observed) -> Image:
    """The new image as far as it is known before it is made; it will occupy about what its source does."""
    base = found.base[0] if found.base else None
    return Image(
        wish.dest,
        wish.layout.format,
        found.size,
        found.source[0].actual_size,
        backing_file=base.path if base else None,
        backing_format=base.format if base else None,
        encrypted=wish.encryption is not None,
        **wish.layout.choices(),
    )


def facts(image: Image) -> dict[str, t.Any]:
    """What a diff shows of a destination."""
    shown = {"path": image.path, "state": "present", "format": image.format, "virtual_size": image.virtual_size}
    below = {"backing_file": image.backing_file, "backing_format": image.backing_format}
    encrypted = {"encrypted": True} if image.encrypted else {}
    return {**shown, **(below if image.backing_file else {}), **encrypted}


def summary(wish: ImageConvertWish, found: Observed, reason: str | None) -> str:
    """The conversion in a line; *reason* is why the image that is there does not do."""
    at = f" at its snapshot {found.snapshot.name}" if found.snapshot else ""
    over = f" over {found.base[0].path}" if found.base else ""
    way = "compressed " if wish.compress else "encrypted " if wish.encryption else ""
    kind = f"{way}{wish.layout.format}"
    instead = f", in place of the one that {reason}" if reason else ""
    origin = f"encrypted {wish.src_format}" if found.encrypted else wish.src_format
    return f"convert {wish.src} ({origin}){at} to {wish.dest} ({kind}){over}{instead}"


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
    if os.path.realpath(wish.dest) in {os.path.realpath(image.path) for image in found.base}:
        raise InvalidRequest(f"dest: {wish.dest} is below the backing file {base.path}: give another dest")
    if wish.remove_src and os.path.realpath(wish.src) in {os.path.realpath(image.path) for image in found.base}:
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
    for name, given in (("snapshot", wish.snapshot), ("keep_bitmaps", wish.keep_bitmaps), ("rate_limit", wish.rate)):
        if given:
            raise InvalidRequest(
                f"{name}: only works with an unencrypted backing_file that {wish.src} reads: for another one only "
                f"the differences are copied: leave out {name} or backing_file"
            )


def _real(path: str | None) -> str | None:
    return os.path.realpath(path) if path is not None else None
