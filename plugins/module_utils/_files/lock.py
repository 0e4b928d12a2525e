# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One operation at a time on an image, and the record of an operation in flight.

The record of ``/images/web.qcow2`` is the file ``/images/.web.qcow2.kvmops``: it is held with flock for as long as
its process lives and goes away when the operation ends. A record that nobody holds was left by a run that died.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
import typing as t
from contextlib import ExitStack, contextmanager
from datetime import datetime, timezone

from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, OperationInFlight, may_still_happen
from ansible_collections.kvmops.disk.plugins.module_utils._files import state as _state
from ansible_collections.kvmops.disk.plugins.module_utils._files.beside import (
    look,
    noted_bases,
    record_path,
    try_lock,
)
from ansible_collections.kvmops.disk.plugins.module_utils._files.record import read_record

#: Seconds that a run waits for another one on the same image: enough for what is quick, not for a conversion.
PATIENCE = 15.0
_POLL = 0.05


class Operation:
    """An operation that holds the records of some images."""

    def __init__(self, verb: str) -> None:
        self.verb = verb
        self.started = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self._held: dict[str, int] = {}
        self._records: dict[str, str] = {}
        self._left: dict[str, dict[str, t.Any]] = {}
        self._kept: set[str] = set()
        self._bases: dict[str, set[str]] = {}
        self._noted: set[str] = set()

    @property
    def descriptors(self) -> tuple[int, ...]:
        """The open records: a child that inherits them keeps the locks."""
        return tuple(self._held.values())

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(self._held)

    @property
    def bases(self) -> dict[str, list[str]]:
        """The noted bases (_base) that have to do with this operation, or with one that died on its images, each with
        the overlays by which they do; none where it is the base itself that is held. All that is noted from now on
        tells of them."""
        return {base: sorted(overlays) for base, overlays in self._bases.items()}

    def depends(self, base: str, overlays: t.Iterable[str] = ()) -> None:
        """Has bases() name *base*, which *overlays* read, or are to read, or have read."""
        self._bases.setdefault(base, set()).update(overlays)

    def left_behind(self, path: str) -> dict[str, t.Any] | None:
        """What a dead run noted of *path*: verb, started and its facts; None where none died on it.

        Its record stays where it is, however this operation ends, until settled() says that it was dealt with.
        """
        return self._left.get(path)

    def settled(self, *paths: str) -> None:
        """What a dead run left of *paths*, or what was to be kept of them, has been verified, finished or reverted."""
        for path in paths:
            self._left.pop(path, None)
            self._kept.discard(path)

    def keep(self, path: str) -> None:
        """The record of *path* stays however this operation ends: the next run is to find it."""
        self._kept.add(path)

    def keep_noted(self) -> None:
        """All that was noted stays: the next run is to find it as it would where we were killed."""
        for path in self._noted:
            self.keep(path)

    def release(self, path: str) -> None:
        """Gives *path* back, before the operation ends; nothing to do where it was given back already."""
        descriptor = self._held.pop(path, None)
        if descriptor is None:
            return
        if path not in self._left and path not in self._kept:
            os.unlink(self._records[path])
        os.close(descriptor)

    def note(self, path: str, *, durable: bool = True, **facts: t.Any) -> None:
        """Writes what is being done to *path* into its record. Raises DiskError where that cannot be.

        Where it is not *durable*, it outlives us, but perhaps not the host: for what is noted before anything is done.
        """
        place = self._records[path]
        known = {"verb": self.verb, "started": self.started, "pid": os.getpid(), "path": path, "place": place}
        bases = {"bases": self.bases} if self._bases else {}
        text = json.dumps({**known, **bases, **facts}, sort_keys=True)
        descriptor = self._held[path]
        self._noted.add(path)
        try:
            os.pwrite(descriptor, text.encode(), 0)
            os.ftruncate(descriptor, len(text.encode()))
            if durable:
                os.fsync(descriptor)
        except OSError as error:
            raise _unwritable(path, error) from error

    def _take(self, path: str, deadline: float) -> None:
        self._records[path] = record_path(path)  # for good: a link may be gone when the operation ends
        descriptor = _locked(self._records[path], path, deadline)
        self._held[path] = descriptor
        written = _state.content(descriptor, self._records[path])
        if written:
            self._left[path] = read_record(written, self._records[path])
            for base, overlays in noted_bases(self._left[path]).items():
                self.depends(base, overlays)


@contextmanager
def operation(verb: str, paths: t.Iterable[str], patience: float = PATIENCE) -> t.Iterator[Operation]:
    """Holds *paths* for the length of the block; afterwards their records are gone, whether it failed or not, unless
    nobody knows what still happens.

    Raises OperationInFlight where another run holds one of them for longer than *patience* seconds.
    """
    running = Operation(verb)
    deadline = time.monotonic() + patience
    with ExitStack() as held:
        for path in sorted(set(paths)):  # one order for everybody, so that two runs cannot wait for each other
            running._take(path, deadline)  # pylint: disable=protected-access
            held.callback(running.release, path)
        held.push(lambda _kind, error, _trace: running.keep_noted() if may_still_happen(error) else None)
        yield running


def hold(name: str, deadline: float, *, mode: int = 0o600) -> int:
    """The file at *name*, made where there is none, open and locked for us alone, and still what stands at its name.

    Raises BlockingIOError where somebody else holds it until *deadline* (by time.monotonic), OSError where it cannot be
    opened, NotBelieved where it is no state file of ours.
    """
    while True:
        stands = False
        try:
            return _made(name, mode)
        except FileExistsError:
            stands = True
        except OSError:  # this file system, or this directory, has no files without a name
            pass
        try:
            descriptor = _state.hold(name, mode, make=not stands)
        except FileNotFoundError:
            if not stands:
                raise
            _require_time(deadline, name)  # it went meanwhile
            continue
        try:
            _lock_until(deadline, descriptor, name)
            if _same_file(descriptor, name):
                kept, descriptor = descriptor, -1
                return kept
            _require_time(deadline, name)  # somebody may exchange it for ever
        finally:
            if descriptor >= 0:
                os.close(descriptor)


def _made(name: str, mode: int) -> int:
    """A new file, which gets its *name* when it is held already: nobody sees it there and takes it for a dead run's.

    Raises FileExistsError where something stands at *name*, another OSError where such a file cannot be.
    """
    descriptor = os.open(os.path.dirname(name), os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, mode)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # With a directory, this is linkat(2), which follows the link to the file; the path is absolute all the same.
        os.link(f"/proc/self/fd/{descriptor}", name, src_dir_fd=descriptor)
        kept, descriptor = descriptor, -1
        return kept
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _lock_until(deadline: float, descriptor: int, name: str) -> None:
    while not try_lock(descriptor, fcntl.LOCK_EX):
        _require_time(deadline, name)
        time.sleep(_POLL)


def _require_time(deadline: float, name: str) -> None:
    if time.monotonic() >= deadline:
        raise BlockingIOError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK), name)


def _locked(record: str, path: str, deadline: float) -> int:
    """The record of *path*, held."""
    try:
        return hold(record, deadline)
    except BlockingIOError:
        raise _in_flight(path, look(path) or {}) from None
    except OSError as error:
        raise _unwritable(path, error) from error


def _same_file(descriptor: int, name: str) -> bool:
    try:
        standing = os.stat(name, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(descriptor), standing)


def _unwritable(path: str, error: OSError) -> DiskError:
    directory = os.path.dirname(record_path(path))
    return DiskError(
        f"{path}: cannot write the record of the operation beside it, in {directory}: {error.strerror}",
        path=path,
        directory=directory,
    )


def _in_flight(path: str, found: dict[str, t.Any]) -> OperationInFlight:
    verb, started = found.get("verb", "an operation"), found.get("started", "a while ago")
    return OperationInFlight(
        f"{path}: another run works on this image ({verb} since {started}, process {found.get('pid', 'unknown')}): "
        "wait for it, or end it, then run again",
        path=path,
        operation=found,
    )
