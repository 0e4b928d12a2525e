# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A connection to libvirt: its domains and its storage pools."""

from __future__ import annotations

import re
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._errors import LibvirtFailed
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt import binding
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.binding import failure, translated
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.domain import Domain
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.line import Line, repeatable

#: Of the labels that libvirt gives to images, the one of QEMU's user and group, such as +64055:+64055.
_BASELABEL = (
    r"(?s)<model>dac</model>(?:(?!</secmodel>).)*?"
    r"<baselabel type='qemu'>\+(?P<user>\d+):\+(?P<group>\d+)</baselabel>"
)

#: How libvirt finds what a start needs, by kind: the call, the error for what is not there, and whether the thing is
#: only of use while it is active.
_OFFERS = {
    "network": ("networkLookupByName", "VIR_ERR_NO_NETWORK", True),
    "storage pool": ("storagePoolLookupByName", "VIR_ERR_NO_STORAGE_POOL", True),
    "interface": ("interfaceLookupByName", "VIR_ERR_NO_INTERFACE", False),
    "network filter": ("nwfilterLookupByName", "VIR_ERR_NO_NWFILTER", False),
    "secret": ("secretLookupByUUIDString", "VIR_ERR_NO_SECRET", False),
}


def _way_in(uri: str, said: str) -> str:
    """What to do where no libvirt answers at *uri*, of which libvirt has *said* why."""
    if not re.match(r"\w+(\+unix)?:///", uri):
        return "check the uri, and that the task's user may connect to it (virsh -c)"
    if uri.endswith("/system") and ("Permission denied" in said or "authentication" in said):
        return (
            "set become=true, add the user of the task to the group libvirt, or give the uri of his own session, "
            "qemu:///session"
        )
    return (
        "start it (systemctl start libvirtd.socket, or virtqemud.socket where its daemons are separate), install it "
        "(the role kvmops.disk.hypervisor does), or give the uri of another one"
    )


class Hypervisor:
    """One line to libvirt. Every call raises LibvirtFailed in words of ours, with libvirt's as the reason."""

    def __init__(self, line: t.Any, uri: str) -> None:
        self._line = line
        self.uri = uri

    @property
    def _connection(self) -> t.Any:
        return self._line.connection()

    @classmethod
    def connect(cls, uri: str, *, readonly: bool = False, seconds: float | None = None) -> Hypervisor:
        """Raises MissingLibrary without libvirt-python, LibvirtFailed where nothing answers at *uri*, NoAnswer where
        whoever is there says nothing for so many *seconds*."""
        binding.load()
        try:
            with translated(f"{uri}: cannot connect to libvirt"):
                return cls(Line(uri, readonly=readonly, seconds=seconds), uri)
        except LibvirtFailed as error:
            error.advice = _way_in(uri, str(error))
            raise

    @repeatable
    def version(self) -> tuple[int, int]:
        """The release of libvirt that answers, such as (9, 10): for what it tells in no other way."""
        with translated(f"{self.uri}: cannot ask for libvirt's version"):
            number = int(self._connection.getLibVersion())
        return number // 1000000, number // 1000 % 1000

    @repeatable
    def domain(self, name: str) -> Domain:
        """The domain of that name or UUID. Raises LibvirtFailed where there is none."""
        for look_up in ("lookupByName", "lookupByUUIDString"):
            try:
                return Domain(getattr(self._connection, look_up)(name), self._line)
            except binding.libvirt.libvirtError as error:
                if error.get_error_code() not in (
                    binding.libvirt.VIR_ERR_NO_DOMAIN,
                    binding.libvirt.VIR_ERR_INVALID_ARG,
                ):
                    raise failure(f"{name}: cannot look the domain up", error) from error
        raise LibvirtFailed(
            f"{name}: no domain of this name or UUID on {self.uri}", libvirt_code=binding.libvirt.VIR_ERR_NO_DOMAIN
        )

    @repeatable
    def find(self, name: str) -> Domain | None:
        """The domain of that name; None where there is none."""
        try:
            return Domain(self._connection.lookupByName(name), self._line)
        except binding.libvirt.libvirtError as error:
            if error.get_error_code() == binding.libvirt.VIR_ERR_NO_DOMAIN:
                return None
            raise failure(f"{name}: cannot look the domain up", error) from error

    @repeatable
    def qemu_user(self) -> tuple[int, int] | None:
        """The user and the group that libvirt runs QEMU as; None where it does not say, or runs it as whoever asks."""
        with translated(f"{self.uri}: cannot read the capabilities"):
            found = re.search(_BASELABEL, self._connection.getCapabilities())
        return (int(found["user"]), int(found["group"])) if found else None

    @repeatable
    def domains(self) -> list[Domain]:
        """All domains, running or not."""
        with translated(f"{self.uri}: cannot list the domains"):
            return [Domain(found, self._line) for found in self._connection.listAllDomains()]

    @repeatable
    def listing(self) -> list[Listed]:
        """All domains with what the lists themselves say of them: in a few calls, however many domains there are."""
        with translated(f"{self.uri}: cannot list the domains"):
            active, transient, with_snapshots = (
                {found.UUID() for found in self._connection.listAllDomains(flag)}
                for flag in (
                    binding.libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE,
                    binding.libvirt.VIR_CONNECT_LIST_DOMAINS_TRANSIENT,
                    binding.libvirt.VIR_CONNECT_LIST_DOMAINS_HAS_SNAPSHOT,
                )
            )
            return [
                Listed(
                    Domain(found, self._line),
                    active=found.UUID() in active,
                    persistent=found.UUID() not in transient,
                    has_snapshots=found.UUID() in with_snapshots,
                )
                for found in self._connection.listAllDomains()
            ]

    @repeatable
    def define(self, xml: str, *, validate: bool = True) -> Domain:
        """Defines the domain; *validate* has libvirt compare its XML with the schema, which it reads anew each time."""
        flags = binding.libvirt.VIR_DOMAIN_DEFINE_VALIDATE if validate else 0
        with translated("cannot define the domain"):
            return Domain(self._connection.defineXMLFlags(xml, flags), self._line)

    @repeatable
    def pools(self, *, active_only: bool = True) -> list[Pool]:
        """The storage pools; none where the driver has no storage."""
        flags = binding.libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE if active_only else 0
        try:
            return [Pool(found) for found in self._connection.listAllStoragePools(flags)]
        except binding.libvirt.libvirtError as error:
            if error.get_error_code() == binding.libvirt.VIR_ERR_NO_SUPPORT:
                return []
            raise failure(f"{self.uri}: cannot list the storage pools", error) from error

    def try_pool(self, xml: str) -> None:
        """Makes a storage pool, which libvirt fills, and drops it. Raises LibvirtFailed where it cannot be filled."""
        with translated("cannot read the directory as a storage pool"):
            self._connection.storagePoolCreateXML(xml, 0).destroy()

    @repeatable
    def pool(self, name: str) -> Pool:
        """The active storage pool of that name. Raises LibvirtFailed where there is none."""
        with translated(f"{name}: cannot find the storage pool"):
            found = self._connection.storagePoolLookupByName(name)
            active = found.isActive()
        if not active:
            raise LibvirtFailed(f"{name}: the storage pool is not active: start it first (virsh pool-start)")
        return Pool(found)

    def lack(self, kind: str, name: str) -> str | None:
        """What is wrong with the *kind* of thing called *name* that a start needs: ``missing`` or ``inactive``.

        None where nothing is, or this libvirt cannot tell. Kinds: network, storage pool, interface, network filter,
        secret.
        """
        call, code, needs_life = _OFFERS[kind]
        try:
            found = getattr(self._connection, call)(name)
            return "inactive" if needs_life and not found.isActive() else None
        except binding.libvirt.libvirtError as error:
            return "missing" if error.get_error_code() == getattr(binding.libvirt, code) else None

    @repeatable
    def pool_xml(self, name: str) -> str:
        """The definition of a storage pool, active or not. Raises LibvirtFailed where there is none."""
        with translated(f"{name}: cannot find the storage pool"):
            return Pool(self._connection.storagePoolLookupByName(name)).xml()

    @repeatable
    def volume_path(self, pool: str, volume: str) -> str:
        with translated(f"{pool}/{volume}: cannot find the storage volume"):
            return t.cast(str, self._connection.storagePoolLookupByName(pool).storageVolLookupByName(volume).path())


@dataclass(frozen=True)
class Listed:
    """A domain, and how it was when it was listed."""

    domain: Domain
    active: bool
    persistent: bool
    has_snapshots: bool


@dataclass(frozen=True)
class Pool:
    """A storage pool."""

    _pool: t.Any

    @property
    def name(self) -> str:
        return t.cast(str, self._pool.name())

    def xml(self) -> str:
        with translated("cannot read a storage pool"):
            return t.cast(str, self._pool.XMLDesc(0))

    def sizes(self) -> tuple[int, int, int]:
        """The bytes that the pool has, that are taken, and that are free."""
        with translated(f"{self.name}: cannot read the size of the storage pool"):
            _state, capacity, allocation, available = self._pool.info()
        return capacity, allocation, available

    def volumes(self) -> list[Volume]:
        with translated(f"{self.name}: cannot list the volumes of the storage pool"):
            volumes = self._pool.listAllVolumes(0)
            return [Volume(one.path(), int(one.info()[1]), int(one.info()[2]), one.XMLDesc(0)) for one in volumes]

    def is_active(self) -> bool:
        with translated(f"{self.name}: cannot read the state of the storage pool"):
            return bool(self._pool.isActive())

    def start(self) -> None:
        with translated(f"{self.name}: cannot start the storage pool"):
            self._pool.create(0)

    def refresh(self) -> None:
        with translated(f"{self.name}: cannot refresh the storage pool"):
            self._pool.refresh(0)


@dataclass(frozen=True)
class Volume:
    """A volume of a storage pool: the bytes that its disk has, those that it takes in the pool, and its XML."""

    path: str
    capacity: int
    allocation: int
    xml: str
