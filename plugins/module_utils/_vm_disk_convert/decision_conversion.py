# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The decision what a conversion changes, and what its record says; what of a recorded one is there. Pure."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._content import bitmaps as _bitmaps
from ansible_collections.kvmops.disk.plugins.module_utils._errors import UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan, Step
from ansible_collections.kvmops.disk.plugins.module_utils._size import rounded_up
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disk_changes as _disk_changes
from ansible_collections.kvmops.disk.plugins.module_utils._xml.disk_changes import DiskChange
from ansible_collections.kvmops.disk.plugins.module_utils._xml.disks import ChainLink
from ansible_collections.kvmops.disk.plugins.module_utils._xml.records import Record, RecordedDisk, now

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainState
    from ansible_collections.kvmops.disk.plugins.module_utils._formats.bitmaps import Bitmap
    from ansible_collections.kvmops.disk.plugins.module_utils._image.layout import Layout
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert.decision import Conversion
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert.wish import ConvertWish
    from ansible_collections.kvmops.disk.plugins.module_utils._xml.disks import DiskElement


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


def carried_bitmaps(item: Conversion, bitmaps: t.Sequence[Bitmap], wish: ConvertWish, mode: str) -> _bitmaps.Carried:
    """What becomes of the dirty *bitmaps* of an old image. Raises DiskError where one gets lost that is required."""
    obstacle = None
    if wish.layout.format != "qcow2" or wish.layout.compat == "0.10":
        obstacle = "only qcow2 images have bitmaps"
    elif mode == "live":
        obstacle = f"a copy below a running guest does not take them along, only method=offline does ({item.target})"
    return _bitmaps.carried(item.source, bitmaps, wish.keep_bitmaps, obstacle)


def predicted(item: Conversion, source: Image, image_format: str) -> Image:
    """The new image as far as it is known before it is made; it will occupy about what its source does."""
    return Image(
        item.dest,
        image_format,
        rounded_up(source.virtual_size, item.step),
        source.actual_size,
        backing_file=item.backing.path if item.backing else None,
        backing_format=item.backing.format if item.backing else None,
    )


def plan(state: DomainState, wish: ConvertWish, conversions: t.Sequence[Conversion], steps: tuple[Step, ...]) -> Plan:
    """The plan of the *steps* that convert the disks, with what they change of the disks and of the definition."""
    after = _disk_changes.with_changes(state.definition, [change(item, wish) for item in conversions])
    return Plan(
        before={item.target: {"path": item.source, "format": item.source_format} for item in conversions},
        after={item.target: {"path": item.dest, "format": wish.layout.format} for item in conversions},
        steps=steps,
        diff=({"prepared": _disk_changes.definition_diff(state.definition, after)},),
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
