# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A connection to libvirt: its domains and its storage pools."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from ansible_collections.kvmops.disk.plugins.module_utils import _libvirt_binding as binding
from ansible_collections.kvmops.disk.plugins.module_utils._errors import LibvirtFailed
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt_binding import failure, translated
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt_domain import Domain


class Hypervisor:
    """One connection to libvirt. Every call raises LibvirtFailed in words of ours, with libvirt's as the reason."""

    def __init__(self, connection: t.Any, uri: str) -> None:
        self._connection = connection
        self.uri = uri

    @classmethod
    def connect(cls, uri: str, *, readonly: bool = False) -> Hypervisor:
        """Raises MissingLibrary without libvirt-python, LibvirtFailed where nothing answers at *uri*."""
        binding.load()
        with translated(f"{uri}: cannot connect to libvirt"):
            return cls(binding.libvirt.openReadOnly(uri) if readonly else binding.libvirt.open(uri), uri)

    def version(self) -> tuple[int, int]:
        """The release of libvirt that answers, such as (9, 10): for what it tells in no other way."""
        with translated(f"{self.uri}: cannot ask for libvirt's version"):
            number = int(self._connection.getLibVersion())
        return number // 1000000, number // 1000 % 1000

    def domain(self, name: str) -> Domain:
        """The domain of that name or UUID. Raises LibvirtFailed where there is none."""
        for look_up in (self._connection.lookupByName, self._connection.lookupByUUIDString):
            try:
                return Domain(look_up(name))
            except binding.libvirt.libvirtError as error:
                if error.get_error_code() not in (
                    binding.libvirt.VIR_ERR_NO_DOMAIN,
                    binding.libvirt.VIR_ERR_INVALID_ARG,
                ):
                    raise failure(f"{name}: cannot look the domain up", error) from error
        raise LibvirtFailed(
            f"{name}: no domain of this name or UUID on {self.uri}", libvirt_code=binding.libvirt.VIR_ERR_NO_DOMAIN
        )

    def domains(self) -> list[Domain]:
        """All domains, running or not."""
        with translated(f"{self.uri}: cannot list the domains"):
            return [Domain(found) for found in self._connection.listAllDomains()]

    def define(self, xml: str) -> Domain:
        with translated("cannot define the domain"):
            return Domain(self._connection.defineXMLFlags(xml, binding.libvirt.VIR_DOMAIN_DEFINE_VALIDATE))

    def pools(self) -> list[Pool]:
        """The active storage pools; none where the driver has no storage."""
        try:
            return [
                Pool(found)
                for found in self._connection.listAllStoragePools(binding.libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE)
            ]
        except binding.libvirt.libvirtError as error:
            if error.get_error_code() == binding.libvirt.VIR_ERR_NO_SUPPORT:
                return []
            raise failure(f"{self.uri}: cannot list the storage pools", error) from error

    def volume_path(self, pool: str, volume: str) -> str:
        with translated(f"{pool}/{volume}: cannot find the storage volume"):
            return t.cast(str, self._connection.storagePoolLookupByName(pool).storageVolLookupByName(volume).path())


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

    def refresh(self) -> None:
        with translated(f"{self.name}: cannot refresh the storage pool"):
            self._pool.refresh(0)
