# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a person should hear of raw images before they are read or written: nothing of it is an error."""

from __future__ import annotations

import os
import stat
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError
from ansible_collections.kvmops.disk.plugins.module_utils._formats import headers as _headers
from ansible_collections.kvmops.disk.plugins.module_utils._formats.compressed import compressed_by
from ansible_collections.kvmops.disk.plugins.module_utils._host.holes import are_told_truly
from ansible_collections.kvmops.disk.plugins.module_utils._image.layout import other_format_by_name, suffix
from ansible_collections.kvmops.disk.plugins.module_utils._image.links import Links
from ansible_collections.kvmops.disk.plugins.module_utils._size import SECTOR, rounded_up

Warn = t.Callable[[str], object]


def warn_of_compressed(path: str, image_format: str, warn: Warn) -> None:
    """Says so where the image at *path*, or one below it, is read as raw, and is a compressed file (HAZARDS P10)."""
    for link, link_format in ((path, image_format), *Links().of(path, image_format)):
        program = _compressed_by(link) if link_format == "raw" else None
        if program is not None:
            warn(
                f"{link}: is read as a raw disk, but looks compressed ({program}), so a guest would see noise: unless "
                "that is meant, decompress it first"
            )


def warn_of_name(path: str, image_format: str, warn: Warn) -> None:
    """Says so where the name of an image that is made says another format than it has."""
    other = other_format_by_name(path, image_format)
    if other is not None:
        meant = os.path.splitext(path)[0] + suffix(image_format)
        warn(
            f"{path}: is named like a {other} image, and made as {image_format}: a program that goes by the name "
            f"misreads it: name it {meant}, or set format={other}"
        )


def warn_of_partial_sector(path: str, image_format: str, warn: Warn) -> None:
    """Says so where a raw image that is to be written ends within a sector: QEMU fills that up."""
    status = os.stat(path)
    if image_format == "raw" and stat.S_ISREG(status.st_mode) and status.st_size % SECTOR:
        warn(
            f"{path}: its file has {status.st_size} bytes, no whole number of sectors of {SECTOR} bytes: it is rounded "
            f"up to {rounded_up(status.st_size, SECTOR)} bytes when it is written"
        )


def warn_of_untold_holes(paths: t.Iterable[str], to_do: str, warn: Warn) -> None:
    """Says so where QEMU is to copy, below a guest that runs, from a file whose holes may hold data (HAZARDS P6)."""
    for path in paths:
        if not are_told_truly(path):
            warn(
                f"{path}: its file system is not known to tell holes truly, and {to_do} below a running guest cannot "
                "be compared: what is called a hole by mistake would be lost: do it offline (method=offline), where "
                "all is read and compared, unless you know this file system"
            )


def _compressed_by(path: str) -> str | None:
    try:
        with _headers.open_image(path) as stream:
            return compressed_by(stream)
    except DiskError:
        return None
