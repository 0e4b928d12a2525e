# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The hidden directory in which a new file is made: its making, and its end.

Whoever may write beside an image can rename the directory, or put another one at its name. So it is opened once and
used by that (_host.opened), and nobody else may enter it. What is removed later is known by its identity: the files lie
in a directory within, whose name is the inode number of the outer one, ``.web.qcow2.kvmops.d/131074/web.qcow2``. Only
who may write in a directory can give it such an entry.
"""

from __future__ import annotations

import os
import shutil
import typing as t
from contextlib import contextmanager, suppress

from ansible_collections.kvmops.disk.plugins.module_utils._files import state as _state
from ansible_collections.kvmops.disk.plugins.module_utils._files.beside import staging_directory
from ansible_collections.kvmops.disk.plugins.module_utils._host.opened import Directory, opened


def make(path: str) -> Directory:
    """A new directory for the files of the image at *path*, open.

    Raises OSError where it cannot be made, NotBelieved where another one was put in its place.
    """
    place = staging_directory(path)
    os.mkdir(place, 0o700)
    with opened(place) as outer:
        _state.require_own_directory(outer.status(), place)
        if os.listdir(outer.path):
            raise _state.not_believed(place, "it is another directory than the one that was just made")
        inside = outer.join(_inner_name(outer.status()))
        os.mkdir(inside, 0o700)
        return Directory(inside)


@contextmanager
def found(path: str) -> t.Iterator[Directory | None]:
    """The inside of the directory for *path*, open for the length of the block; None where there is none, or nothing
    in it. Raises NotBelieved where no run has made it."""
    with _outer(path) as outer:
        inside = _inside(outer, staging_directory(path)) if outer is not None else None
        if inside is None:
            yield None
            return
        with opened(inside) as directory:
            yield directory


def inside(path: str) -> str:
    """The name under which the files for *path* are found, where there is such a directory. For looks alone."""
    place = staging_directory(path)
    return os.path.join(place, _inner_name(os.lstat(place)))


def empty(inside: Directory) -> None:
    """Removes what is in the open inside of a directory."""
    for name in os.listdir(inside.path):
        place = inside.join(name)
        if os.path.isdir(place) and not os.path.islink(place):
            shutil.rmtree(place, ignore_errors=True)
        else:
            with suppress(OSError):
                os.unlink(place)


def remove(path: str) -> None:
    """Removes the directory for *path*, with all that is in it; nothing to do where there is none. What this user may
    not look into is left. Raises NotBelieved where no run has made it."""
    with _outer(path) as outer:
        if outer is None:
            return
        filled = _inside(outer, staging_directory(path))
        if filled is not None:
            shutil.rmtree(filled, ignore_errors=True)
    with suppress(OSError):
        os.rmdir(staging_directory(path))


@contextmanager
def _outer(path: str) -> t.Iterator[Directory | None]:
    place = staging_directory(path)
    if not _state.has_directory(place):
        yield None
        return
    with opened(place) as outer:
        _state.require_own_directory(outer.status(), place)
        yield outer


def _inside(outer: Directory, place: str) -> str | None:
    """The one directory that a run makes in it; None where it died before, or where this user may not look."""
    try:
        names = os.listdir(outer.path)
    except PermissionError:
        return None
    own = _inner_name(outer.status())
    if names not in ([], [own]):
        raise _state.not_believed(place, "what is in it was made by no run")
    return outer.join(own) if names else None


def _inner_name(status: os.stat_result) -> str:
    return str(status.st_ino)
