# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sizes of raw images that QEMU cannot open past the page cache (HAZARDS P7), as cache=none and directsync have it do.

It has to write whole steps of the storage, and a raw image ends where its disk ends. Other formats grow as they need.
"""

from __future__ import annotations

import os
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError
from ansible_collections.kvmops.disk.plugins.module_utils._host.direct_io import alignment
from ansible_collections.kvmops.disk.plugins.module_utils._size import exact_size, rounded_up

#: libvirt's cache modes that go past the page cache.
PAST_THE_CACHE = frozenset(("none", "directsync"))

#: What to do, for a task that says how large the image is to be.
HAVE_IT_ROUNDED = "ask for that, or set align_size=true to have it rounded up"


@dataclass(frozen=True)
class Misfit:
    """A raw image at *path* of *size* bytes, on a file system that needs a multiple of *step* bytes."""

    path: str
    size: int
    step: int

    @property
    def next_size(self) -> int:
        return rounded_up(self.size, self.step)

    def __str__(self) -> str:
        return (
            f"{self.path}: QEMU cannot open a raw image of {exact_size(self.size)} there past the page cache "
            f"(cache none or directsync), which takes a multiple of {self.step} bytes: the next size is "
            f"{self.next_size} bytes"
        )


def misfit(path: str, image_format: str, size: int) -> Misfit | None:
    """What is wrong with an image of *size* bytes that is to be at *path*; None where nothing is."""
    if image_format != "raw":
        return None
    step = alignment(os.path.realpath(path))
    return Misfit(path, size, step) if size % step else None


def fitting_size(path: str, image_format: str, size: int) -> int:
    """*size*, rounded up to what QEMU can open at *path* in any way."""
    found = misfit(path, image_format, size)
    return found.next_size if found else size


def require_openable(path: str, image_format: str, size: int, cache: str | None, what: str, way_out: str) -> None:
    """Raises DiskError where the domain could not open such an image for its disk *what*, in the *cache* mode of that.

    Facts: ``virtual_size``, ``next_size``.
    """
    found = misfit(path, image_format, size) if cache in PAST_THE_CACHE else None
    if found is not None:
        raise DiskError(
            f"{what}: has cache={cache}: {found}: {way_out}", virtual_size=size, next_size=found.next_size, path=path
        )


def warn_of_misfit(
    path: str, image_format: str, size: int, warn: t.Callable[[str], object], way_out: str = HAVE_IT_ROUNDED
) -> None:
    """Says so where nobody knows in which way the image will be opened."""
    found = misfit(path, image_format, size)
    if found is not None:
        warn(f"{found}: {way_out}")
