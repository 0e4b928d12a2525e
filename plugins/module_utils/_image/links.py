# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The backing files of any number of images, by their headers alone."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError
from ansible_collections.kvmops.disk.plugins.module_utils._formats import headers as _headers
from ansible_collections.kvmops.disk.plugins.module_utils._image.image import DEEPEST_CHAIN


class Links:
    """References by headers alone, of any number of chains; what several of them have in common is looked at once."""

    def __init__(self) -> None:
        self._below: dict[tuple[str, str], tuple[str, str | None] | None] = {}
        #: The images that are there, and cannot be read.
        self.unread: set[str] = set()

    def of(self, top: str, image_format: str, *, known: bool = False) -> t.Iterator[tuple[str, str | None]]:
        """The references below *top* as (path, format), until one does not resolve or repeats.

        *known*: somebody else says them, too, so that it is no loss where they cannot be read.
        """
        seen: set[tuple[str, str]] = set()
        path, fmt = top, image_format
        while (path, fmt) not in seen and len(seen) < DEEPEST_CHAIN:
            seen.add((path, fmt))
            if (path, fmt) not in self._below:
                self._below[path, fmt] = self._link(path, fmt, known=known)
            below = self._below[path, fmt]
            if below is None:
                return
            yield below
            if below[1] is None:
                return
            path, fmt = below[0], below[1]

    def _link(self, path: str, image_format: str, *, known: bool) -> tuple[str, str | None] | None:
        """The backing file of the image at *path* and its format; None where there is none, or it cannot be read."""
        try:
            with _headers.open_image(path) as stream:
                found = _headers.references(stream, image_format, path)
        except (DiskError, OSError) as error:
            if not known and _headers.is_unreadable(error):
                self.unread.add(path)
            return None
        below = _headers.resolve(found.backing_file, path) if found.backing_file else None
        return (below, found.backing_format) if below is not None else None


def files_read(top: str, image_format: str) -> t.Iterator[str]:
    """The files that QEMU reads for the image at *top*: its own and those of all below it, as far as headers tell."""
    for path, fmt in ((top, image_format), *Links().of(top, image_format)):
        yield path
        yield from _data_files(path, fmt) if fmt is not None else ()


def _data_files(path: str, image_format: str) -> list[str]:
    try:
        with _headers.open_image(path) as stream:
            names = _headers.references(stream, image_format, path).data_files
    except (DiskError, OSError):
        return []
    return [file for name in names for file in (_headers.resolve(name, path),) if file is not None]
