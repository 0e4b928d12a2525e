# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who uses an image: processes that hold QEMU's locks on it, and domains."""

from __future__ import annotations

import os
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass, field
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError
from ansible_collections.kvmops.disk.plugins.module_utils._formats.references import Identity, identity
from ansible_collections.kvmops.disk.plugins.module_utils._image import links as _links
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.binding import is_missing_domain
from ansible_collections.kvmops.disk.plugins.module_utils._usage import sources as _sources
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disks as _disks

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.connection import Hypervisor, Listed

#: Gives the files that a definition names outside of its disks, each after the element that does.
Others = t.Callable[[str], t.Iterable[tuple[str, str]]]
_DISK, _BACKING, _NAMED = "disk", "backing file of", "file named in"


@dataclass(frozen=True)
class Claim:
    """A domain that has something to do with a file: as what, and whether it runs."""

    domain: str
    uuid: str
    running: bool
    target: str
    role: str

    def __str__(self) -> str:
        return f"{'running' if self.running else 'defined'} domain {self.domain} ({self.role} {self.target})"


@dataclass(frozen=True)
class User(Claim):
    """The claim on the file at *path*.

    *format* is what the domain reads the file as, None where its definition does not say that.
    """

    path: str
    format: str | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Unresolved(Claim):
    """The claim on a file that nobody can name, as *problem* says; *device*: it can only be a block device."""

    problem: str
    device: bool = False

    def facts(self) -> dict[str, t.Any]:
        """As in the facts of a User, whose path and format are not known here."""
        of_both = ("domain", "uuid", "running", "target", "role")
        return {**{name: getattr(self, name) for name in of_both}, "path": None, "format": None}

    def may_be(self, path: str) -> bool:
        """Whether it may be what is at *path*."""
        from ansible_collections.kvmops.disk.plugins.module_utils._host.block_device import is_block_device

        return os.path.exists(path) and (not self.device or is_block_device(path))


@dataclass(frozen=True)
class Uses:
    """What the domains of a libvirt use: *users*, and what could not be seen.

    *named* are files that a definition names outside of its disks, the variables of the firmware for one. *unread* are
    images of domains that cannot be read, so that nobody knows what they read in turn.
    """

    users: list[User] = field(default_factory=list)
    named: list[User] = field(default_factory=list)
    unresolved: list[Unresolved] = field(default_factory=list)
    unread: t.Collection[str] = ()


def domain_uses(hypervisor: Hypervisor, others: Others = lambda _xml: ()) -> Uses:
    """Every file that a domain names or reads: disks, mirrors, backing files, disks of snapshots; and the *others* that
    its definition names."""
    below = _links.Links()
    found = Uses(unread=below.unread)
    for listed in hypervisor.listing():
        try:
            claims = list(_claims_of(listed, hypervisor, below, others))
        except DiskError as error:
            if not is_missing_domain(error):
                raise
            continue
        users = [one for one in claims if isinstance(one, User)]
        found.users.extend(one for one in users if one.role != _NAMED)
        found.named.extend(one for one in users if one.role == _NAMED)
        found.unresolved.extend(one for one in claims if isinstance(one, Unresolved))
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


class ByFile:
    """Users by the file that is theirs: one look at each of them, for any number of questions."""

    def __init__(self, users: t.Iterable[User]) -> None:
        self._users = by_file(users)
        self._disks: dict[tuple[str, str], set[str]] = {}
        for user in (one for found in self._users.values() for one in found if one.role == _DISK):
            self._disks.setdefault((user.uuid, user.target), set()).add(user.path)

    def of(self, path: str) -> list[User]:
        """Those whose file is the one at *path*, by whatever name."""
        return self._users.get(identity(path), [])

    def overlays_over(self, path: str) -> list[str]:
        """The images of disks that read the file at *path*, sorted."""
        readers = {(user.uuid, user.target) for user in self.of(path) if user.role == _BACKING}
        return sorted({overlay for disk in readers for overlay in self._disks.get(disk, ())})


def _claims_of(listed: Listed, hypervisor: Hypervisor, below: _links.Links, others: Others) -> t.Iterator[Claim]:
    domain = listed.domain
    of_now = [domain.xml(inactive=True, secrets=False)] if listed.persistent else []
    of_now += [domain.xml(inactive=False, secrets=False)] if listed.active else []
    for part, path in sorted({pair for xml in of_now for pair in others(xml)}):
        yield User(domain.name, domain.uuid, listed.active, part, _NAMED, path)
    definitions = [(_disks.disks(xml), _DISK) for xml in of_now]
    snapshots = domain.snapshot_definitions() if listed.has_snapshots else ()
    definitions += [(_disks.snapshot_disks(xml), "disk in a snapshot") for xml in snapshots]
    seen: set[Claim] = set()
    for disks, role in definitions:
        for disk in disks:
            who = (domain.name, domain.uuid, listed.active, disk.target)
            source = _sources.source(disk, hypervisor)
            claims: list[Claim] = [
                User(*who, part or role, path, image_format)
                for path, part, image_format in _files_of(disk, source.path, below)
            ]
            if source.problem is not None:
                claims.append(Unresolved(*who, role, source.problem, source.device))
            for link in disk.chain or ():
                below_it = _sources.source_of_link(link, hypervisor)
                if below_it.path:
                    claims.append(User(*who, _BACKING, below_it.path, link.format))
                if below_it.problem is not None:
                    claims.append(Unresolved(*who, _BACKING, below_it.problem, below_it.device))
            yield from [claim for claim in claims if claim not in seen]
            seen.update(claims)


def _files_of(
    disk: _disks.DiskElement, source: str | None, below: _links.Links
) -> t.Iterator[tuple[str, str | None, str | None]]:
    """The files that a disk means, each with its part in it (None: it is the disk) and its format."""
    if source:
        yield source, None, disk.format
        if disk.device == "disk":
            for path, image_format in below.of(source, disk.format, known=disk.chain is not None):
                yield path, _BACKING, image_format
    if disk.mirror:
        yield disk.mirror, "destination of a block job on", None
