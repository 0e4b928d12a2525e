# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A look at the bitmaps of an image, and at those that are to be merged into one of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import replace
from ansible_collections.kvmops.disk.plugins.module_utils._formats import bitmaps as _bitmaps
from ansible_collections.kvmops.disk.plugins.module_utils._formats import headers as _headers
from ansible_collections.kvmops.disk.plugins.module_utils._formats import qcow2 as _qcow2
from ansible_collections.kvmops.disk.plugins.module_utils._formats.bitmaps import Bitmap, Bits
from ansible_collections.kvmops.disk.plugins.module_utils._image import image as _image
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_bitmap.decision import Observed, Source

if TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_bitmap.wish import BitmapWish
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg


def observe(qemu_img: QemuImg, wish: BitmapWish) -> Observed:
    """The image of *wish* and its bitmaps. Raises DiskError where it cannot be read."""
    image = _image.inspect(qemu_img, wish.path, "qcow2")
    with _headers.open_image(wish.path) as stream:
        header = _qcow2.read_header(stream, wish.path)
        bitmaps = _bitmaps.read_bitmaps(stream, header, wish.path)
        dirty = {
            one.name: None if one.in_use else Bits(stream, header, one, wish.path).count() * one.granularity
            for one in bitmaps
        }
        observed = Observed(image, bitmaps, dirty)
        target = observed.find(wish.name)
        if target is None or target.in_use or wish.state != "merged":
            return observed
        return replace(observed, source=_source(wish, Bits(stream, header, target, wish.path)))


def _source(wish: BitmapWish, target: Bits) -> Source:
    """What is to be merged into the bitmap with the bits *target*."""
    path = wish.file or wish.path
    _image.first_look(path, "qcow2")
    with _headers.open_image(path) as stream:
        header = _qcow2.read_header(stream, path)
        known = _bitmaps.read_bitmaps(stream, header, path)

        def is_covered(one: Bitmap) -> bool:
            return not one.in_use and target.covers(Bits(stream, header, one, path))

        comparable = known if header.virtual_size == target.disk else ()
        meant = {name.encode(): name for name in wish.sources}
        covered = frozenset(meant[one.name] for one in comparable if one.name in meant and is_covered(one))
        return Source(path, header.virtual_size, known, covered)
