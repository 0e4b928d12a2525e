# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who uses an image: processes that hold QEMU's locks on it, domains, and overlays that read it."""

from __future__ import annotations

import fcntl
import os
import struct
import typing as t
from dataclasses import asdict, dataclass, field

from ansible_collections.kvmops.disk.plugins.module_utils import _domain_xml, _formats, _image
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, HasDependents, ImageInUse
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt import Hypervisor
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt_binding import is_missing_domain
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt_domain import Domain

# QEMU's locks on an image are OFD locks on single bytes: 100+i for a permission that somebody has, 200+i for one that
# somebody does not let others have (block/file-posix.c).
_HAS, _UNSHARES = 100, 200
_WRITE, _RESIZE = 1, 3
_FLOCK = struct.Struct("hhqqi4x")
_F_OFD_GETLK = getattr(fcntl, "F_OFD_GETLK", 36)

Identity = t.Union[tuple[int, int], str]


@dataclass(frozen=True)
class User:
    """A domain that has something to do with a file: as what, and whether it runs.

    *format* is what the domain reads the file as, None where its definition does not say that.
    """

    domain: str
    uuid: str
    running: bool
    target: str
    role: str
    path: str
    format: str | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return f"{'running' if self.running else 'defined'} domain {self.domain} ({self.role} {self.target})"


def is_locked(path: str, *, against_readers: bool = False) -> bool:
    """Whether a process has the image open for writing, or reads it in a way that forbids writing (HAZARDS B5).

    *against_readers* leaves the latter out: such an image may be read beside them.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        bytes_of_writers = (_HAS + _WRITE, _HAS + _RESIZE)
        asked = bytes_of_writers if against_readers else (*bytes_of_writers, _UNSHARES + _WRITE)
        return any(_is_byte_locked(descriptor, byte) for byte in asked)
    finally:
        os.close(descriptor)


def domain_users(hypervisor: Hypervisor, *, skip: str | None = None) -> list[User]:
    """Every file that a domain names or reads: disks, mirrors, backing files, disks of snapshots.

    *skip* is the UUID of a domain to leave out.
    """
    found: list[User] = []
    for domain in hypervisor.domains():
        if domain.uuid == skip:
            continue
        try:
            found.extend(_users_by(domain, hypervisor))
        except DiskError as error:
            if not is_missing_domain(error):
                raise
    return found


def users_of(path: str, users: t.Iterable[User]) -> list[User]:
    """Those of *users* whose file is the one at *path*, by whatever name."""
    identity = _identity(path)
    return [user for user in users if _identity(user.path) == identity]


def is_same_file(one: str, other: str) -> bool:
    """Whether two paths mean one file, by whatever names."""
    return _identity(one) == _identity(other)


def require_unused(path: str, users: t.Iterable[User], to_do: str, *, locks: bool = True) -> None:
    """Raises ImageInUse where one of *users* names the image at *path*, or, with *locks*, somebody has it open."""
    found = users_of(path, users)
    locked = locks and is_locked(path)
    if found or locked:
        by = (
            "; ".join(str(user) for user in found)
            or "a process outside libvirt's sight (qemu-img, qemu-nbd or another QEMU)"
        )
        raise ImageInUse(
            f"{path}: in use by {by}: asked to {to_do}: stop or change what uses it first",
            path=path,
            in_use_by=[asdict(user) for user in found],
        )


def directories_to_search(
    paths: t.Iterable[str], search_paths: t.Iterable[str], hypervisor: Hypervisor | None
) -> list[str]:
    """Where overlays of *paths* may lie: beside them, in *search_paths*, in the directories of libvirt's pools."""
    directories = [*search_paths]
    for path in paths:
        directories += [os.path.dirname(os.path.realpath(path)), os.path.dirname(path)]
    if hypervisor is not None:
        directories += [
            directory for directory in (_domain_xml.pool_path(pool.xml()) for pool in hypervisor.pools()) if directory
        ]
    return sorted({os.path.realpath(directory) for directory in directories if os.path.isdir(directory)})


def dependents(path: str, directories: t.Iterable[str], users: t.Iterable[User] = ()) -> list[str]:
    """The images that read *path*: overlays and images with it as data file, found by headers alone.

    Looked for in *directories*, and among the files of *users* wherever those are.
    """
    return Readers(directories, users).of(path)


class Readers:
    """Which images read which, found by headers alone: one look at each file, for any number of questions."""

    def __init__(self, directories: t.Iterable[str], users: t.Iterable[User] = ()) -> None:
        candidates = {entry.path for directory in directories for entry in _files(directory)}
        candidates.update(user.path for user in users)
        self._readers: dict[Identity, list[str]] = {}
        for candidate in sorted(candidates):
            for identity in set(_references(candidate)):
                self._readers.setdefault(identity, []).append(candidate)

    def of(self, path: str) -> list[str]:
        """The images that have the file at *path*, by whatever name, as backing or data file."""
        return list(self._readers.get(_identity(path), ()))


def require_no_dependents(path: str, found: t.Sequence[str], to_do: str, otherwise: str) -> None:
    """Raises HasDependents where *found*, the dependents of *path*, is not empty; *otherwise* is another way out."""
    if found:
        shown = ", ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")
        raise HasDependents(
            f"{path}: {len(found)} image(s) read it as their backing file ({shown}): asked to {to_do}, "
            "which would destroy them: "
            f"make them independent first, or {otherwise}",
            path=path,
            dependents=list(found),
        )


def _users_by(domain: Domain, hypervisor: Hypervisor) -> t.Iterator[User]:
    running = domain.is_active()
    definitions = (
        [(_domain_xml.disks(domain.xml(inactive=True, secrets=False)), "disk")] if domain.is_persistent() else []
    )
    if running:
        definitions.append((_domain_xml.disks(domain.xml(inactive=False, secrets=False)), "disk"))
    definitions += [(_domain_xml.snapshot_disks(xml), "disk in a snapshot") for xml in domain.snapshot_definitions()]
    seen = set()
    for disks, role in definitions:
        for disk in disks:
            for path, part, image_format in _files_of(disk, hypervisor):
                user = User(domain.name, domain.uuid, running, disk.target, part or role, path, image_format)
                if user not in seen:
                    seen.add(user)
                    yield user


def _files_of(disk: _domain_xml.DiskElement, hypervisor: Hypervisor) -> t.Iterator[tuple[str, str | None, str | None]]:
    """The files that a disk means, each with its part in it (None: it is the disk) and its format."""
    source = source_path(disk, hypervisor)
    if source:
        yield source, None, disk.format
        if disk.device == "disk":
            for path, image_format in _image.links(source, disk.format):
                yield path, "backing file of", image_format
    for link in disk.chain or ():
        if link.path:
            yield link.path, "backing file of", link.format
    if disk.mirror:
        yield disk.mirror, "destination of a block job on", None


def source_path(disk: _domain_xml.DiskElement, hypervisor: Hypervisor) -> str | None:
    """The path of a disk's source, a storage volume's looked up; None where it has none, or its pool is away."""
    if disk.type == "volume" and disk.pool and disk.volume:
        try:
            return hypervisor.volume_path(disk.pool, disk.volume)
        except DiskError:
            return None
    return disk.source


def _files(directory: str) -> t.Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            yield from [entry for entry in entries if entry.is_file()]
    except OSError:
        return


def _references(path: str) -> list[Identity]:
    """The files that the image at *path* points to; none where it is no image or cannot be read."""
    try:
        with _formats.open_image(path) as stream:
            claimed = _formats.recognise(stream)
            found = _formats.references(stream, claimed, path) if claimed else _formats.References()
    except (DiskError, OSError):
        return []
    names = [found.backing_file, *found.data_files]
    resolved = [_formats.resolve(name, path) for name in names if name]
    return [_identity(name) for name in resolved if name]


def _identity(path: str) -> Identity:
    """Device and inode of the file at *path*; its name made canonical where nothing is there yet."""
    try:
        status = os.stat(path)
    except OSError:
        return os.path.realpath(path)
    return status.st_dev, status.st_ino


def _is_byte_locked(descriptor: int, byte: int) -> bool:
    asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
    return bool(_FLOCK.unpack(fcntl.fcntl(descriptor, _F_OFD_GETLK, asked))[0] != fcntl.F_UNLCK)
