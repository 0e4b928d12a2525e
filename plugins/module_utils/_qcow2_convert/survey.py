# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What stands at the destination of a conversion, and what there is of its source."""

from __future__ import annotations

import os
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import replace
from ansible_collections.kvmops.disk.plugins.module_utils._errors import InvalidRequest, UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._files import file_set as _file_set
from ansible_collections.kvmops.disk.plugins.module_utils._files.names import Names, looked_up
from ansible_collections.kvmops.disk.plugins.module_utils._image import image as _image
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_convert.decision import Source

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
    from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_convert.wish import ImageConvertWish
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg


def placed(wish: ImageConvertWish) -> ImageConvertWish:
    """*wish* for the file that its destination leads to, where that is a link."""
    return replace(wish, dest=os.path.realpath(wish.dest)) if os.path.islink(wish.dest) else wish


def names(wish: ImageConvertWish) -> Names:
    """The real names of the files that the task names."""
    return looked_up([wish.src, wish.dest, wish.backing_file])


def destination(wish: ImageConvertWish, qemu_img: QemuImg) -> Image | None:
    """The image that stands at the destination; None where nothing does. Where a run died while it replaced it, it is
    the one that stood there and will again.

    Raises UnsafeImage where it has another format, or where nobody can tell what the destination is.
    """
    path = wish.dest
    if os.path.islink(path):
        raise UnsafeImage(
            f"{path}: is a symbolic link whose target is missing: remove it, or make its target first", path=path
        )
    if os.path.isdir(path):
        raise InvalidRequest(f"dest: {path} is a directory: name the file in it")
    return existing(wish, qemu_img) if os.path.lexists(_file_set.stands_at(path)) else None


def existing(wish: ImageConvertWish, qemu_img: QemuImg) -> Image:
    """The same where it is known that there is one."""
    path = _file_set.stands_at(wish.dest)
    _image.require_regular_file(path)
    _image.require_format(path, wish.layout.format)
    image = _image.inspect(qemu_img, path, wish.layout.format)
    extents = (os.path.join(os.path.dirname(wish.dest), os.path.basename(extent)) for extent in image.extents)
    return replace(image, path=wish.dest, extents=tuple(extents))


def source(wish: ImageConvertWish, note: t.Mapping[str, t.Any] | None) -> Source:
    """What there is of the source; *note* is what the record of a run says beside it."""
    if not os.path.lexists(wish.src):
        return Source.GONE
    begun = note is not None and note.get("removing") == wish.dest
    return Source.GOING if begun else Source.WHOLE
