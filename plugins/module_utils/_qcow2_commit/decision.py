# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The decision to merge an overlay into an image below it, and what becomes of the overlay. Pure, but for its steps."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass
from functools import partial

from ansible_collections.kvmops.disk.plugins.module_utils._content.merge import (
    Observed,
    require_no_bitmaps,
    require_no_snapshots,
)
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, InvalidRequest, UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._formats.bitmaps import Bitmap
from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
from ansible_collections.kvmops.disk.plugins.module_utils._image.layout import Layout
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan, Step
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_commit.wish import CommitWish
from ansible_collections.kvmops.disk.plugins.module_utils._ranges import length
from ansible_collections.kvmops.disk.plugins.module_utils._size import exact_size

#: The formats of overlays that qemu-img merges, and whose headers say the format of what they read.
OVERLAYS = ("qcow2", "qed")
#: What can become of an overlay.
ENDS = ("keep", "empty", "remove")


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
        raise DiskError(
            f"{wish.path}: has no backing file, into which it could be merged: name an overlay", path=wish.path
        )
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
