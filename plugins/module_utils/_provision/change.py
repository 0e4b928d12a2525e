# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The decision what an image is to have otherwise, as far as that can be changed in place."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, InvalidRequest
from ansible_collections.kvmops.disk.plugins.module_utils._image.choices import RESIZABLE_FORMATS
from ansible_collections.kvmops.disk.plugins.module_utils._size import exact_size

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
    from ansible_collections.kvmops.disk.plugins.module_utils._provision.wish import ImageWish

_REWRITE = (
    "only a rewrite can change that: convert it into a new image (kvmops.disk.vm_disk_convert for a domain's disk)"
)


@dataclass(frozen=True)
class Change:
    """What *image* is to have otherwise: the options that are amended, and its size in bytes, None where that stays.

    False where there is nothing of that.
    """

    image: Image
    options: t.Mapping[str, t.Any]
    size: int | None = None

    def __bool__(self) -> bool:
        return bool(self.options) or self.size is not None

    @property
    def grows(self) -> bool:
        return self.size is not None and self.size > self.image.virtual_size


def change(wish: ImageWish, image: Image) -> Change:
    """How *image* differs from what the task wants.

    Raises DiskError where that cannot be changed, or would cut off data that nobody gave up.
    """
    amendable, fixed = wish.layout.differences(image)
    if fixed:
        found = ", ".join(f"{name} is {getattr(image, name)}, asked for {value}" for name, value in fixed.items())
        raise DiskError(f"{image.path}: {found}: {_REWRITE}", differences=sorted(fixed))
    if wish.encryption is not None or image.encrypted:
        from ansible_collections.kvmops.disk.plugins.module_utils._image.encryption import require_same_kind

        require_same_kind(wish.encryption, image)
    if wish.size is None or wish.size == image.virtual_size:
        return Change(image, amendable)
    _require_resizable(wish, image, wish.size)
    return Change(image, amendable, wish.size)


def _require_resizable(wish: ImageWish, image: Image, size: int) -> None:
    found, asked = exact_size(image.virtual_size), exact_size(size)
    if image.format not in RESIZABLE_FORMATS:
        raise DiskError(
            f"{image.path}: has {found}, asked for {asked}: {image.format} images cannot be resized: {_REWRITE}",
            differences=["size"],
        )
    if image.snapshots and (wish.layout.compat or image.compat) == "0.10":
        raise DiskError(
            f"{image.path}: has {found}, asked for {asked}: an image of compat 0.10 with "
            f"{len(image.snapshots)} snapshot(s) cannot be resized: "
            "ask for compat 1.1 as well, or delete the snapshots",
            snapshots=[snapshot.name for snapshot in image.snapshots],
        )
    if size < image.virtual_size and not wish.shrink:
        raise InvalidRequest(
            f"{image.path}: cannot shrink from {found} to {asked}: set shrink=true, "
            "after shrinking the file system inside",
            virtual_size=image.virtual_size,
        )
