# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is noted of bases (_base) follows what is done to the images that read them, whoever does it.

Before a run changes its images, their bases are known, and its records name them. Afterwards an overlay that reads its
base no more is forgotten, one that has come to read it is noted, and the last one that goes sets the base free. That is
done before the records go, so that the next run does it where this one dies.
"""

from __future__ import annotations

import os
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils import _base, _references
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError
from ansible_collections.kvmops.disk.plugins.module_utils._lock import Operation


def find(operation: Operation, promised: t.Mapping[str, t.Iterable[str]] = {}) -> None:
    """Has *operation* know the noted bases of the images that it holds, and those that are *promised* overlays."""
    for path in operation.paths:
        for base in _noted_bases(path):
            operation.depends(base, path)
    for base, overlays in promised.items():
        for path in overlays:
            operation.depends(os.path.realpath(base), path)


def settle(operations: t.Iterable[Operation], readers: _base.Readers) -> list[str]:
    """Brings what is noted of the bases of *operations* up to date with their overlays. *readers* searches for others.

    A base that is itself held is looked at, too: somebody may have removed its last overlay by hand. Returns what could
    not be done, in words: the work itself is done then.
    """
    bases: dict[str, set[str]] = {}
    for operation in operations:
        for base, known in operation.bases.items():
            bases.setdefault(base, set()).update(known)
        for path in operation.paths:
            for base in _noted_bases(path):
                bases.setdefault(base, set()).add(path)
            if _is_noted(path):
                bases.setdefault(os.path.realpath(path), set())
    failed = []
    for base, overlays in sorted(bases.items()):
        try:
            update(base, overlays, readers)
        except DiskError as error:
            failed.append(str(error))
    return failed


def update(base: str, overlays: t.Iterable[str], readers: _base.Readers) -> None:
    """Notes those of *overlays* that read *base* now, and forgets the others. Raises DiskError where that fails."""
    note = _base.own_note(base) if os.path.isfile(base) else None
    if note is None:
        return
    now = {path: _base.reads(path, base) for path in overlays}
    new = [path for path, reads in now.items() if reads and os.path.abspath(path) not in note.overlays]
    if new:
        _base.protect(base, new, read_only=False)
    gone = [path for path, reads in now.items() if not reads]
    if (gone or not now) and _base.is_in_use(base):
        _base.release(base, gone, readers)


def unprotected(bases: t.Iterable[t.Mapping[str, t.Sequence[str]]]) -> list[str]:
    """Those of *bases*, each with its overlays, of which something is not noted, or that can be written."""
    return [base for base, overlays in _together(bases).items() if not _base.is_protected(base, overlays)]


def protect(
    bases: t.Iterable[t.Mapping[str, t.Sequence[str]]], *, read_only: bool, warn: t.Callable[[str], None]
) -> None:
    """Notes that overlays read *bases*, and with *read_only* keeps everybody from writing these.

    Raises DiskError where that cannot be. Without *read_only* a note is worth having, and no condition: *warn* is told.
    """
    for base, overlays in _together(bases).items():
        if _base.is_protected(base, overlays, read_only=read_only):
            continue
        try:
            _base.protect(base, overlays, read_only=read_only)
        except DiskError as error:
            if read_only:
                raise
            warn(f"{base}: what reads it is only known where it is looked for: {error}")


def _together(bases: t.Iterable[t.Mapping[str, t.Sequence[str]]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for base, overlays in (pair for one in bases for pair in one.items()):
        found.setdefault(base, []).extend(overlays)
    return found


def _noted_bases(path: str) -> list[str]:
    """The bases that the image at *path* points to and of which something is noted."""
    try:
        return [os.path.realpath(name) for name in _references.pointed_to(path) if _is_noted(name)]
    except (DiskError, OSError):  # no image, or none that we may read
        return []


def _is_noted(path: str) -> bool:
    try:
        return os.path.isfile(path) and _base.own_note(path) is not None
    except DiskError:  # a note that cannot be read stays as it is
        return False
