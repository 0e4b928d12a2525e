# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How much an image would occupy if it were written anew: what can be foretold without doing it. Pure.

Each bound counts whole clusters, and all tables that they need. So what a rewrite gives back is at least the rest.
"""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._ranges import Ranges, united
from ansible_collections.kvmops.disk.plugins.module_utils._size import rounded_up

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
    from ansible_collections.kvmops.disk.plugins.module_utils._image.layout import Layout

#: The formats whose images are written anew.
FORMATS = ("raw", "qcow2")
#: What a raw image takes for each byte that is no zero: the largest block of a file system.
_BLOCK = 64 << 10


def grain(layout: Layout) -> int:
    """The bytes of the disk that take space together, or none."""
    return layout.cluster_size or _BLOCK


def most_bytes(layout: Layout, size: int, data: Ranges, told: Ranges) -> int:
    """What a thin image of that *layout*, for a disk of *size* bytes, occupies at most.

    *data* are the ranges of the disk that hold something; *told* are all of which the image says anything, its zeros
    over a backing file included: those take no data, but a place in its tables.
    """
    step = grain(layout)
    clusters = _touched(data, step)
    if layout.format == "raw":
        return clusters * step
    clusters += _touched([*data, *told], step * (step // (16 if layout.extended_l2 else 8)))
    counts = clusters // (step * 8 // (layout.refcount_bits or 16)) + 1
    return layout.bytes_of_empty(size) + (clusters + counts) * step


def at_least(image: Image, most: int) -> int:
    """The bytes that a rewrite gives back at least, where the new image occupies at *most* so many."""
    return max(0, image.actual_size - most)


def _touched(ranges: Ranges, step: int) -> int:
    """How many pieces of *step* bytes *ranges* touch."""
    pieces = united([(start // step * step, rounded_up(end, step)) for start, end in ranges])
    return sum(end - start for start, end in pieces) // step
