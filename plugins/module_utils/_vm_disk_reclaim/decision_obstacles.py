# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The decision whether something stands in the way of giving space back. Pure."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import replace
from ansible_collections.kvmops.disk.plugins.module_utils._domain import ready as _ready
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._image import anew as _anew

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._content.bitmaps import Carried
    from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainState
    from ansible_collections.kvmops.disk.plugins.module_utils._formats.bitmaps import Bitmap
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_reclaim.decision import Reclaiming


def require_trimmable(state: DomainState, item: Reclaiming) -> None:
    """Raises DiskError where a trim in the guest could not give anything of the disk back (HAZARDS N1, N3)."""
    if state.state != "running":
        raise DiskError(
            f"{state.name}: is {state.state}: its guest cannot trim anything now: resume it, or shut it down, and run "
            "again, which rewrites the image",
            state=state.state,
        )
    if item.disk.live is None or item.disk.live.discard != "unmap":
        raise DiskError(
            f"{state.name}: {item.target}: {_missing_discard(state, item)}, or shut the machine down and run this task "
            "again, which rewrites the image",
            disk=item.target,
        )
    _require_no_snapshots(item, "a trim gives nothing back of what they hold")


def require_rewritable(state: DomainState, item: Reclaiming) -> None:
    """Raises DiskError where the image must not be rewritten, or cannot be.

    Checkpoints are no obstacle: what they know is in the dirty bitmaps, which are kept.
    """
    _ready.require_ready(replace(state, checkpoints=()), (), "a rewrite", "which knows the old image")
    image = item.image
    if image.format not in _anew.FORMATS:
        raise DiskError(
            f"{image.path}: only images of the formats {' and '.join(_anew.FORMATS)} are rewritten, this one is "
            f"{image.format}: convert it (kvmops.disk.vm_disk_convert)",
            path=image.path,
        )
    if any(each.encrypted for each in item.images) or item.disk.element.encrypted:
        raise DiskError(
            f"{image.path}: it, or an image below it, is encrypted, so that it is not rewritten: set discard=unmap "
            "(kvmops.disk.vm_disk), and reclaim it while its guest runs",
            path=image.path,
        )
    if image.data_file is not None:
        raise DiskError(f"{image.path}: keeps its data in {image.data_file}: not rewritten", path=image.path)
    if image.corrupt:
        raise UnsafeImage(f"{image.path}: is marked corrupt: check and repair it first", path=image.path)
    _require_no_snapshots(item, "a new image would not have them")


def require_whole_sectors(item: Reclaiming, length: int) -> None:
    """Raises DiskError where a raw image of *length* bytes would get another length when it is rewritten."""
    if item.image.format == "raw" and length != item.image.virtual_size:
        raise DiskError(
            f"{item.path}: its file has {length} bytes, no whole number of sectors: grow it to "
            f"{item.image.virtual_size} bytes first (kvmops.disk.vm_disk_resize)",
            path=item.path,
        )


def require_bitmaps(item: Reclaiming, carried: Carried, found: t.Sequence[Bitmap]) -> None:
    """Raises DiskError where the new image lacks one of the dirty bitmaps that were to be kept, or has it otherwise."""
    wanted = {(bitmap.name, bitmap.granularity, bitmap.enabled) for bitmap in carried.kept}
    if wanted != {(bitmap.name, bitmap.granularity, bitmap.enabled) for bitmap in found}:
        names = ", ".join(bitmap.text for bitmap in carried.kept)
        raise DiskError(
            f"{item.path}: the new image does not have the dirty bitmap(s) {names} as the old one has them: it was "
            "removed, and the old one is as it was",
            path=item.path,
            bitmaps=[bitmap.text for bitmap in carried.kept],
        )


def require_gain(item: Reclaiming, occupied: int) -> None:
    """Raises DiskError where the new image, which occupies so many bytes, gives nothing back."""
    if occupied >= item.image.actual_size:
        raise DiskError(
            f"{item.path}: the new image occupies {occupied} bytes, the old one {item.image.actual_size}: it was "
            "removed, and the old one is as it was",
            path=item.path,
        )


def agent_silent(state: DomainState, error: DiskError) -> DiskError:
    """The error for a guest whose agent does not do what it is asked for."""
    return DiskError(
        f"{error}: a running guest gives space back through its agent (the package qemu-guest-agent, and a channel "
        f"org.qemu.guest_agent.0 in the definition of {state.name}): see that it runs, or shut the machine down and "
        "run this task again, which rewrites the image",
        **error.facts,
    )


def _missing_discard(state: DomainState, item: Reclaiming) -> str:
    """What is wrong with the driver of the disk, and what to do about it."""
    defined = item.disk.defined
    if defined is not None and defined.discard == "unmap":
        return (
            "runs without discard=unmap, which its definition has by now, so that a trim would give nothing back: "
            "shut the machine down and start it again"
        )
    return (
        "its driver does not have discard=unmap, so that a trim would give nothing back: set it with kvmops.disk."
        f"vm_disk (name: {state.name}, disk: {item.target}, discard: unmap) and restart the machine, which has it only "
        "then"
    )


def _require_no_snapshots(item: Reclaiming, why: str) -> None:
    if item.image.snapshots:
        names = [snapshot.name for snapshot in item.image.snapshots]
        raise DiskError(
            f"{item.path}: holds {len(names)} internal snapshot(s) ({', '.join(names)}), and {why}: delete them first "
            "(kvmops.disk.qcow2_snapshot)",
            path=item.path,
            snapshots=names,
        )
