# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The chain that was looked at is the one that qemu-img reads: whoever may write an image can change its header, or put
another file at its name, between the look and the reading."""

from __future__ import annotations

import os
import stat
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._errors import UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._formats import headers as _headers
from ansible_collections.kvmops.disk.plugins.module_utils._host.strangers import open_directory
from ansible_collections.kvmops.disk.plugins.module_utils._qemu.secrets import WITH_BACKING, Layer

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg

#: What a file was when it was looked at: device, inode, length, and when it last changed (ns), which nobody can set.
Looks = t.Mapping[str, "tuple[int, int, int, int]"]


def following(qemu_img: QemuImg, chain: t.Sequence[Image]) -> QemuImg:
    """*qemu_img*, which reads the first of *chain*, the images that were looked at, over the others, and no other file.

    Where that cannot be told to it (another format with a backing file, a data file, a device), it reads what it finds,
    and require_unmoved() proves afterwards that it was the same.
    """
    if not all(_is_plain(image) for image in chain):
        return qemu_img
    return qemu_img.following([Layer(image.path, image.format) for image in chain])


def looks_of(files: t.Iterable[str]) -> Looks:
    """Those of *files* that others may exchange, as they are now. Take them before what the files say is looked at."""
    return {file: _looks(file) for file in files if os.path.exists(file) and open_directory(file) is not None}


def require_as_looked_at(images: t.Iterable[Image]) -> None:
    """Raises UnsafeImage where one of *images* that others may exchange refers to other files by now than when it was
    looked at. Call it with looks_of() taken before: then it is so until require_unmoved() says that it is still."""
    for image in images:
        if image.format in WITH_BACKING and open_directory(image.path) is not None:
            require_same_references(image.path, image)


def require_same_references(file: str, image: Image) -> None:
    """Raises UnsafeImage where *file*, which is *image* or a copy of it, refers to other files than that did when it
    was looked at."""
    with _headers.open_image(file) as stream:
        found = _headers.references(stream, image.format, file)
    named = [_headers.resolve(name, image.path) or name for name in (found.backing_file, *found.data_files) if name]
    if named != [name for name in (image.backing_file, image.data_file) if name]:
        raise _changed(image.path)


def require_unmoved(before: Looks) -> None:
    """Raises UnsafeImage where one of the files that had those looks *before* is another one now, or was changed."""
    for file, looks in before.items():
        if not os.path.exists(file) or _looks(file) != looks:
            raise _changed(file)


def _changed(file: str) -> UnsafeImage:
    return UnsafeImage(
        f"{file}: was changed, or exchanged, while it was read: what was made of it was removed: find out who writes "
        "it, then run again",
        path=file,
    )


def _is_plain(image: Image) -> bool:
    if image.format not in (*WITH_BACKING, "raw") or image.data_file is not None:
        return False
    return stat.S_ISREG(os.stat(image.path).st_mode)


def _looks(file: str) -> tuple[int, int, int, int]:
    status = os.stat(file)
    return status.st_dev, status.st_ino, status.st_size, status.st_ctime_ns
