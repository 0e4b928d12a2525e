# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stable storage: what is written, or removed, stays so whatever happens to the host."""

from __future__ import annotations

import errno
import os
import typing as t
from contextlib import contextmanager, suppress

from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError
from ansible_collections.kvmops.disk.plugins.module_utils._signals import put_off, refuse

_SYNC_EVERY = 0.25


def sync(path: str) -> None:
    """Brings a file or a directory to stable storage."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        raise DiskError(f"{path}: cannot be brought to stable storage: {error.strerror}", path=path) from error
    finally:
        os.close(descriptor)


@contextmanager
def syncing(path: str) -> t.Iterator[None]:
    """Brings *path* to stable storage while the block runs, which only reads: the disk writes meanwhile."""
    from concurrent.futures import ThreadPoolExecutor  # loaded where there is work, not for a run without a change

    with ThreadPoolExecutor(max_workers=1, initializer=refuse) as writer:
        written = writer.submit(sync, path)
        yield
        written.result()


@contextmanager
def syncing_steadily(path: str) -> t.Iterator[None]:
    """Brings to stable storage what somebody else writes to *path* while the block runs, again and again."""
    import threading  # loaded where there is work, not for a run without a change

    done = threading.Event()

    def write() -> None:
        with suppress(DiskError, OSError):  # whoever relies on it calls sync() afterwards
            while not done.wait(_SYNC_EVERY):
                sync(path)

    writer = threading.Thread(target=write, daemon=True)
    with put_off():  # they are for the thread that can act on them
        writer.start()
    try:
        yield
    finally:
        done.set()
        writer.join()


def sync_before_reading(*paths: str) -> None:
    """Brings the files that are to be read to stable storage: some file systems tell holes truly only of what is there
    (HAZARDS P6). On one that is only read (EINVAL: it knows no such call), all is."""
    for path in paths:
        try:
            sync(path)
        except DiskError as error:
            if not isinstance(error.__cause__, OSError) or error.__cause__.errno not in (errno.EINVAL, errno.EROFS):
                raise


def remove(path: str) -> None:
    """Unlinks *path*, durably; nothing to do where it is gone."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise DiskError(f"{path}: cannot be removed: {error.strerror}", path=path) from error
    sync(os.path.dirname(path))


def remove_image(path: str) -> None:
    """Removes the file that *path* means, durably, and the links by which it leads there, the file first: whoever is
    killed in between finds the rest by *path*."""
    names = [path]
    while os.path.islink(names[-1]):
        names.append(os.path.join(os.path.dirname(names[-1]), os.readlink(names[-1])))
    for name in reversed(names):
        remove(name)
