# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether the files of an image are all there: what was cut short reads as zeros, and looks right in a comparison."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._errors import UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._formats import reach as _reach
from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
from ansible_collections.kvmops.disk.plugins.module_utils._size import exact_size


def require_whole(images: t.Iterable[Image]) -> None:
    """Raises UnsafeImage where something that one of *images* holds lies behind the end of its file (HAZARDS P1).

    Facts: ``truncated``, ``path`` of the image, ``file`` that is too short, its ``size``, and the ``offset`` of the
    piece that lies the furthest.
    """
    for image in images:
        lost = _reach.find_cut(image.path, image.format)
        if lost is not None:
            raise UnsafeImage(
                f"{image.path}: was cut short: {_where(image, lost)}, and everything behind that would be read as "
                "zeros: nothing was done: get the whole file again, from where it was copied from or from a backup",
                path=image.path,
                truncated=True,
                file=lost.file,
                size=lost.length,
                offset=lost.piece.offset,
            )


def _where(image: Image, lost: _reach.Cut) -> str:
    file = "the file" if lost.file == image.path else f"its file {lost.file}"
    return (
        f"it has data at {lost.piece.offset} that needs {exact_size(lost.piece.end)}, but {file} ends at "
        f"{exact_size(lost.length)}"
    )
