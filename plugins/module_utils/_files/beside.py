# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What lies beside an image, in hidden files that bear its name: found and read here, written by others.

Of ``/images/web.qcow2`` that is ``/images/.web.qcow2.kvmops``, the record of an operation in flight (lock);
``/images/.web.qcow2.kvmops.d``, a directory in which a new file is made (staging); and, of a base,
``/images/.web.qcow2.kvmops-base``, what is noted of its overlays (base_note).
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
import typing as t
from contextlib import suppress

from ansible_collections.kvmops.disk.plugins.module_utils._errors import NotBelieved
from ansible_collections.kvmops.disk.plugins.module_utils._files import state as _state
from ansible_collections.kvmops.disk.plugins.module_utils._files.record import read_record, unknown

if t.TYPE_CHECKING:

    class Holding(t.Protocol):
        """The part of an operation (lock) that says what was left of its images."""

        @property
        def paths(self) -> tuple[str, ...]: ...

        def left_behind(self, path: str) -> dict[str, t.Any] | None: ...


SUFFIX = ".kvmops"
_DIRECTORY_SUFFIX = f"{SUFFIX}.d"
_NOTE_SUFFIX = f"{SUFFIX}-base"
_LONGEST_NAME = 255
#: How often, and after how many seconds, a record in which nothing stands yet is looked at again.
_TURNS, _PAUSE = 20, 0.025


def look(path: str) -> dict[str, t.Any] | None:
    """What the record beside *path* says, without touching it; ``alive`` tells whether its process still holds it.

    Raises NotBelieved where something else stands there.
    """
    return _look_at(record_path(path))


def look_in(directory: str) -> list[dict[str, t.Any]]:
    """The same of all records in *directory* that are believed; none where it cannot be read. A run that notes ``path``
    is found so by whoever does not know what it worked on."""
    try:
        names = [name for name in os.listdir(directory) if name.startswith(".") and name.endswith(SUFFIX)]
    except OSError:
        return []
    found: list[dict[str, t.Any]] = []
    for name in sorted(names):
        with suppress(NotBelieved):  # whoever wants that very name is told
            record = _look_at(os.path.join(directory, name))
            found += [record] if record is not None else []
    return found


def notes(running: Holding | None) -> t.Callable[[str], dict[str, t.Any] | None]:
    """What the record beside a path says: of those that *running* holds, what was in them before."""
    held = running.paths if running else ()
    return lambda path: running.left_behind(path) if running and path in held else look(path)


def noted_bases(record: t.Mapping[str, t.Any]) -> dict[str, list[str]]:
    """Operation.bases of the run that wrote *record*."""
    return {base: list(overlays) for base, overlays in record.get("bases", {}).items()}


def record_path(path: str) -> str:
    """The record's place: beside the file that *path* means, hidden, whatever links lead to it."""
    directory, name = os.path.split(os.path.realpath(path))
    return os.path.join(directory, sibling_name(name, SUFFIX))


def sibling_name(name: str, suffix: str) -> str:
    """The name of a hidden file that belongs to *name*; where that would be too long, its digest stands for it."""
    raw = os.fsencode(f".{name}{suffix}")
    if len(raw) <= _LONGEST_NAME:
        return f".{name}{suffix}"
    import hashlib  # it loads OpenSSL, for the sake of names that hardly anybody has

    digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:32]
    return f".{digest}{suffix}"


def staging_directory(path: str) -> str:
    """Where a new file for *path* is made."""
    directory, name = os.path.split(path)
    return os.path.join(directory, sibling_name(name, _DIRECTORY_SUFFIX))


def left_over(path: str) -> bool:
    """Whether there is a staging directory for *path*: left by a dead run, where its record is not held."""
    return os.path.lexists(staging_directory(path))


def has_traces(path: str) -> bool:
    """Whether a run is at work on the image of *path*, or died there."""
    return look(path) is not None or left_over(os.path.realpath(path))


def note_path(base: str) -> str:
    """Where it is noted what depends on *base*, by whatever links that is named."""
    directory, name = os.path.split(os.path.realpath(base))
    return os.path.join(directory, sibling_name(name, _NOTE_SUFFIX))


def is_noted(base: str) -> bool:
    """Whether anything is noted of *base*, be it unreadable."""
    try:
        os.lstat(note_path(base))
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return True


def try_lock(descriptor: int, kind: int) -> bool:
    """Locks an open file, by flock: False where somebody else holds it."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN):
            return False
        raise
    return True


def _look_at(record: str) -> dict[str, t.Any] | None:
    """What *record* says; None where there is none, and also where its run has just ended.

    One that says nothing and that nobody holds is looked at again for a moment: where a file system has no files
    without a name, its run may be about to hold it (lock).
    """
    for _turn in range(_TURNS):
        try:
            descriptor = _state.look(record)
        except OSError:
            return None
        try:
            alive = not try_lock(descriptor, fcntl.LOCK_SH)
            written = _state.content(descriptor, record)
            if not alive and not os.fstat(descriptor).st_nlink:
                return None
            if alive or written:
                return {**read_record(written, record), "alive": alive}
        except OSError:  # one that cannot be read: whoever wants to write it says why
            break
        finally:
            os.close(descriptor)
        time.sleep(_PAUSE)
    return {**unknown(), "alive": False}
