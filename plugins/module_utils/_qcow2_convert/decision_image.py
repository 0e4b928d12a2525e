# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The image that is to be made of another one, and the plan that makes it."""

from __future__ import annotations

import typing as t
from functools import partial

from ansible_collections.kvmops.disk.plugins.module_utils._content import bitmaps as _bitmaps
from ansible_collections.kvmops.disk.plugins.module_utils._content.transcode import Recipe
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass, field
from ansible_collections.kvmops.disk.plugins.module_utils._files.names import Names
from ansible_collections.kvmops.disk.plugins.module_utils._image.creation import Estimate, bytes_needed
from ansible_collections.kvmops.disk.plugins.module_utils._image.encryption import HEADER_BYTES
from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan, Step
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_convert.decision import facts
from ansible_collections.kvmops.disk.plugins.module_utils._size import exact_size, rounded_up

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._formats.bitmaps import Bitmap
    from ansible_collections.kvmops.disk.plugins.module_utils._formats.snapshots import Snapshot
    from ansible_collections.kvmops.disk.plugins.module_utils._image.graph import Looks
    from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_convert.wish import ImageConvertWish

#: What is wrong with an image that is to be made anew in any case, and with one that looks right.
IS_THERE, HAS_OTHER_CONTENT = "is there", "has other content"


@dataclass(frozen=True)
class Observed:
    """What a conversion starts from: the source and what is below it, top first, and the same of the backing file.

    *names* has the real names of these files, and of the destination and its backing file. *bitmaps* are the dirty
    bitmaps of the source. The size of the new image is rounded up to a multiple of *step* bytes. *looks* are what
    the source's file was before it was looked at, where others may exchange it.
    """

    source: tuple[Image, ...]
    base: tuple[Image, ...] = ()
    snapshot: Snapshot | None = None
    names: Names = field(default_factory=Names)
    bitmaps: tuple[Bitmap, ...] = ()
    step: int = 1
    looks: Looks = field(default_factory=dict)

    @property
    def size(self) -> int:
        """The virtual size of the disk to be made."""
        return rounded_up(self.content_size, self.step)

    @property
    def content_size(self) -> int:
        """The bytes of that which are read of the source."""
        return self.snapshot.virtual_size if self.snapshot else self.source[0].virtual_size

    @property
    def reads_base(self) -> bool:
        """Whether the source reads the wanted backing file itself, and not by another file in between.

        One that is encrypted counts as another: ``convert -B`` cannot be given its secret.
        """
        below = self.source[0].backing_file
        if not self.base or below is None or any(image.encrypted for image in self.base):
            return False
        return self.names.same(below, self.base[0].path)

    @property
    def encrypted(self) -> bool:
        """Whether something that is read is encrypted."""
        return any(image.encrypted for image in self.source)


@dataclass(frozen=True)
class SourceFiles:
    """The files of the source, itself first, and what was found of each: equal as long as nobody writes to it."""

    paths: tuple[str, ...]
    states: tuple[tuple[int, ...], ...]


class Work(t.Protocol):
    """What the plans have done."""

    def convert(self, found: Observed, replaced: list[int] | None) -> None:
        """Makes the image, in the place of the file with the identity *replaced* (None: of nothing)."""

    def withdraw(self) -> None:
        """Removes what there is of the new image."""

    def remove_source(self, files: SourceFiles) -> None:
        """Removes the source, if nobody has touched it."""


def plan_conversion(
    wish: ImageConvertWish,
    found: Observed,
    dest: Image | None,
    reason: str | None,
    replaced: list[int] | None,
    source: SourceFiles,
    work: Work,
) -> Plan:
    """The plan that makes the image, and has the source go where that is asked.

    *dest* is the image that is in its place (None: nothing is), and does not do for that *reason*; *replaced* is the
    identity of its file.
    """
    convert = Step(summary(wish, found, reason), partial(work.convert, found, replaced), work.withdraw, commits=True)
    chosen = wish.layout.shown()
    before, after = {"path": wish.dest, "state": "absent"}, {**facts(predicted(wish, found)), **chosen}
    if dest is not None:
        before = {**facts(dest), **{name: getattr(dest, name) for name in chosen if hasattr(dest, name)}}
    return Plan(before, after, (convert, *_removal(wish, source, work)))


def plan_removal(wish: ImageConvertWish, dest: Image, source: SourceFiles, work: Work) -> Plan:
    """The plan where the destination is as wanted, and the source goes where that is asked."""
    return Plan(facts(dest), facts(dest), _removal(wish, source, work))


def visible_difference(wish: ImageConvertWish, found: Observed, dest: Image) -> str | None:
    """What tells the destination from the wanted image before any content is read; None where nothing does."""
    if dest.virtual_size != found.size:
        return f"has {exact_size(dest.virtual_size)}, its source {exact_size(found.size)}"
    wanted = found.base[0].path if found.base else None
    if not _is_same(found.names, dest.backing_file, wanted):
        return f"has the backing file {dest.backing_file or 'none'}, asked for {wanted or 'none'}"
    if dest.corrupt:
        return "is marked corrupt"
    if wish.encryption is None:
        return None
    if dest.encryption is None:
        return "is not encrypted"
    different = wish.encryption.differences(dest.encryption)
    return f"is encrypted with another {', '.join(sorted(different))}" if different else None


def carried(wish: ImageConvertWish, found: Observed) -> _bitmaps.Carried:
    """What becomes of the source's dirty bitmaps. Raises DiskError where one would be lost that is required."""
    return _bitmaps.carried(wish.src, found.bitmaps, wish.keep_bitmaps, _obstacle_of_bitmaps(wish, found))


def left_with_source(wish: ImageConvertWish, found: Observed, there: t.Sequence[Bitmap]) -> _bitmaps.Carried:
    """What becomes of the source's dirty bitmaps where it goes, and the image at the destination, which has those that
    are *there*, stays as it is. Raises DiskError where one would be lost that is required."""
    names = {bitmap.name for bitmap in there}
    missing = [bitmap for bitmap in found.bitmaps if bitmap.name not in names]
    return _bitmaps.carried(wish.src, missing, wish.keep_bitmaps, f"{wish.dest} was made without them")


def lost_with_replaced(wish: ImageConvertWish, found: Observed, there: t.Sequence[Bitmap]) -> _bitmaps.Carried:
    """What becomes of the dirty bitmaps that are *there* in the image which the new one replaces. Raises DiskError
    where one would be lost that is required."""
    names = {bitmap.name for bitmap in carried(wish, found).kept}
    missing = [bitmap for bitmap in there if bitmap.name not in names]
    return _bitmaps.carried(wish.dest, missing, wish.keep_bitmaps, f"{wish.src} has none to give of that name")


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
        bitmaps=bool(carried(wish, found).kept),
        rate=wish.rate,
        verify=wish.verify,
        encryption=wish.encryption,
        step=found.step,
        looks=found.looks,
    )


def space(wish: ImageConvertWish, found: Observed, estimate: Estimate) -> int:
    """The bytes that the new image takes at once; *estimate* is of its content.

    What looks like zeros when it is decrypted has to be written, unless the tables say that it is nothing.
    """
    needed = bytes_needed(wish.layout, found.size, estimate)
    needed += carried(wish, found).bytes_needed(found.size, wish.layout.cluster_size)
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


def summary(wish: ImageConvertWish, found: Observed, reason: str | None) -> str:
    """The conversion in a line; *reason* is why the image that is there does not do."""
    at = f" at its snapshot {found.snapshot.name}" if found.snapshot else ""
    over = f" over {found.base[0].path}" if found.base else ""
    way = "compressed " if wish.compress else "encrypted " if wish.encryption else ""
    kind = f"{way}{wish.layout.format}"
    instead = f", in place of the one that {reason}" if reason else ""
    origin = f"encrypted {wish.src_format}" if found.encrypted else wish.src_format
    return f"convert {wish.src} ({origin}){at} to {wish.dest} ({kind}){over}{instead}"


def _obstacle_of_bitmaps(wish: ImageConvertWish, found: Observed) -> str | None:
    """Why the new image cannot have the bitmaps of the source; None where it can."""
    if wish.layout.format != "qcow2" or wish.layout.compat == "0.10":
        return "only qcow2 images of compat 1.1 have bitmaps"
    if wish.snapshot is not None:
        return "they say nothing about its snapshot"
    if found.base and not found.reads_base:
        return "only the differences to another backing file are copied"
    return None


def _removal(wish: ImageConvertWish, source: SourceFiles, work: Work) -> tuple[Step, ...]:
    if not wish.remove_src:
        return ()
    extents = f" and its {len(source.paths) - 1} extent(s)" if len(source.paths) > 1 else ""
    return (Step(f"remove {wish.src}{extents}", partial(work.remove_source, source)),)


def _is_same(names: Names, one: str | None, other: str | None) -> bool:
    return one is other if one is None or other is None else names.same(one, other)
