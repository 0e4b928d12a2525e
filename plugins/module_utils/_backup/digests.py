# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The SHA-256 of files: of what was written, and of what stands on the disk."""

from __future__ import annotations

import hashlib
import os
import typing as t

_PIECE = 4 << 20
#: Bytes between two reports of how far it is.
_TOLD_EVERY = 64 << 20
Report = t.Callable[[int], None]


def digest(file: int, report: Report = lambda _bytes: None) -> str:
    """The SHA-256 of an open *file*, read from its beginning; *report* is told how many bytes have been read."""
    found, at = hashlib.sha256(), 0
    while piece := os.pread(file, _PIECE, at):
        found.update(piece)
        at += len(piece)
        if at % _TOLD_EVERY == 0:
            report(at)
    return found.hexdigest()


def digest_on_disk(file: int, report: Report = lambda _bytes: None) -> str:
    """The same of what stands on the disk, as far as the kernel lets go of what it has in memory. Sync it before."""
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    return digest(file, report)
