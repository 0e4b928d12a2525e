# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What stands in a directory of backups, looked at without following anything that it names.

The backups of a domain are directories below ``DEST/UUID``. Whatever they hold may have been put there by anybody: each
name is opened below the directory that is held open, no link is followed, nothing but a regular file is read, and a
header is read before anybody else opens the image.
"""

from __future__ import annotations

import errno
import os
import stat
import typing as t
from contextlib import contextmanager

from ansible_collections.kvmops.disk.plugins.module_utils._backup import manifest as _manifest
from ansible_collections.kvmops.disk.plugins.module_utils._backup.chains import Backup, with_chain_problems
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError
from ansible_collections.kvmops.disk.plugins.module_utils._formats import qcow2 as _qcow2

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._backup.manifest import BackupDisk, BackupFile, Manifest

#: Reads an open file to its end, and returns the SHA-256 of what stands in it.
Read = t.Callable[[int], str]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_OWN_DIRECTORY = _DIRECTORY | os.O_NOFOLLOW
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
#: Directories of backups that a domain has at most: who keeps one of each hour has them for a year.
_MOST_BACKUPS = 10000


def place_of(dest_dir: str, uuid: str) -> str:
    """The directory with the backups of the domain with that UUID."""
    return os.path.join(dest_dir, uuid)


def domains(dest_dir: str) -> list[str]:
    """The UUIDs of the domains of which there are backups in *dest_dir*. Raises DiskError where it cannot be read."""
    with _opened(dest_dir, _DIRECTORY) as directory:
        return [name for name in _names(directory, dest_dir) if _manifest.is_uuid(name)]


def backups(dest_dir: str, uuid: str, read: Read | None = None) -> tuple[Backup, ...]:
    """The backups of that domain, oldest first, each with what is wrong with it; what cannot be read comes first.

    The files' names, lengths and headers are looked at; their content only with *read*, which is given an open file and
    returns the SHA-256 of what stands in it. Raises DiskError where the directory itself cannot be read.
    """
    place = place_of(dest_dir, uuid)
    if not os.path.lexists(place):
        return ()
    with _opened(place) as directory:
        names = [name for name in _names(directory, place) if not name.startswith(".")]
        found = [_look(directory, place, uuid, name, read) for name in names]
    return with_chain_problems(found)


def problems_of(path: str, facts: Manifest, read: Read | None = None) -> list[str]:
    """What is wrong with the files of the backup in the directory *path*, of which *facts* are said; with their
    content, too, where *read* reads it."""
    with _opened(path) as directory:
        return list(_problems(directory, path, facts, read))


def contents(path: str) -> tuple[Manifest | None, list[str]]:
    """What backup.json of the backup in the directory *path* says, None where that is not believed, and the names of
    all that stands there. Raises DiskError where the directory cannot be read."""
    with _opened(path) as directory:
        try:
            return _said_of_itself(directory), os.listdir(directory)
        except (OSError, ValueError):
            return None, []


def manifests(place: str) -> dict[str, Manifest | None]:
    """What backup.json of each backup in the directory *place* says, by its name, and nothing else of it; None where
    that is not believed. Raises DiskError where the directory cannot be read."""
    with _opened(place) as above:
        return {name: _said_by(above, name) for name in _names(above, place) if not name.startswith(".")}


def _names(directory: int, path: str) -> list[str]:
    names = sorted(os.listdir(directory))
    if len(names) > _MOST_BACKUPS:
        raise DiskError(f"{path}: has {len(names)} names, and a directory of backups has {_MOST_BACKUPS} at most")
    return names


def _look(above: int, place: str, uuid: str, name: str, read: Read | None) -> Backup:
    """The backup in the directory *name*, with what is wrong with it by itself."""
    path = os.path.join(place, name)
    if not _manifest.is_name(name):
        return Backup(path, uuid, name, None, ("has a name that no backup has",))
    try:
        directory = os.open(name, _OWN_DIRECTORY, dir_fd=above)
    except OSError as error:
        return Backup(path, uuid, name, None, (_said(error),))
    try:
        return _look_into(directory, path, uuid, name, read)
    finally:
        os.close(directory)


def _look_into(directory: int, path: str, uuid: str, name: str, read: Read | None) -> Backup:
    try:
        facts = _said_of_itself(directory)
    except OSError as error:
        return Backup(path, uuid, name, None, (f"{_manifest.MANIFEST} {_said(error)}",))
    except ValueError as error:
        return Backup(path, uuid, name, None, (f"{_manifest.MANIFEST} {error}",))
    if (facts.backup, facts.uuid) != (name, uuid):
        foreign = f"{_manifest.MANIFEST} is of the backup {facts.backup} of {facts.uuid}"
        return Backup(path, uuid, name, None, (foreign,))
    return Backup(path, uuid, name, facts, tuple(_problems(directory, path, facts, read)))


def _said_by(above: int, name: str) -> Manifest | None:
    """What backup.json of the backup in the directory *name* says; None where that is not believed."""
    try:
        directory = os.open(name, _OWN_DIRECTORY, dir_fd=above)
    except OSError:
        return None
    try:
        facts = _said_of_itself(directory)
    except (OSError, ValueError):
        return None
    finally:
        os.close(directory)
    return facts if facts.backup == name else None


def _said_of_itself(directory: int) -> Manifest:
    """What backup.json in an open directory says. Raises OSError, and ValueError where it cannot be right."""
    with _regular(directory, _manifest.MANIFEST) as file:
        return _manifest.read(os.pread(file, _manifest.LONGEST + 1, 0))


def _problems(directory: int, path: str, facts: Manifest, read: Read | None = None) -> t.Iterator[str]:
    """What is wrong with the files of a backup, as far as their lengths and headers tell, and, with *read*, their
    content."""
    disks = {disk.file: disk for disk in facts.disks}
    for name, expected in facts.files.items():
        try:
            with _regular(directory, name) as file:
                wrong = _wrong_length(file, expected)
                if wrong is None and name in disks:
                    wrong = _wrong_header(file, os.path.join(path, name), disks[name], facts.parent)
                if wrong is None and read is not None and read(file) != expected.sha256:
                    wrong = "has other content than was backed up"
        except OSError as error:
            wrong = _said(error)
        if wrong is not None:
            yield f"{name} {wrong}"


def _wrong_length(file: int, expected: BackupFile) -> str | None:
    length = os.fstat(file).st_size
    return f"has {length} bytes, expected {expected.size}" if length != expected.size else None


def _wrong_header(file: int, path: str, disk: BackupDisk, parent: str | None) -> str | None:
    """What the header of a disk's image says that it must not; None where nothing."""
    with open(file, "rb", closefd=False) as stream:
        try:
            header = _qcow2.read_header(stream, path)
        except DiskError as error:
            return f"is damaged: {error}"
    wanted = _manifest.reference(str(parent), disk.target) if disk.kind == _manifest.INCREMENTAL else None
    if header.backing_file != wanted or (wanted is not None and header.backing_format != "qcow2"):
        return f"has the backing file {header.backing_file!r}, expected {wanted!r}"[:1500]
    if header.external_data or header.data_file is not None:
        return "keeps its data in another file"
    if header.virtual_size != disk.virtual_size:
        return f"is a disk of {header.virtual_size} bytes, expected {disk.virtual_size}"
    if header.unknown_incompatible or header.corrupt or header.dirty or header.encrypted or header.snapshot_count:
        return "has features that no backup has, or is marked corrupt"
    return None


@contextmanager
def _opened(path: str, flags: int = _OWN_DIRECTORY) -> t.Iterator[int]:
    """The directory at *path*, for the length of the block. Raises DiskError."""
    try:
        directory = os.open(path, flags)
    except OSError as error:
        raise DiskError(f"{path}: {_said(error)}, expected a directory with backups", path=path) from error
    try:
        yield directory
    finally:
        os.close(directory)


@contextmanager
def _regular(directory: int, name: str) -> t.Iterator[int]:
    """The regular file *name* in an open directory. Raises OSError, also for anything else than such a file."""
    file = os.open(name, _FILE, dir_fd=directory)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), name)
        yield file
    finally:
        os.close(file)


def _said(error: OSError) -> str:
    """What *error* means, as the end of a sentence."""
    if error.errno == errno.ENOENT:
        return "is missing"
    if error.errno in (errno.ELOOP, errno.EMLINK):
        return "is a link, and is not followed"
    if error.errno == errno.ENOTDIR:
        return "is no directory, or a link to one"
    if error.errno == errno.EINVAL:
        return "is no regular file"
    return f"cannot be read: {error.strerror}"
