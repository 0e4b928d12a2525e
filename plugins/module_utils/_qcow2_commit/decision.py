# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The decision to merge an overlay into an image below it, and what becomes of the overlay."""

from __future__ import annotations

import typing as t
from functools import partial

from ansible_collections.kvmops.disk.plugins.module_utils._content.merge import (
    Observed,
    require_no_bitmaps,
    require_no_snapshots,
)
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._errors import (
    DiskError,
    InvalidRequest,
    MissingImage,
    UnsafeImage,
)
from ansible_collections.kvmops.disk.plugins.module_utils._image.layout import Layout
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan, Step
from ansible_collections.kvmops.disk.plugins.module_utils._ranges import length
from ansible_collections.kvmops.disk.plugins.module_utils._size import exact_size

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._formats.bitmaps import Bitmap
    from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
    from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_commit.wish import CommitWish


@dataclass(frozen=True)
class Fate:
    """What becomes of images: those that go, *removed*, and those that are no disk of their own any more, *invalid*.

    *base* is the image that has it all then, and its format; None where nobody knows that one any more.
    """

    base: tuple[str, str] | None
    removed: tuple[str, ...] = ()
    invalid: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rest:
    """What a dead run left that merged the overlay, which has gone: the *base*, as far as it is known, and those of its
    *images* that were to go, too."""

    base: str | None
    base_format: str | None
    images: tuple[str, ...] = ()


class Work(t.Protocol):
    """What the plans have done."""

    def merge(self, observed: Observed) -> None:
        """Writes the base, and proves that it then is what the overlay shows."""

    def empty(self, observed: Observed) -> None:
        """Puts an empty overlay in the place of the one that was merged."""

    def withdraw(self) -> None:
        """Puts back the overlay that was to be emptied."""

    def remove(self, path: str) -> None:
        """Removes a file."""

    def settle(self) -> None:
        """Lets go of what a dead run noted."""


def require_overlay_wanted_gone(wish: CommitWish) -> None:
    """Raises MissingImage where there is no overlay, unless the task wants it gone."""
    if wish.end != "remove":
        raise MissingImage(
            f"{wish.path}: no such image, asked to merge it: if it may have been merged and removed before, set "
            "remove=true",
            path=wish.path,
        )


def depth_of_base(wish: CommitWish, chain: t.Sequence[Image], named: t.Sequence[int]) -> int:
    """The place of the base in *chain*, whose first is the overlay; *named* are the places of those below it that the
    task means by *base*.

    Raises DiskError where there is no backing file, or none that the task means.
    """
    below = chain[1:]
    if not below:
        raise DiskError(
            f"{wish.path}: has no backing file, into which it could be merged: name an overlay", path=wish.path
        )
    if wish.base is not None and not named:
        shown = ", ".join(image.path for image in below)
        raise InvalidRequest(
            f"base: {wish.base} is not below {wish.path}, which reads {shown}: name one of these",
            backing_chain=[image.path for image in below],
        )
    depth = named[0] if wish.base is not None else 1
    base = chain[depth]
    if wish.base_format is not None and wish.base_format != base.format:
        raise UnsafeImage(
            f"{base.path}: asked for {wish.base_format}, but {chain[depth - 1].path} reads it as {base.format}: name "
            "the right format",
            path=base.path,
            format=base.format,
        )
    return depth


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


def plan_commit(wish: CommitWish, observed: Observed, work: Work) -> Plan:
    """The plan that merges the overlay and deals with it; empty where that is done."""
    overlay, base = observed.overlay, observed.base
    steps = []
    if not observed.is_merged:
        steps.append(Step(_summary(observed), partial(work.merge, observed)))
    if wish.end == "empty" and (observed.held or steps):
        steps.append(Step(f"empty {overlay.path}", partial(work.empty, observed), work.withdraw))
    gone = removed(wish, observed)
    steps += [Step(f"remove {path}", partial(work.remove, path)) for path in gone]
    before = {
        "base": base.path,
        "virtual_size": base.virtual_size,
        "unmerged_bytes": 0 if observed.is_merged and wish.end == "keep" else length(observed.held),
        "overlay": "present",
    }
    size = max(base.virtual_size, overlay.virtual_size)
    after = {**before, "virtual_size": size, "unmerged_bytes": 0, "overlay": "absent" if gone else "present"}
    return Plan(before, after, tuple(steps))


def plan_rest(rest: Rest, first: tuple[Step, ...], work: Work) -> Plan:
    """The plan where the overlay has gone: after *first*, which settles what a dead run left, the rest goes as well."""
    facts = {"base": rest.base, "overlay": "absent"}
    settled = (Step("", work.settle),) if first else ()
    return Plan(facts, facts, (*first, *settled, *(Step(f"remove {p}", partial(work.remove, p)) for p in rest.images)))


def fate(wish: CommitWish, observed: Observed, plan: Plan) -> Fate:
    """What becomes of the images where *plan* is carried out."""
    base = observed.base.path, observed.base.format
    return Fate(base, tuple(removed(wish, observed)), tuple(invalid(wish, observed))) if plan else Fate(base)


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
