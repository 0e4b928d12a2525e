# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The decision to give an image another backing file, or none, and what stands in the way.

What its guest sees stays: what it read from the old backing files, and would not read from the new one, is copied. Or,
where the task says that the two hold the same, only the reference is rewritten. Two files are one where their real
names are; nothing else is looked at.
"""

from __future__ import annotations

import os
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._content.rebase_wish import RebaseWish, is_same_file
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, InvalidRequest, UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._image.choices import REBASEABLE_FORMATS
from ansible_collections.kvmops.disk.plugins.module_utils._size import exact_size

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image


@dataclass(frozen=True)
class Rebase:
    """*image*, which reads *below*, top first, and is to read *base*, top first; nothing where that is empty.

    *rewrites*: only the reference changes, and *below* is not looked at.
    """

    image: Image
    base: tuple[Image, ...]
    below: tuple[Image, ...] = ()
    rewrites: bool = False

    @property
    def merged(self) -> tuple[Image, ...]:
        """The backing files that the image is to be independent of."""
        stays = {os.path.realpath(one.path) for one in self.base}
        return tuple(one for one in self.below if os.path.realpath(one.path) not in stays)

    @property
    def wanted(self) -> tuple[str, str] | None:
        """The new backing file and its format."""
        return (self.base[0].path, self.base[0].format) if self.base else None

    def __str__(self) -> str:
        old = _named(self.image.backing_file, self.image.backing_format)
        new = _named(*self.wanted) if self.wanted else "none"
        if self.rewrites:
            return f"rewrite the backing file in {self.image.path} from {old} to {new}"
        if not self.base:
            return f"flatten {self.image.path}, which reads {old}, in a new file"
        return f"rebase {self.image.path} from {old} to {new}, in a new file"


def rewrites(wish: RebaseWish, image: Image) -> bool:
    """Whether only the reference is to be written: the task says so, or the image merely lacks the format."""
    return wish.rebase == "unsafe" or (is_same_file(wish, image) and image.backing_format is None)


def require_vouched(wish: RebaseWish, image: Image) -> None:
    """Raises UnsafeImage where the content of a file would be copied into the image for which nobody answers.

    The image names the file, and whoever wrote the image may have named a foreign one (HAZARDS A7).
    """
    if image.backing_file is not None and not wish.trusted:
        raise UnsafeImage(
            f"{image.path}: reads the backing file {image.backing_file} (format "
            f"{image.backing_format or 'not recorded'}), whose content would be copied into it, and which the task "
            "does not name: set trusted=true if you know that it belongs there",
            path=image.path,
            backing_file=image.backing_file,
        )


def require_possible(wish: RebaseWish, found: Rebase) -> None:
    """Raises DiskError where the image would lose something by it, or would not be what it seems."""
    image = found.image
    if image.format not in REBASEABLE_FORMATS:
        raise DiskError(
            f"{image.path}: has the backing file {image.backing_file or 'none'}, asked for "
            f"{wish.backing_file or 'none'}: that of a {image.format} image cannot be changed, only that of "
            f"{' and '.join(REBASEABLE_FORMATS)} images: convert it into a new image (kvmops.disk.qcow2_convert)",
            differences=["backing_file"],
        )
    if image.format == "qed" and found.base and found.base[0].format != "raw":
        raise InvalidRequest(
            f"backing_format: a qed image cannot record that its backing file is {found.base[0].format}: only raw ones "
            "are offered for it"
        )
    _require_no_circle(found)
    _require_same_reading(found)
    size = wish.size or image.virtual_size
    if found.base and size < found.base[0].virtual_size:
        raise InvalidRequest(
            f"{image.path}: has {exact_size(size)}, but the new backing file {found.base[0].path} has "
            f"{exact_size(found.base[0].virtual_size)}: a smaller overlay cuts off the end of the disk: ask for that "
            "size as well",
            virtual_size=image.virtual_size,
        )
    if image.snapshots and not found.rewrites:
        names = [snapshot.name for snapshot in image.snapshots]
        raise DiskError(
            f"{image.path}: holds {len(names)} internal snapshot(s) ({', '.join(names)}), which read its backing files "
            "and would lose what is there: delete them first",
            path=image.path,
            snapshots=names,
        )
    for one in found.below:
        if one.corrupt:
            raise UnsafeImage(f"{one.path}: is marked corrupt: check and repair it first", path=one.path)
        if one.data_file is not None:
            raise UnsafeImage(
                f"{one.path}: keeps its data in another file, {one.data_file}, which the task does not name: not "
                "followed",
                path=one.path,
            )
        if one.encrypted and not image.encrypted:
            raise UnsafeImage(
                f"{one.path}: is encrypted, and its content would be stored unencrypted in {image.path}: not done",
                path=one.path,
            )


def bytes_needed(found: Rebase, measured: int) -> int:
    """What a new file in the place of the image occupies at most.

    *measured* is what qcow2 needs for all that a guest sees. A copy of the image comes to it what it reads from the
    files that it is to be independent of; an image of compat 0.10 also gets zeros for what only the new ones hold.
    """
    zeros = sum(one.actual_size for one in found.base) if found.image.compat == "0.10" else 0
    return found.image.actual_size + min(measured, sum(one.actual_size for one in found.merged)) + zeros


def facts_before(found: Rebase) -> dict[str, t.Any]:
    return {"backing_file": found.image.backing_file, "backing_format": found.image.backing_format}


def facts_after(found: Rebase) -> dict[str, t.Any]:
    path, image_format = found.wanted or (None, None)
    return {"backing_file": path, "backing_format": image_format}


def _require_no_circle(found: Rebase) -> None:
    own = os.path.realpath(found.image.path)
    if own in {os.path.realpath(one.path) for one in found.base}:
        raise InvalidRequest(
            f"backing_file: {found.base[0].path} reads {found.image.path} itself, and would run in a circle: name "
            "another one",
            backing_file=found.base[0].path,
        )


def _require_same_reading(found: Rebase) -> None:
    """QEMU takes a new backing file that is in the chain already as it is read there, whatever its format is said to
    be, and would copy nothing."""
    if found.rewrites:
        return
    formats = {os.path.realpath(one.path): one.format for one in found.base}
    for one in found.below:
        asked = formats.get(os.path.realpath(one.path), one.format)
        if asked != one.format:
            raise DiskError(
                f"{found.image.path}: reads {one.path} as {one.format}, asked for {asked}: its guest would see another "
                "disk: name the format that is recorded, or set rebase=unsafe if that one is wrong",
                differences=["backing_format"],
            )


def _named(path: str | None, image_format: str | None) -> str:
    return f"{path} ({image_format or 'format not recorded'})" if path else "none"
