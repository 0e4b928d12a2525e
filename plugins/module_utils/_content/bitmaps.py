# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The decision what becomes of the dirty bitmaps of an image of which another is made. Pure.

Who makes incremental backups by them has to make a full one once they are gone, and so has to know.
"""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError
from ansible_collections.kvmops.disk.plugins.module_utils._image.choices import KEEP_NO, KEEP_REQUIRED

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._formats.bitmaps import Bitmap


@dataclass(frozen=True)
class Carried:
    """What becomes of the bitmaps of the image at *path*: those that are *kept* in the new image, and those *lost*,
    because of *reason*. *meant*: the task wants it so."""

    path: str
    kept: tuple[Bitmap, ...] = ()
    lost: tuple[str, ...] = ()
    reason: str = ""
    meant: bool = False

    @property
    def warning(self) -> str | None:
        """What a person has to know; None where nothing is lost that was not to be."""
        if self.meant or not self.lost:
            return None
        return (
            f"{self.path}: the new image does not have its dirty bitmap(s) {', '.join(self.lost)}: {self.reason}: the "
            "next backup that builds on them has to be a full one"
        )

    def bytes_needed(self, size: int, cluster: int | None) -> int:
        """What the kept ones may take at most in a new image with clusters of that many bytes (None: QEMU's own)."""
        return sum(bitmap.bytes_needed(size, cluster or 1 << 16) for bitmap in self.kept)


def carried(path: str, bitmaps: t.Sequence[Bitmap], wanted: str, obstacle: str | None) -> Carried:
    """What becomes of the *bitmaps* of the image at *path*, as the task *wanted*; *obstacle* is why a new image cannot
    have any of them, None where it can.

    One that nobody wrote back says nothing, and is left behind. Raises DiskError where one would be lost that is
    required. Facts: ``bitmaps``.
    """
    if wanted == KEEP_NO:
        return Carried(path, lost=tuple(bitmap.text for bitmap in bitmaps), meant=True)
    kept = tuple(bitmap for bitmap in bitmaps if obstacle is None and not bitmap.in_use)
    lost = tuple(bitmap.text for bitmap in bitmaps if bitmap not in kept)
    reason = obstacle or "a program that had it open has not written it back, so that it says nothing"
    if lost and wanted == KEEP_REQUIRED:
        raise DiskError(
            f"{path}: the new image would not have its dirty bitmap(s) {', '.join(lost)}: {reason}, and keep_bitmaps "
            f"is required: set keep_bitmaps to auto, or remove them (kvmops.disk.qcow2_bitmap)",
            path=path,
            bitmaps=list(lost),
        )
    return Carried(path, kept, lost, reason)
