# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a task wants of the copy of an image."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._errors import InvalidRequest
from ansible_collections.kvmops.disk.plugins.module_utils._image import key_slots as _key_slots
from ansible_collections.kvmops.disk.plugins.module_utils._image.choices import (
    KEEP_AUTO,
    KEEP_REQUIRED,
    KEEP_WORDS,
)
from ansible_collections.kvmops.disk.plugins.module_utils._image.encryption import (
    EncryptionWish,
    Openers,
    require_valid,
)
from ansible_collections.kvmops.disk.plugins.module_utils._size import parse_size
from ansible_collections.kvmops.disk.plugins.module_utils._task.arguments import (
    absolute,
    layout_from,
    overcommit_from,
    search_paths_from,
)

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._image.layout import Layout

#: When a destination that exists is made anew.
UPDATES = ("missing", "changed", "always")


@dataclass(frozen=True)
class ImageConvertWish:
    """The image that a task wants at *dest*: with the content of *src*, at *snapshot* where that is named.

    *rate* is in bytes in a second, *backing_file* the one that the new image is to have. *openers* are the secrets of
    an encrypted source; *decrypt*: its content may be stored in the clear. *encryption* is that of the new image.
    *trusted* images may refer to any file. *max_overcommit* is how many times its size the file system may promise.
    *align_size*: the size of a raw image is rounded up to what its file system needs.
    """

    src: str
    src_format: str
    dest: str
    layout: Layout
    update: str = "missing"
    snapshot: str | None = None
    backing_file: str | None = None
    backing_format: str | None = None
    compress: bool = False
    keep_bitmaps: str = KEEP_AUTO
    rate: int | None = None
    verify: bool = True
    remove_src: bool = False
    openers: Openers | None = None
    decrypt: bool = False
    encryption: EncryptionWish | None = None
    trusted: bool = False
    max_overcommit: float | None = None
    align_size: bool = False

    def require_valid(self) -> None:
        """Raises InvalidRequest where no world could grant the wish."""
        require_valid(self.encryption, self.layout.format)
        if self.compress and self.encryption:
            raise InvalidRequest(
                "compress: QEMU cannot encrypt what it compresses: leave out compress or encryption (a compressed copy "
                "can be kept on an encrypted file system)"
            )
        self.layout.require_valid(overlay=self.backing_file is not None, compressed=self.compress)
        if self.compress and self.layout.format == "vmdk" and self.layout.subformat != "streamOptimized":
            raise InvalidRequest("compress: only vmdk images of subformat streamOptimized are compressed: ask for that")
        if self.snapshot is not None and self.src_format != "qcow2":
            raise InvalidRequest(f"snapshot: {self.src_format} images have no snapshots inside: leave it out")
        self._require_valid_backing()
        self._require_valid_bitmaps()

    def _require_valid_backing(self) -> None:
        if (self.backing_file is None) != (self.backing_format is None):
            raise InvalidRequest(
                "backing_file: needs backing_format beside it, and the other way round: the format of a backing file "
                "is never guessed from its content"
            )
        if self.backing_file is None:
            return
        if self.layout.format != "qcow2":
            raise InvalidRequest(f"backing_file: only offered for qcow2 images, the format is {self.layout.format}")

    def _require_valid_bitmaps(self) -> None:
        if self.keep_bitmaps != KEEP_REQUIRED:
            return
        if (self.src_format, self.layout.format) != ("qcow2", "qcow2") or self.layout.compat == "0.10":
            raise InvalidRequest("keep_bitmaps: only qcow2 images of compat 1.1 have bitmaps: leave it out")
        if self.snapshot is not None:
            raise InvalidRequest("keep_bitmaps: the bitmaps of an image say nothing about its snapshot: leave it out")


def wish_from(params: dict[str, t.Any]) -> ImageConvertWish:
    """The wish that the parameters express. Raises InvalidRequest where they contradict themselves."""
    search_paths_from(params)
    max_overcommit, dest = overcommit_from(params), absolute(params["dest"], "dest")
    backing_file, rate = params["backing_file"], params["rate_limit"]
    wish = ImageConvertWish(
        src=absolute(params["src"], "src"),
        src_format=params["src_format"],
        dest=dest,
        layout=layout_from(params),
        update=params["update"],
        snapshot=params["snapshot"],
        backing_file=absolute(backing_file, "backing_file") if backing_file is not None else None,
        backing_format=params["backing_format"],
        compress=params["compress"],
        keep_bitmaps=KEEP_WORDS[params["keep_bitmaps"]],
        rate=parse_size(rate, "rate_limit") if rate is not None else None,
        verify=params["verify"],
        remove_src=params["remove_src"],
        openers=_key_slots.openers_from(params, "src_encryption"),
        decrypt=params["decrypt"],
        encryption=_key_slots.wish_from(params["encryption"]),
        trusted=params["trusted"],
        max_overcommit=max_overcommit,
        align_size=params["align_size"],
    )
    wish.require_valid()
    return wish
