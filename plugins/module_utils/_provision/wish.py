# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a task wants of an image."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._content.rebase_wish import RebaseWish
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._size import parse_size
from ansible_collections.kvmops.disk.plugins.module_utils._task.arguments import (
    absolute,
    layout_from,
    overcommit_from,
    search_paths_from,
)

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._image.encryption import EncryptionWish
    from ansible_collections.kvmops.disk.plugins.module_utils._image.layout import Layout


@dataclass(frozen=True)
class ImageWish:
    """The image that a task wants at *path*; *size* in bytes, None for that of the backing file, or as it is.

    *backing_file* is empty where it is to have none, None where the task leaves that open. *rebase* (safe, unsafe) is
    how an image gets another one; *trusted* images may be read with what they refer to.
    *max_overcommit*: how many times its own size the file system may promise. *align_size*: the size of a raw image is
    rounded up to what its file system needs. *nocow*: the data of a new image is written in place.
    """

    path: str
    layout: Layout
    size: int | None = None
    backing_file: str | None = None
    backing_format: str | None = None
    shrink: bool = False
    rebase: str = "safe"
    trusted: bool = False
    encryption: EncryptionWish | None = None
    max_overcommit: float | None = None
    align_size: bool = False
    nocow: bool = False

    def require_valid(self) -> None:
        """Raises InvalidRequest where no world could grant the wish."""
        self.layout.require_valid(size=self.size, overlay=bool(self.backing_file))
        if self.encryption is not None or self.layout.format == "luks":
            from ansible_collections.kvmops.disk.plugins.module_utils._image.encryption import require_valid

            require_valid(self.encryption, self.layout.format)
        self.rebase_wish.require_valid(self.path)

    @property
    def rebase_wish(self) -> RebaseWish:
        """What the task wants of the backing file of an image that is there."""
        return RebaseWish(self.backing_file, self.backing_format, self.rebase, self.size, self.trusted)


@dataclass(frozen=True)
class RemovalWish:
    """No image at *path*. With *force* it goes though a domain that is off defines it."""

    path: str
    force: bool = False


def wish_from(params: t.Mapping[str, t.Any]) -> ImageWish:
    """The wish that the parameters say. Raises InvalidRequest where they contradict each other."""
    search_paths_from(params)
    size, backing_file = params["size"], params["backing_file"]
    wish = ImageWish(
        path=absolute(params["path"], "path"),
        layout=layout_from(params),
        size=parse_size(size) if size is not None else None,
        backing_file=absolute(backing_file, "backing_file") if backing_file else backing_file,
        encryption=_encryption_from(params["encryption"]),
        max_overcommit=overcommit_from(params),
        **{name: params[name] for name in ("backing_format", "shrink", "rebase", "trusted", "align_size", "nocow")},
    )
    wish.require_valid()
    return wish


def removal_from(params: t.Mapping[str, t.Any]) -> RemovalWish:
    """The wish of a task with state=absent. Raises InvalidRequest where it names no image, or no directory."""
    search_paths_from(params)
    return RemovalWish(absolute(params["path"], "path"), params["force"])


def _encryption_from(params: dict[str, t.Any] | None) -> EncryptionWish | None:
    if params is None:
        return None
    from ansible_collections.kvmops.disk.plugins.module_utils._image.key_slots import wish_from

    return wish_from(params)
