# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a task wants of a dirty bitmap."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._errors import InvalidRequest
from ansible_collections.kvmops.disk.plugins.module_utils._image.key_slots import openers_from
from ansible_collections.kvmops.disk.plugins.module_utils._size import parse_size
from ansible_collections.kvmops.disk.plugins.module_utils._task.arguments import absolute, require_usable_name

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._image.encryption import Openers

_LONGEST_NAME = 1023  # BDRV_BITMAP_MAX_NAME_SIZE
_FINEST, _COARSEST = 512, 1 << 31  # bytes for a bit


@dataclass(frozen=True)
class BitmapWish:
    """What the task wants of the bitmap *name*; *sources* are those that are to be merged into it, of the image *file*,
    or of the same one. The openers hold the secrets of the two."""

    path: str
    name: str
    state: str
    granularity: int | None = None
    sources: tuple[str, ...] = ()
    file: str | None = None
    openers: Openers | None = None
    source_openers: Openers | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """The image, and the one that bitmaps are merged from."""
        return (self.path, *([self.file] if self.file is not None else []))

    def require_valid(self) -> None:
        """Raises InvalidRequest where no world could grant the wish."""
        for what, name in (("bitmap", self.name), *(("merge_from", name) for name in self.sources)):
            require_usable_name(name, what, _LONGEST_NAME)
        if (self.state == "merged") != bool(self.sources):
            raise InvalidRequest("merge_from: is for state=merged, and required there: name the bitmaps to merge")
        if self.file is not None and not self.sources:
            raise InvalidRequest("merge_from_path: is for state=merged only: leave it out")
        if self.file == self.path:
            raise InvalidRequest("merge_from_path: is the image itself: leave it out")
        if self.file is None and self.name in self.sources:
            raise InvalidRequest(f"merge_from: {self.name!r} cannot be merged into itself")
        size = self.granularity
        if size is None:
            return
        if self.state != "present":
            raise InvalidRequest("granularity: is chosen when a bitmap is made: give it with state=present only")
        if not _FINEST <= size <= _COARSEST or size & (size - 1):
            raise InvalidRequest(f"granularity: {size} is not a power of two from 512 to 2G")


def wish_from(params: dict[str, t.Any]) -> BitmapWish:
    """The wish that the parameters say. Raises InvalidRequest where they contradict each other."""
    granularity, other = params["granularity"], params["merge_from_path"]
    wish = BitmapWish(
        path=absolute(params["path"], "path"),
        name=params["bitmap"],
        state=params["state"],
        granularity=parse_size(granularity, "granularity") if granularity is not None else None,
        sources=tuple(params["merge_from"] or ()),
        file=absolute(other, "merge_from_path") if other is not None else None,
        openers=openers_from(params, "encryption"),
        source_openers=openers_from(params, "merge_from_encryption"),
    )
    wish.require_valid()
    return wish
