# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a new image takes: creation options, space, and a base that is what it seems."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._errors import UnsafeImage

if TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._image.encryption import EncryptionWish
    from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
    from ansible_collections.kvmops.disk.plugins.module_utils._image.layout import Layout


def require_usable_base(base: Image, *, encrypted: bool = False) -> None:
    """Raises UnsafeImage where an overlay on *base*, or on what reads it, would not be what it seems.

    *encrypted*: the overlay is.
    """
    if base.data_file is not None:
        raise UnsafeImage(
            f"{base.path}: keeps its data in another file, {base.data_file}, which the task does not name: "
            "not followed",
            path=base.path,
        )
    if base.encrypted and not encrypted:
        raise UnsafeImage(
            f"{base.path}: is encrypted: an overlay on it would hold its changes unencrypted: not made: encrypt the "
            "overlay, too, if the module offers that",
            path=base.path,
        )
    if base.corrupt:
        raise UnsafeImage(f"{base.path}: is marked corrupt: check and repair it first", path=base.path)


def creation_options(layout: Layout, encryption: EncryptionWish | None = None) -> dict[str, str]:
    """The options for qemu-img; a VHD keeps the size asked for instead of the next one with whole cylinders."""
    encrypted = encryption.creation_options(layout.format) if encryption else {}
    return {**layout.options(), **({"force_size": "on"} if layout.format == "vpc" else {}), **encrypted}


@dataclass(frozen=True)
class Estimate:
    """The bytes that the content of an image takes as *qcow2*, with its tables, and those of the *data* alone."""

    qcow2: int = 0
    data: int = 0


def bytes_needed(layout: Layout, size: int, estimate: Estimate) -> int:
    """What the file system must take at once for a disk of *size* bytes.

    qemu-img itself measures a raw image at its full length, holes included (raw_measure in block/raw-format.c).
    """
    if layout.is_fixed:
        return size
    if layout.is_plain:
        return size if layout.preallocation in ("falloc", "full") else min(size, estimate.data)
    return estimate.qcow2


def file_length(layout: Layout, size: int) -> int:
    """The length that the file of a disk of *size* bytes has at once, as far as that is known: 0 where it grows."""
    is_whole = layout.is_plain or layout.is_fixed or layout.preallocation not in (None, "off")
    return size if is_whole and layout.subformat != "twoGbMaxExtentFlat" else 0
