# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How an image is laid out: the choices of its creation, which of them go together, and which can change later.

The bounds are those of QEMU's block drivers (qcow2_co_create in block/qcow2.c and its siblings), checked here
because a refusal by qemu-img comes after the damage (HAZARDS A2, C6).
"""

from __future__ import annotations

import os
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass, replace
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, InvalidRequest
from ansible_collections.kvmops.disk.plugins.module_utils._image.choices import FORMATS, OVERLAY_FORMATS
from ansible_collections.kvmops.disk.plugins.module_utils._size import format_size

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image

#: The kinds of VMDK that keep their data in extents, files beside their descriptor; whether those are sparse files of a
#: format of their own.
_OF_SEVERAL_FILES = {"monolithicFlat": False, "twoGbMaxExtentSparse": True, "twoGbMaxExtentFlat": False}
#: What there is of a format, in QEMU's words; what it makes first.
SUBFORMATS = {
    "vmdk": ("monolithicSparse", "streamOptimized", *_OF_SEVERAL_FILES),
    "vpc": ("dynamic", "fixed"),
    "vhdx": ("dynamic", "fixed"),
    "vdi": ("dynamic", "fixed"),
}
#: The largest disk that a format holds, where that is less than what a file holds (the drivers in block/).
_LARGEST = {"vpc": 2040 * 1024**3, "vhdx": 64 * 1024**4, "qed": 64 * 1024**4, "vdi": 0x1FFFFF8000000}

#: The suffix of a file in a format, where it is not the format's own name.
_SUFFIXES = {"vpc": "vhd", "parallels": "hdd"}

_SMALLEST_CLUSTER, _LARGEST_CLUSTER = 512, 2 * 1024**2
_DEFAULT_CLUSTER = 64 * 1024
_SMALLEST_EXTENDED_CLUSTER = 16 * 1024
_LARGEST_L1_ENTRIES = 32 * 1024**2 // 8  # QCOW_MAX_L1_SIZE
#: What QEMU gives a new qcow2 image (qcow2_co_create in block/qcow2.c).
_DEFAULTS = {
    "cluster_size": _DEFAULT_CLUSTER,
    "compat": "1.1",
    "lazy_refcounts": False,
    "refcount_bits": 16,
    "extended_l2": False,
    "compression_type": "zlib",
}
_AMENDABLE = ("compat", "lazy_refcounts", "refcount_bits")
_FIXED = ("cluster_size", "extended_l2", "compression_type")


@dataclass(frozen=True)
class Layout:
    """The layout that a task asks for; None where it leaves the choice to QEMU. Sizes in bytes."""

    format: str
    preallocation: str | None = None
    cluster_size: int | None = None
    compat: str | None = None
    lazy_refcounts: bool | None = None
    refcount_bits: int | None = None
    extended_l2: bool | None = None
    compression_type: str | None = None
    subformat: str | None = None

    def require_valid(self, *, size: int | None = None, overlay: bool = False, compressed: bool = False) -> None:
        """Raises InvalidRequest, with the reason, where QEMU could not make such an image."""
        self._require_known_subformat()
        if self.format == "qcow2":
            self._require_valid_qcow2(size, overlay, compressed)
            return
        if size is not None and size > _LARGEST.get(self.format, size):
            raise InvalidRequest(
                f"size: {format_size(size)} is more than a {self.format} image can hold "
                f"({format_size(_LARGEST[self.format])}): use qcow2 or raw"
            )
        for name in self.choices():
            raise InvalidRequest(f"{name}: an option of qcow2 images, but the format is {self.format}: leave it out")
        if compressed and self.format != "vmdk":
            raise InvalidRequest(f"compress: {self.format} images cannot be compressed: use qcow2")
        if overlay and self.format not in OVERLAY_FORMATS:
            raise InvalidRequest(f"backing_file: {self.format} images have no backing file: use qcow2")
        if self.preallocation in (None, "off"):
            return
        if self.format != "raw":
            raise InvalidRequest(
                f"preallocation: {self.preallocation} is not available for {self.format} images: "
                "use qcow2 or raw, or leave it out"
            )
        if self.preallocation == "metadata":
            raise InvalidRequest("preallocation: raw images have no metadata to allocate: use off, falloc or full")

    def _require_known_subformat(self) -> None:
        known = SUBFORMATS.get(self.format, ())
        if self.subformat is None or self.subformat in known:
            return
        offered = f"use {' or '.join(known)}" if known else "leave it out"
        raise InvalidRequest(f"subformat: {self.format} images know no {self.subformat}: {offered}")

    def _require_valid_qcow2(self, size: int | None, overlay: bool, compressed: bool) -> None:
        cluster = self.cluster_size or _DEFAULT_CLUSTER
        if not _SMALLEST_CLUSTER <= cluster <= _LARGEST_CLUSTER or cluster & (cluster - 1):
            raise InvalidRequest(f"cluster_size: {cluster} is not a power of two from 512 to 2M")
        if self.extended_l2 and cluster < _SMALLEST_EXTENDED_CLUSTER:
            raise InvalidRequest(f"extended_l2: needs clusters of 16K or more, asked for {cluster}: raise cluster_size")
        if self.refcount_bits is not None and self.refcount_bits not in (1, 2, 4, 8, 16, 32, 64):
            raise InvalidRequest(f"refcount_bits: {self.refcount_bits} is not a power of two from 1 to 64")
        if self.compat == "0.10":
            self._require_valid_for_old_compat()
        preallocated = self.preallocation not in (None, "off")
        if preallocated and overlay and not self.extended_l2:
            raise InvalidRequest(
                "preallocation: an image with a backing file can only be preallocated with extended_l2=true, since a "
                "whole cluster would hide what lies below it: set that, or leave preallocation out"
            )
        if preallocated and compressed:
            raise InvalidRequest(
                f"compress: excludes preallocation={self.preallocation}: compressed clusters have no fixed place"
            )
        largest = self.largest_size()
        if size is not None and size > largest:
            raise InvalidRequest(
                f"size: {format_size(size)} is more than a qcow2 image with clusters of {format_size(cluster)} "
                f"can hold ({format_size(largest)}): raise cluster_size"
            )

    def largest_size(self) -> int:
        """The bytes that a qcow2 image of this layout can address: its first table has an upper bound."""
        cluster = self.cluster_size or _DEFAULT_CLUSTER
        return _LARGEST_L1_ENTRIES * cluster * (cluster // (16 if self.extended_l2 else 8))

    @property
    def is_thin_qcow2(self) -> bool:
        return self.format == "qcow2" and self.preallocation in (None, "off")

    def bytes_of_empty(self, size: int) -> int:
        """The bytes of a new qcow2 image of *size* bytes: a header, the refcounts, and a first table with 8 bytes for
        each second one. qemu-img measures all the tables that the image may ever have."""
        cluster = self.cluster_size or _DEFAULT_CLUSTER
        tables = -(-size // (cluster * (cluster // (16 if self.extended_l2 else 8))))
        first_table = -(-tables * 8 // cluster)
        counts = -(-(3 + first_table) // (cluster * 8 // (self.refcount_bits or 16)))
        return (2 + counts + first_table) * cluster

    def _require_valid_for_old_compat(self) -> None:
        refused = {
            "lazy_refcounts": self.lazy_refcounts,
            "extended_l2": self.extended_l2,
            "compression_type": self.compression_type == "zstd",
            "refcount_bits": self.refcount_bits not in (None, 16),
        }
        for name, given in refused.items():
            if given:
                raise InvalidRequest(
                    f"{name}: {getattr(self, name)} needs compat 1.1, asked for compat 0.10: drop one of the two"
                )

    @property
    def is_fixed(self) -> bool:
        """Whether an image occupies the whole of its size from the beginning, by its format."""
        return self.subformat == "fixed"

    @property
    def has_extents(self) -> bool:
        """Whether such an image keeps its data in further files."""
        return self.format == "vmdk" and self.subformat in _OF_SEVERAL_FILES

    @property
    def is_plain(self) -> bool:
        """Whether the data lies in its files as the guest sees it, with holes where nothing was written."""
        return self.format == "raw" or (self.has_extents and not _OF_SEVERAL_FILES[str(self.subformat)])

    def choices(self) -> dict[str, t.Any]:
        """What the task chose, under the names and with the values that an image's facts have.

        The allocation policy is not among them: an image does not remember it.
        """
        chosen = {name: getattr(self, name) for name in (*_FIXED, *_AMENDABLE)}
        return {name: value for name, value in chosen.items() if value is not None}

    def shown(self) -> dict[str, t.Any]:
        """All that the task chose, as a diff shows it."""
        policy = {"preallocation": self.preallocation, "subformat": self.subformat}
        return {**{name: value for name, value in policy.items() if value is not None}, **self.choices()}

    def expected(self) -> dict[str, t.Any]:
        """The choices of a new qcow2 image, with what QEMU chooses where the task does not; nothing for another format,
        of which only QEMU knows."""
        if self.format != "qcow2":
            return {}
        return {**_DEFAULTS, **self.choices()}

    def options(self) -> dict[str, str]:
        """The layout as qemu-img's creation options."""
        policy = {"preallocation": self.preallocation} if self.preallocation is not None else {}
        if self.subformat is not None:
            policy.update(
                {"static": option_text(self.is_fixed)} if self.format == "vdi" else {"subformat": self.subformat}
            )
        return {name: option_text(value) for name, value in {**policy, **self.choices()}.items()}

    def amended(self, image: Image) -> Layout:
        """The layout that *image* has once it is amended to this one."""
        kept = {name: getattr(image, name) for name in (*_FIXED, *_AMENDABLE)} if self.format == "qcow2" else {}
        return replace(self, preallocation=None, **{**kept, **self.choices()})

    def differences(self, image: Image) -> tuple[dict[str, t.Any], dict[str, t.Any]]:
        """What *image* has otherwise: (what amending can change, what only a rewrite can), as name to wanted value."""
        wanted = {name: value for name, value in self.choices().items() if value != getattr(image, name)}
        amendable = {name: value for name, value in wanted.items() if name in _AMENDABLE}
        return amendable, {name: value for name, value in wanted.items() if name in _FIXED}


def layout_of(image: Image) -> Layout:
    """The layout that a new image in the place of *image* is to have; without its allocation, which nobody can tell."""
    if image.format != "qcow2":
        return Layout(image.format)
    return Layout(
        "qcow2",
        cluster_size=image.cluster_size,
        compat=image.compat,
        refcount_bits=image.refcount_bits,
        lazy_refcounts=image.lazy_refcounts or None,
        extended_l2=image.extended_l2 or None,
        compression_type=image.compression_type if image.compression_type != "zlib" else None,
    )


def require_alike(old: Image, new: Image) -> None:
    """Raises DiskError where *new*, which is to take the place of *old*, is not laid out like it."""
    for name in ("virtual_size", *_FIXED, "compat", "refcount_bits"):
        before, after = getattr(old, name), getattr(new, name)
        if before != after:
            raise DiskError(
                f"{old.path}: the new image has {name} {after}, the old one {before}: it was removed, and the old one "
                "is as it was",
                path=old.path,
            )


def suffix(image_format: str) -> str:
    """The usual suffix of a file in that format, with its dot."""
    return "." + _SUFFIXES.get(image_format, image_format)


def known_suffixes() -> frozenset[str]:
    """The suffixes that say an image's format and are exchanged when the format changes."""
    return frozenset([suffix(name) for name in FORMATS] + [".img", ".vpc"])


def other_format_by_name(path: str, image_format: str) -> str | None:
    """The format that the name of an image says, where that is another one than *image_format*; None where it says
    nothing, or that."""
    ending = os.path.splitext(path)[1].lower()
    named = next((name for name in FORMATS if suffix(name) == ending), "vpc" if ending == ".vpc" else None)
    return None if named == image_format else named


def option_text(value: t.Any) -> str:
    """A value as qemu-img's option lists have it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)
