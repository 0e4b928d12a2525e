# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The backing file that an image is to have, and whether it has it."""

from __future__ import annotations

import os
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._errors import InvalidRequest

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image


@dataclass(frozen=True)
class RebaseWish:
    """The backing file that an image is to have: *backing_file*, which is read as *backing_format*.

    *backing_file* is empty where it is to have none, None where that is left open. *rebase* (safe, unsafe) is how it
    gets another one. *size*, in bytes, is what the disk is to have by then, None for what it has. *trusted*: the
    present backing file may be read, though nobody names it.
    """

    backing_file: str | None
    backing_format: str | None = None
    rebase: str = "safe"
    size: int | None = None
    trusted: bool = False

    def require_valid(self, path: str) -> None:
        """Raises InvalidRequest where no world could grant the wish for the image at *path*."""
        if self.backing_file == "" and self.rebase == "unsafe":
            raise InvalidRequest(
                "rebase: unsafe with an empty backing_file would throw away all that is read from the present one: "
                "leave rebase out to flatten the image"
            )
        if bool(self.backing_file) != (self.backing_format is not None):
            raise InvalidRequest(
                "backing_file: needs backing_format beside it, and the other way round: the format of a backing file "
                "is never guessed from its content"
            )
        if self.backing_file == path:
            raise InvalidRequest(f"backing_file: {path} cannot be its own backing file")


def is_wanted(wish: RebaseWish, image: Image) -> bool:
    """Whether the task wants the image to have another backing file than it has, or another format of that recorded."""
    if wish.backing_file is None:
        return False
    if not wish.backing_file or image.backing_file is None:
        return bool(wish.backing_file) != (image.backing_file is not None)
    return not is_same_file(wish, image) or _is_misnamed(wish, image)


def is_same_file(wish: RebaseWish, image: Image) -> bool:
    """Whether the image has the wanted backing file, by whatever name and in whatever format."""
    if not wish.backing_file or image.backing_file is None:
        return False
    return os.path.realpath(image.backing_file) == os.path.realpath(wish.backing_file)


def _is_misnamed(wish: RebaseWish, image: Image) -> bool:
    """Whether the recorded format is another one. Formats but qcow2 cannot record each, and say nothing then."""
    says_nothing = image.backing_format is None and image.format != "qcow2"
    return image.backing_format != wish.backing_format and not says_nothing
