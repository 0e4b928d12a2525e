# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs that count what a file system promises take turns on it: two that count at once would promise the same space.
So do runs that plug disks into one domain: two would choose the same target.

Each file system, and each such domain, has a lock file, in a directory that only this user can enter: whoever can open
a file can lock it.
"""

from __future__ import annotations

import json
import os
import time
import typing as t
from contextlib import ExitStack, contextmanager
from datetime import datetime, timezone

from ansible_collections.kvmops.disk.plugins.module_utils._errors import OperationInFlight
from ansible_collections.kvmops.disk.plugins.module_utils._files import lock as _lock
from ansible_collections.kvmops.disk.plugins.module_utils._files import state as _state
from ansible_collections.kvmops.disk.plugins.module_utils._host.mounts import Mounts

#: Seconds that a run waits for its turn: the run before it may copy large disks.
PATIENCE = 3600.0
_NAME = "kvmops.disk"


@contextmanager
def alone_on(directories: t.Iterable[str], verb: str) -> t.Iterator[None]:
    """Holds the file systems of *directories* against the other runs of this user that want that, too; *verb* tells
    these what it is held for. Where a user has no place for lock files, nobody is held up.

    Raises OperationInFlight where another run holds one of them for longer than PATIENCE, NotBelieved where somebody
    else may have made the lock files.
    """
    points = _mount_points(directories) if _place() is not None else {}
    names = {f"promises-{number}": point for number, point in points.items()}
    with _held(names, verb, "counts what is promised on this file system"):
        yield


@contextmanager
def alone_with(domains: t.Mapping[str, str], verb: str) -> t.Iterator[None]:
    """Holds *domains*, names by UUID, against the other runs of this user that want that, too. Raises as alone_on()."""
    with _held({f"domain-{uuid}": name for uuid, name in domains.items()}, verb, "changes the disks of this domain"):
        yield


@contextmanager
def _held(names: t.Mapping[str, str], verb: str, doing: str) -> t.Iterator[None]:
    """Holds the lock files of *names*, each with what it stands for; *doing* says what for."""
    place, deadline = _place(), time.monotonic() + PATIENCE
    with ExitStack() as held:
        for name, what in sorted(names.items()) if place is not None else ():  # one order for everybody
            held.callback(os.close, _taken(os.path.join(str(place), name), what, verb, doing, deadline))
        yield


def _place() -> str | None:
    """The directory of this user's lock files, which is made where it is missing; None where there can be none."""
    user = os.geteuid()
    above = "/run" if user == 0 else os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{user}"
    place = os.path.join(above, _NAME)
    try:
        os.mkdir(place, 0o700)
    except FileExistsError:
        pass
    except OSError:
        return None
    return place if _state.has_directory(place) else None


def _mount_points(directories: t.Iterable[str]) -> dict[str, str]:
    """The mount points of the file systems of *directories*, by the numbers that the kernel has given these."""
    mounts = Mounts.now()
    found = (mounts.of(directory, os.stat(directory).st_dev) for directory in directories if os.path.isdir(directory))
    return {mount.number: mount.point for mount in found if mount}


def _taken(name: str, what: str, verb: str, doing: str, deadline: float) -> int:
    """The lock file at *name*, held, with a word of who holds it."""
    try:
        descriptor = _lock.hold(name, deadline)
    except BlockingIOError:
        raise _in_flight(name, what, doing) from None
    started = datetime.now(timezone.utc).isoformat(timespec="seconds")
    written = json.dumps({"pid": os.getpid(), "verb": verb, "started": started}).encode()
    os.pwrite(descriptor, written, 0)
    os.ftruncate(descriptor, len(written))
    return descriptor


def _in_flight(name: str, what: str, doing: str) -> OperationInFlight:
    descriptor = _state.look(name)
    try:
        found = _state.parsed(_state.content(descriptor, name))
    except ValueError:
        found = {}
    finally:
        os.close(descriptor)
    return OperationInFlight(
        f"{what}: another run (process {found.get('pid', 'unknown')}, {found.get('verb', 'an operation')} since "
        f"{found.get('started', 'a while ago')}) {doing}, and has not ended within "
        f"{PATIENCE:g} s: wait for it, or end it, then run again",
        path=what,
        operation=found,
    )
