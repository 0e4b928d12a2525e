# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An image whose space is all reserved, and which stays so: QEMU punches holes where what it writes reads as zeros
(HAZARDS P8)."""

from __future__ import annotations

import typing as t
from contextlib import contextmanager, suppress

from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError
from ansible_collections.kvmops.disk.plugins.module_utils._host.space import reserve
from ansible_collections.kvmops.disk.plugins.module_utils._image import image as _image
from ansible_collections.kvmops.disk.plugins.module_utils._size import exact_size

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg


@contextmanager
def staying_thick(qemu_img: QemuImg, path: str, image_format: str, tell: t.Callable[[str], object]) -> t.Iterator[None]:
    """The block writes the image at *path*. One that was fully allocated is so afterwards; *tell* is told where its
    file system cannot reserve space, and how much is not reserved any more."""
    before = _image.inspect(qemu_img, path, image_format)
    yield
    if not before.is_thick:
        return
    with suppress(DiskError):
        reserve(path)
    tell_if_thinner(before, _image.inspect(qemu_img, path, image_format), "merge", tell)


def tell_if_thinner(before: _image.Image, after: _image.Image, work: str, tell: t.Callable[[str], object]) -> None:
    """Tells how much of an image that was fully allocated *before* the *work* is not so *after* it."""
    if before.is_thick and not after.is_thick:
        lost = exact_size(after.virtual_size - after.actual_size)
        tell(
            f"{before.path}: was fully allocated before the {work}, and {lost} of its disk are not reserved any more: "
            "convert it with a preallocation where that matters"
        )
