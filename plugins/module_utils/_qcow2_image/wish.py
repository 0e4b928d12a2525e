# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a task wants of an image."""

from __future__ import annotations

from dataclasses import dataclass

from ansible_collections.kvmops.disk.plugins.module_utils._errors import InvalidRequest
from ansible_collections.kvmops.disk.plugins.module_utils._image import encryption as _encryption
from ansible_collections.kvmops.disk.plugins.module_utils._image.encryption import EncryptionWish
from ansible_collections.kvmops.disk.plugins.module_utils._image.layout import Layout


@dataclass(frozen=True)
class ImageWish:
    """The image that a task wants at *path*; *size* in bytes, None for that of the backing file, or as it is.

    *backing_file* is empty where it is to have none, None where the task leaves that open. *rebase* (safe, unsafe) is
    how an image gets another one; *trusted* images may be read with what they refer to.
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

    def require_valid(self) -> None:
        """Raises InvalidRequest where no world could grant the wish."""
        self.layout.require_valid(size=self.size, overlay=bool(self.backing_file))
        _encryption.require_valid(self.encryption, self.layout.format)
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
        if self.backing_file == self.path:
            raise InvalidRequest(f"backing_file: {self.path} cannot be its own backing file")
