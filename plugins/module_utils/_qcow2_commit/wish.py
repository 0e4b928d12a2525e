# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a task wants of a merge."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._errors import InvalidRequest
from ansible_collections.kvmops.disk.plugins.module_utils._image import key_slots as _key_slots
from ansible_collections.kvmops.disk.plugins.module_utils._size import parse_size
from ansible_collections.kvmops.disk.plugins.module_utils._task.arguments import absolute, search_paths_from

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._image.encryption import Openers

#: The formats of overlays that qemu-img merges, and whose headers say the format of what they read.
OVERLAYS = ("qcow2", "qed")
#: What can become of an overlay.
ENDS = ("keep", "empty", "remove")


@dataclass(frozen=True)
class CommitWish:
    """What the task wants: *path*, an overlay, merged into *base* (None: its backing file).

    *end* is what then becomes of it: keep, empty or remove. *rate*: bytes in a second. *openers* are the secrets of
    encrypted images. *trusted* images may refer to any file; *allow_dependents*: other overlays may be given up.
    """

    path: str
    format: str
    base: str | None = None
    base_format: str | None = None
    end: str = "empty"
    rate: int | None = None
    openers: Openers | None = None
    trusted: bool = False
    allow_dependents: bool = False

    def require_valid(self) -> None:
        """Raises InvalidRequest where no world could grant the wish."""
        if self.base == self.path:
            raise InvalidRequest(f"base: {self.path} cannot be merged into itself: name an image below it")
        if self.end == "empty" and self.format != "qcow2":
            raise InvalidRequest(f"overlay: {self.format} images are not emptied: set overlay to keep, or to remove")


def wish_from(params: dict[str, t.Any]) -> CommitWish:
    """The wish that the parameters say. Raises InvalidRequest where they contradict each other."""
    search_paths_from(params)
    base, rate = params["base"], params["rate_limit"]
    wish = CommitWish(
        path=absolute(params["path"], "path"),
        format=params["format"],
        base=absolute(base, "base") if base is not None else None,
        base_format=params["base_format"],
        end="remove" if params["remove"] else params["overlay"] or "empty",
        rate=parse_size(rate, "rate_limit") if rate is not None else None,
        openers=_key_slots.openers_from(params, "encryption"),
        trusted=params["trusted"],
        allow_dependents=params["allow_dependents"],
    )
    wish.require_valid()
    return wish
