# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is noted of bases (base_note) follows what is done to the images that read them, whoever does it.

Before a run changes its images, their bases are known, and its records name them. Afterwards an overlay that reads its
base no more is forgotten, one that has come to read it is noted, and the last one that goes sets the base free. That is
done before the records go, so that the next run does it where this one dies.
"""

from __future__ import annotations

import os
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError
from ansible_collections.kvmops.disk.plugins.module_utils._files import base_note as _base_note
from ansible_collections.kvmops.disk.plugins.module_utils._formats import references as _references

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation


def find(operation: Operation, promised: t.Mapping[str, t.Iterable[str]]) -> None:
    """Has *operation* know the noted bases among the images that it holds, those of these images, and those that are
    *promised* overlays."""
    for path in operation.paths:
        if _is_noted(path):
            operation.depends(os.path.realpath(path))
        for base in _noted_bases(path):
            operation.depends(base, [path])
    for base, overlays in promised.items():
        operation.depends(os.path.realpath(base), overlays)


def settle(operations: t.Iterable[Operation], readers: _base_note.Readers) -> list[str]:
    """Brings what is noted of the bases of *operations* up to date with their overlays. *readers* searches for others.

    A base that is itself held is looked at, too: somebody may have removed its last overlay by hand, or the run has put
    a new file in its place. Returns what could not be done, in words: the work itself is done then.
    """
    operations = tuple(operations)
    held = {os.path.realpath(path) for operation in operations for path in operation.paths}
    known: dict[str, set[str]] = {}
    new: dict[str, set[str]] = {}
    for operation in operations:
        for base, overlays in operation.bases.items():
            known.setdefault(base, set()).update(overlays)
        for path in operation.paths:
            for base in _noted_bases(path):
                new.setdefault(base, set()).add(path)
    failed = []
    for base in sorted({*known, *new}):
        try:
            if base in held and base in known:
                _base_note.adopt(base)
            _note(base, new.get(base, set()) - known.get(base, set()))
            if base in known:
                forget(base, known[base], readers)
        except DiskError as error:
            failed.append(str(error))
    return failed


def forget(base: str, overlays: t.Collection[str], readers: _base_note.Readers) -> None:
    """Forgets those of *overlays* that do not read *base* any more. Raises DiskError where that fails.

    Without any, only all others are looked at that are noted.
    """
    gone = [path for path in overlays if not _base_note.reads(path, base)]
    if (gone or not overlays) and _base_note.is_in_use(base):
        _base_note.release(base, gone, readers)


def _note(base: str, overlays: t.Collection[str]) -> None:
    """Notes *overlays*, which have come to read *base*; how that is protected stays."""
    if overlays and not _base_note.is_protected(base, overlays, read_only=False):
        _base_note.protect(base, overlays, read_only=False)


def unprotected(bases: t.Iterable[t.Mapping[str, t.Sequence[str]]]) -> list[str]:
    """Those of *bases*, each with its overlays, of which something is not noted, or that can be written."""
    return [base for base, overlays in _together(bases).items() if not _base_note.is_protected(base, overlays)]


def protect(
    bases: t.Iterable[t.Mapping[str, t.Sequence[str]]], *, read_only: bool, warn: t.Callable[[str], None]
) -> None:
    """Notes that overlays read *bases*, and with *read_only* keeps everybody from writing these.

    Raises DiskError where that cannot be. Without *read_only* a note is worth having, and no condition: *warn* is told.
    """
    for base, overlays in _together(bases).items():
        if _base_note.is_protected(base, overlays, read_only=read_only):
            continue
        try:
            _base_note.protect(base, overlays, read_only=read_only)
        except DiskError as error:
            if read_only:
                raise DiskError(f"{error}, or do without protect_base", **error.facts) from error
            warn(f"{base}: what depends on it is only found by a search, since it cannot be noted: {error}")


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
        return os.path.isfile(path) and _base_note.own_note(path) is not None
    except DiskError:  # a note that cannot be read stays as it is
        return False
