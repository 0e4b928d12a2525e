# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who uses an image: processes that hold QEMU's locks on it, and domains."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass, field
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError
from ansible_collections.kvmops.disk.plugins.module_utils._formats.references import Identity, identity
from ansible_collections.kvmops.disk.plugins.module_utils._image import image as _image
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.binding import is_missing_domain
from ansible_collections.kvmops.disk.plugins.module_utils._usage.sources import source_path
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disks as _disks

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.connection import Hypervisor, Listed

_DISK, _BACKING = "disk", "backing file of"


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


def domain_users(hypervisor: Hypervisor, *, skip: str | None = None) -> list[User]:
    """Every file that a domain names or reads: disks, mirrors, backing files, disks of snapshots.

    *skip* is the UUID of a domain to leave out.
    """
    found: list[User] = []
    below = _image.Links()
    for listed in hypervisor.listing():
        if listed.domain.uuid == skip:
            continue
        try:
            found.extend(_users_by(listed, hypervisor, below))
        except DiskError as error:
            if not is_missing_domain(error):
                raise
    return found


def users_of(path: str, users: t.Iterable[User]) -> list[User]:
    """Those of *users* whose file is the one at *path*, by whatever name."""
    wanted = identity(path)
    return [user for user in users if identity(user.path) == wanted]


def by_file(users: t.Iterable[User]) -> dict[Identity, list[User]]:
    """*users* by the file that is theirs: one look at each, for any number of questions."""
    found: dict[Identity, list[User]] = {}
    for user in users:
        found.setdefault(identity(user.path), []).append(user)
    return found


def is_same_file(one: str, other: str) -> bool:
    """Whether two paths mean one file, by whatever names."""
    return identity(one) == identity(other)


def overlays_over(path: str, users: t.Collection[User]) -> list[str]:
    """The images of disks that read the file at *path*, as far as *users* tell."""
    readers = {(user.uuid, user.target) for user in users_of(path, users) if user.role == _BACKING}
    return sorted({user.path for user in users if user.role == _DISK and (user.uuid, user.target) in readers})


def _users_by(listed: Listed, hypervisor: Hypervisor, below: _image.Links) -> t.Iterator[User]:
    domain = listed.domain
    definitions = []
    if listed.persistent:
        definitions.append((_disks.disks(domain.xml(inactive=True, secrets=False)), _DISK))
    if listed.active:
        definitions.append((_disks.disks(domain.xml(inactive=False, secrets=False)), _DISK))
    snapshots = domain.snapshot_definitions() if listed.has_snapshots else ()
    definitions += [(_disks.snapshot_disks(xml), "disk in a snapshot") for xml in snapshots]
    seen = set()
    for disks, role in definitions:
        for disk in disks:
            for path, part, image_format in _files_of(disk, hypervisor, below):
                user = User(domain.name, domain.uuid, listed.active, disk.target, part or role, path, image_format)
                if user not in seen:
                    seen.add(user)
                    yield user


def _files_of(
    disk: _disks.DiskElement, hypervisor: Hypervisor, below: _image.Links
) -> t.Iterator[tuple[str, str | None, str | None]]:
    """The files that a disk means, each with its part in it (None: it is the disk) and its format."""
    source = source_path(disk, hypervisor)
    if source:
        yield source, None, disk.format
        if disk.device == "disk":
            for path, image_format in below.of(source, disk.format):
                yield path, _BACKING, image_format
    for link in disk.chain or ():
        if link.path:
            yield link.path, _BACKING, link.format
    if disk.mirror:
        yield disk.mirror, "destination of a block job on", None
