# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A base of linked clones: what is noted beside it for everybody who comes later, and its protection by mode.

Overlays may lie where nobody thinks of looking. So whoever makes one notes it beside the base ``/images/golden``, in
the file ``/images/.golden.kvmops-base``, before the overlay exists. What is noted is never believed but looked at: an
overlay counts where its header points to the base, and also where it cannot be seen now (its file system is not
mounted) or is being made by a run that lives. When the last one has gone the base gets its mode back, and the note says
since when nobody uses it.
"""

from __future__ import annotations

import json
import os
import stat
import time
import typing as t
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from functools import lru_cache

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import asdict, dataclass, field, replace
from ansible_collections.kvmops.disk.plugins.module_utils._errors import (
    DiskError,
    OperationInFlight,
    UnsafeImage,
)
from ansible_collections.kvmops.disk.plugins.module_utils._files import beside as _beside
from ansible_collections.kvmops.disk.plugins.module_utils._files import durable as _durable
from ansible_collections.kvmops.disk.plugins.module_utils._files import lock as _lock
from ansible_collections.kvmops.disk.plugins.module_utils._files import same_file as _same_file
from ansible_collections.kvmops.disk.plugins.module_utils._files import state as _state
from ansible_collections.kvmops.disk.plugins.module_utils._formats import references as _references

#: Gives the images that read a base, as a search finds them.
Readers = t.Callable[[str], t.Iterable[str]]
_WRITABLE = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH
_PERMISSIONS = stat.S_IRWXU | stat.S_IRWXG | stat.S_IRWXO


@dataclass(frozen=True)
class BaseNote:
    """What is noted of a base.

    *inode* is the base's own, to know it from another file at its name. *mode* are the permission bits that it had
    before it was protected, None where it was not. *overlays* are the absolute paths of what was made on it, each with
    the mount point that it lay on. *unused_since* is the moment (ISO 8601) when the last of them had gone.
    """

    inode: int
    mode: int | None = None
    overlays: t.Mapping[str, str] = field(default_factory=dict)
    unused_since: str | None = None


def look(base: str) -> BaseNote | None:
    """What is noted of the base at *base*; None where nothing is. Raises UnsafeImage where that cannot be read."""
    place = _beside.note_path(base)
    try:
        descriptor = _state.look(place)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unreadable(base, str(error.strerror)) from error
    try:
        return _read(base, _state.content(descriptor, place))
    finally:
        os.close(descriptor)


def own_note(base: str) -> BaseNote | None:
    """As look(), but None where the note is of an earlier file at that name."""
    note = look(base)
    return note if note is not None and note.inode == os.stat(base).st_ino else None


def is_in_use(base: str) -> bool:
    """Whether there is a base at *base* of which it is noted that overlays read it, or did until now."""
    if not os.path.isfile(base):
        return False
    note = own_note(base)
    return note is not None and note.unused_since is None


def reads(overlay: str, base: str) -> bool:
    """Whether the image at *overlay* points to *base*, by whatever name; so does one that may not be looked at."""
    return bool(_points_to(overlay, base))


def noted_dependents(base: str, known: t.Container[str] = ()) -> list[str]:
    """The noted overlays of *base* that are in the way of writing it: they read it, or nobody can tell now.

    Those that are *known* to read it are left out.
    """
    note = look(base)
    noted = note.overlays.items() if note else ()
    return [path for path, mount in noted if path not in known and _counts(path, mount, base)]


def is_protected(base: str, overlays: t.Iterable[str], *, read_only: bool = True) -> bool:
    """Whether protect() with the same arguments would change nothing."""
    note = look(base)
    if note is None or note.inode != os.stat(base).st_ino or note.unused_since is not None:
        return False
    writable = bool(os.stat(base).st_mode & _WRITABLE)
    return {os.path.abspath(path) for path in overlays} <= {*note.overlays} and not (read_only and writable)


def protect(base: str, overlays: t.Iterable[str], *, read_only: bool = True) -> None:
    """Notes, durably, that *overlays* read the base at *base*, and, with *read_only*, lets nobody write it by mode.

    Call it before the overlays are made, while their records are held (_lock.operation): until they are there, a live
    record is what makes them count. All of one base in one call. Raises DiskError where the note cannot be written, or
    the mode changed.
    """
    with _held(base) as note:
        status = os.stat(base)
        mode = note.mode if note.inode == status.st_ino else None
        if read_only and status.st_mode & _WRITABLE:
            mode = status.st_mode & _PERMISSIONS if mode is None else mode
        added = {path: _mount_point(path) for path in map(os.path.abspath, overlays)}
        _write(base, BaseNote(status.st_ino, mode, {**note.overlays, **added}))
        if read_only:
            _chmod(base, status.st_mode & ~_WRITABLE, status.st_ino)


def adopt(base: str) -> None:
    """Has what is noted of *base* hold for the file that stands there now, and no more for the one that did before.

    Nothing to do where that file is gone, or nothing is noted. Raises DiskError where the note cannot be written.
    """
    note = look(base) if os.path.isfile(base) else None
    if note is None or note.inode == os.stat(base).st_ino:
        return
    with _held(base) as found:
        _write(base, replace(found, inode=os.stat(base).st_ino))


def release(base: str, gone: t.Iterable[str], others: Readers = lambda _base: ()) -> bool:
    """Forgets the overlays *gone*, which the caller has removed or made independent, and all others that have gone.

    Where none is left that counts, and there are no *others* (dependents that a search finds: it is made only then),
    the base gets its mode back and is noted as unused. Returns whether that is so. Nothing to do, and False, where
    nothing is noted. Raises DiskError where the note cannot be written, or the mode given back.
    """
    if look(base) is None:
        return False
    removed = {os.path.abspath(path) for path in gone}
    with _held(base) as note:
        left = {
            path: mount for path, mount in note.overlays.items() if path not in removed and _counts(path, mount, base)
        }
        if left or [path for path in others(base) if os.path.abspath(path) not in removed]:
            if left != note.overlays:
                _write(base, replace(note, overlays=left))
            return False
        if note.mode is not None and note.inode == os.stat(base).st_ino:
            _chmod(base, note.mode, note.inode)
        since = note.unused_since or datetime.now(timezone.utc).isoformat(timespec="seconds")
        _write(base, BaseNote(os.stat(base).st_ino, None, {}, since))
        return True


def remove(path: str) -> None:
    """Removes the image at *path*, durably, and what is noted of it as a base; a link to one goes alone."""
    _durable.remove(path)
    _durable.remove(_beside.note_path(path))


def remove_image(path: str) -> None:
    """As remove(), but with the file that a link leads to."""
    place = _beside.note_path(path)
    _durable.remove_image(path)
    _durable.remove(place)


def _counts(overlay: str, mount: str, base: str) -> bool:
    """Whether the noted *overlay*, which lay on the mount point *mount*, must be taken for one that reads *base*."""
    points = _points_to(overlay, base)
    if points is not None:
        return points
    being_made = (_beside.look(overlay) or {}).get("alive", False)
    return bool(being_made) or _mount_point(overlay) != mount


def _points_to(overlay: str, base: str) -> bool | None:
    """Whether the image at *overlay* points to *base*, by whatever name; None where there is no such image."""
    try:
        wanted = _references.identity(base)
        return any(_references.identity(name) == wanted for name in _references.pointed_to(overlay))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:  # it is there, and may not be read
        return True
    except DiskError:  # what QEMU cannot open either
        return False


def _mount_point(path: str) -> str:
    """Where the file system of the directory of *path* is mounted; of the nearest one that exists."""
    place = os.path.realpath(os.path.dirname(path))
    while not os.path.ismount(place):
        place = os.path.dirname(place)
    return place


@contextmanager
def _held(base: str) -> t.Iterator[BaseNote]:
    """The note as it is, which nobody else changes until the block ends; an empty one where there is none."""
    place = _beside.note_path(base)
    try:
        descriptor = _lock.hold(place, time.monotonic() + _lock.PATIENCE, mode=0o644)
    except BlockingIOError:
        raise OperationInFlight(f"{base}: another run is changing the note about it in {place}: run again") from None
    except OSError as error:
        raise _unwritable(base, error) from error
    try:
        yield look(base) or BaseNote(os.stat(base).st_ino)
    finally:
        os.close(descriptor)


def _write(base: str, note: BaseNote) -> None:
    """Puts *note* in the place of the old one, in one step and durably."""
    place = _beside.note_path(base)
    new = f"{place}.new"  # we hold the note: no other run writes this name, and what a dead one left there is replaced
    try:
        with suppress(FileNotFoundError):
            os.unlink(new)
        with open(new, "x", encoding="utf-8", opener=_open_new) as stream:
            json.dump({**asdict(note), "overlays": dict(note.overlays)}, stream, indent=1, sort_keys=True)
            stream.flush()
            os.fsync(stream.fileno())
        os.rename(new, place)
    except OSError as error:
        raise _unwritable(base, error) from error
    _durable.sync(os.path.dirname(place))


def _open_new(name: str, flags: int) -> int:
    return os.open(name, flags, 0o644)


@lru_cache(maxsize=8)
def _read(base: str, written: bytes) -> BaseNote | None:
    """The note that is *written*; None for an empty one, which a run left that died before it wrote anything.

    Each clone of a list asks for the note that names all of them: it is understood once, as long as it says the same.
    """
    if not written:
        return None
    try:
        found = BaseNote(**_state.parsed(written))
    except (ValueError, TypeError):
        raise _unreadable(base, "it is damaged") from None
    if not _is_sound(found):
        raise _unreadable(base, "it is damaged")
    return found


def _is_sound(note: BaseNote) -> bool:
    """Whether *note*, read from a file, has the shape of one."""
    mode, overlays, since = note.mode, note.overlays, note.unused_since
    return (
        _state.is_number(note.inode)
        and (mode is None or (isinstance(mode, int) and mode == mode & _PERMISSIONS))
        and isinstance(overlays, dict)
        and all(_state.is_name(path) and _state.is_name(mount) for path, mount in overlays.items())
        and (since is None or isinstance(since, str))
    )


def _chmod(base: str, mode: int, inode: int) -> None:
    """Gives the file at *base*, which has that *inode*, the permission bits of *mode*, and no other file."""
    try:
        descriptor = os.open(os.path.realpath(base), os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_ino != inode:
                raise _same_file.replaced_meanwhile(base)
            wanted = (stat.S_IMODE(status.st_mode) & ~_PERMISSIONS) | (mode & _PERMISSIONS)
            if stat.S_IMODE(status.st_mode) != wanted:
                os.chmod(f"/proc/self/fd/{descriptor}", wanted)  # fchmod(2) takes no descriptor of this kind
        finally:
            os.close(descriptor)
    except OSError as error:
        raise DiskError(
            f"{base}: its mode cannot be changed to {mode & _PERMISSIONS:04o}: {error.strerror}: run as its owner or "
            "as root",
            path=base,
        ) from error


def _unreadable(base: str, reason: str) -> UnsafeImage:
    return UnsafeImage(
        f"{base}: the note of the images that depend on it, {_beside.note_path(base)}, cannot be read ({reason}): "
        "it is unknown which overlays a write would destroy: make the note readable, or remove it when you know that "
        "no overlay is left",
        path=base,
    )


def _unwritable(base: str, error: OSError) -> DiskError:
    return DiskError(
        f"{base}: cannot note beside it what depends on it ({_beside.note_path(base)}): {error.strerror}: make its "
        "directory writable",
        path=base,
    )
