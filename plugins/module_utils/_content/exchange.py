# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A new file in the place of an image that keeps its content: made beside it, compared with it, put in its place.

Whatever the moment of a kill, one of two whole files stands there: the old one, or the new one that was compared with
it. So a verb that leaves a worthless image where it is killed (HAZARDS A1) works on the new file.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from ansible_collections.kvmops.disk.plugins.module_utils._content import comparison as _comparison
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, ImageInUse
from ansible_collections.kvmops.disk.plugins.module_utils._files import durable as _durable
from ansible_collections.kvmops.disk.plugins.module_utils._files import rest as _rest
from ansible_collections.kvmops.disk.plugins.module_utils._files import same_file as _same_file
from ansible_collections.kvmops.disk.plugins.module_utils._files import staging as _staging
from ansible_collections.kvmops.disk.plugins.module_utils._host import image_locks as _image_locks
from ansible_collections.kvmops.disk.plugins.module_utils._host import space as _space
from ansible_collections.kvmops.disk.plugins.module_utils._image import graph as _graph
from ansible_collections.kvmops.disk.plugins.module_utils._usage import unused as _unused

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.runner import Report


class Exchange:
    """The new file for an image, which is replaced itself where its path is a link to it."""

    def __init__(self, images: Sequence[Image], to_do: str) -> None:
        """*images* are all that are read, that one first; *to_do* is what is asked of it, for the messages."""
        self.path = images[0].path
        self.file = os.path.realpath(self.path)
        self._images = images
        self._looks: _graph.Looks = {}
        self._to_do = to_do
        self._new = _staging.NewFile(self.file, self.file)
        self._old: list[int] = []
        self._as_read: tuple[int, int] = (0, 0)

    @property
    def name(self) -> str:
        """Where the new file is made."""
        return self._new.name

    def begin(self) -> None:
        """Makes room for the new file. Raises ImageInUse where somebody has the image open, UnsafeImage where one of
        the images is not what was looked at."""
        _unused.require_unused(self.path, (), self._to_do)
        self._looks = _graph.looks_of(file for image in self._images for file in image.files)
        _graph.require_as_looked_at(self._images)
        _durable.sync_before_reading(self.file)
        self._as_read = _same_file.last_write(self.file)
        self._old = _same_file.file_identity(self.file)
        self._new.begin()

    def require_same_content(self, image_format: str, qemu_img: QemuImg, report: Report | None = None) -> None:
        """Raises DiskError where a guest would not see the same in the new file; it is on stable storage afterwards."""
        with _durable.syncing(self.name):
            old, new = (self.path, image_format), (self.name, image_format)
            same = _comparison.same_content(qemu_img, old, new, report=report)
        if not same:
            raise DiskError(
                f"{self.path}: the new image has other content than the old one: it was removed, and the old one is "
                "as it was",
                path=self.path,
            )

    def dress(self, *, thin: bool = False) -> list[int]:
        """Gives the new file the owner, mode and attributes of the old one, and its space where that has no holes,
        unless it is to be *thin*; returns its identity, for a record."""
        _rest.resemble(self.name, self.file)
        if not thin and _space.has_no_holes(self.file):
            with suppress(DiskError):  # a file system that cannot reserve has reserved nothing before
                _space.reserve(self.name)
        return self._new.identity()

    def put_in_place(self) -> None:
        """Puts the new file in the place of the old one, which is kept until finish().

        Raises DiskError where somebody opened the image or wrote to it meanwhile.
        """
        _unused.require_unused(self.path, (), "put a new image in its place")
        self._require_unwritten(self.file)
        _graph.require_unmoved(self._looks)
        self._new.replace(self._old)
        kept = _staging.kept(self.file)
        if not os.path.exists(kept):
            return
        if _image_locks.is_locked(kept):
            raise ImageInUse(f"{self.path}: was opened in the meantime: nothing was changed: run again", in_use_by=[])
        self._require_unwritten(kept)

    def withdraw(self) -> None:
        """Puts the old file back, unless a guest has the new one open, which holds the same (HAZARDS A8)."""
        in_place = bool(self._old) and not _same_file.is_file(self.file, self._old)
        if self._old and not (in_place and _image_locks.is_locked(self.file)):
            self._new.withdraw()

    def finish(self) -> None:
        """Lets the old file go."""
        self._new.commit()

    def _require_unwritten(self, name: str) -> None:
        if _same_file.last_write(name) != self._as_read:
            raise DiskError(
                f"{self.path}: was written to while it was copied: the new image was removed: run again",
                path=self.path,
            )
