# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether the files of an image are all there: what was cut short reads as zeros, and looks right in a comparison."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._formats import reach as _reach
from ansible_collections.kvmops.disk.plugins.module_utils._size import exact_size

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._formats.pieces import Cut


class Link(t.Protocol):
    """An image, or what is known of one of a chain: its path and its format, None where there is no file."""

    @property
    def path(self) -> str | None: ...

    @property
    def format(self) -> str | None: ...


def require_whole(images: t.Iterable[Link]) -> None:
    """Raises UnsafeImage for the first of *images* of which something lies behind the end of a file (HAZARDS P1)."""
    for image in images:
        if image.path is not None and image.format is not None:
            require_whole_image(image.path, image.format)


def require_whole_image(path: str, image_format: str) -> None:
    """The same for the image at *path*, without those below it.

    Facts: ``truncated``, the ``path`` of the image, the ``file`` that is too short, its ``size``, and the ``offset`` of
    the piece that lies the furthest.
    """
    lost = _reach.find_cut(path, image_format)
    if lost is not None:
        raise cut_short(path, lost)


def find_cut(path: str, image_format: str) -> Cut | None:
    """What is lost of an image that QEMU refuses; None, too, where its tables cannot be read."""
    try:
        return _reach.find_cut(path, image_format)
    except DiskError:
        return None


def cut_short(path: str, lost: Cut, **facts: t.Any) -> UnsafeImage:
    """The error for the image at *path*, of which something is *lost*; *facts* are more of them."""
    file = "the file" if lost.file == path else f"its file {lost.file}"
    return UnsafeImage(
        f"{path}: was cut short: it has data at {lost.piece.offset} that needs {exact_size(lost.piece.end)}, but "
        f"{file} ends at {exact_size(lost.length)}, and what is behind that would be read as zeros: get the whole file "
        "again, from where it was copied from or from a backup",
        path=path,
        truncated=True,
        file=lost.file,
        size=lost.length,
        offset=lost.piece.offset,
        **facts,
    )
