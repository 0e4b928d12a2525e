# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A domain as it is found: its state, its definition, its disks, and the block jobs on them."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, InvalidRequest, NoAnswer
from ansible_collections.kvmops.disk.plugins.module_utils._usage import sources as _sources
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disks as _disks
from ansible_collections.kvmops.disk.plugins.module_utils._xml import records as _records

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.connection import Hypervisor
    from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.domain import Domain


@dataclass(frozen=True)
class DomainDisk:
    """A disk of a domain.

    *defined* is what the next start will use, None where the disk was plugged into the running domain only; *live*
    is what the guest uses now, None where it is off. *path* is the file of the one that counts: the live one of a
    running domain, else the defined one. *problem* says why it is not known, where that is so.
    """

    target: str
    path: str | None
    defined: _disks.DiskElement | None
    live: _disks.DiskElement | None
    problem: str | None = None

    @property
    def element(self) -> _disks.DiskElement:
        return t.cast(_disks.DiskElement, self.live or self.defined)

    @property
    def format(self) -> str:
        return self.element.format

    @property
    def chain(self) -> tuple[_disks.ChainLink, ...] | None:
        """What libvirt knows of the backing files: all of them for a running guest, else what the definition says."""
        return self.element.chain


@dataclass(frozen=True)
class DomainState:
    """Everything about a domain that a decision needs; read-only. *live* is the XML of the running one."""

    name: str
    uuid: str
    state: str
    active: bool
    persistent: bool
    managed_save: bool
    snapshots: tuple[str, ...]
    checkpoints: tuple[str, ...]
    busy: bool
    definition: str
    disks: tuple[DomainDisk, ...]
    record: _records.Record | None
    live: str | None = None
    unreadable: str | None = None

    def disk(self, wanted: str) -> DomainDisk | None:
        """The disk with that target or source path; None where the domain has none."""
        return next((disk for disk in self.disks if wanted in (disk.target, disk.path)), None)

    def has(self, disk: DomainDisk) -> bool:
        """Whether the guest has the disk now, or, offline, will have it at the next start."""
        return (disk.live if self.active else disk.defined) is not None

    def no_such_disk(self, wanted: str) -> InvalidRequest:
        """The error for a disk that the domain does not have."""
        known = ", ".join(f"{disk.target} ({disk.path or disk.element.device})" for disk in self.disks) or "none"
        return InvalidRequest(
            f"{self.name}: has no disk {wanted}: it has {known}", disks=[disk.target for disk in self.disks]
        )


def observe(hypervisor: Hypervisor, domain: Domain, *, ask: bool = True) -> DomainState:
    """The state of *domain* now. Raises LibvirtFailed where it is gone meanwhile.

    Without *ask* nobody waits for its QEMU, whether it is *busy* is not looked at, and a record in its metadata that
    cannot be read is told of as *unreadable*. Otherwise raises NoAnswer, and DiskError for such a record.
    """
    active, persistent = domain.is_active(), domain.is_persistent()
    definition = domain.xml(inactive=True)
    live = domain.xml(inactive=False) if active else None
    record, unreadable = _recorded(domain, persistent, tolerant=not ask)
    return DomainState(
        name=domain.name,
        uuid=domain.uuid,
        state=domain.state(),
        active=active,
        persistent=persistent,
        managed_save=domain.has_managed_save() if persistent else False,
        snapshots=tuple(domain.snapshots()),
        checkpoints=tuple(domain.checkpoints()),
        busy=ask and active and domain.has_domain_job(),
        definition=definition,
        disks=disks(hypervisor, definition if persistent else None, live),
        record=record,
        live=live,
        unreadable=unreadable,
    )


def _recorded(domain: Domain, persistent: bool, *, tolerant: bool) -> tuple[_records.Record | None, str | None]:
    """The record in the metadata of *domain*, or why it cannot be read."""
    found = domain.record() if persistent else None
    try:
        return (_records.record_from_xml(found) if found else None), None
    except DiskError as error:
        if not tolerant:
            raise
        return None, f"{domain.name}: {error}"


def disks(hypervisor: Hypervisor, definition: str | None, live: str | None) -> tuple[DomainDisk, ...]:
    """The disks of a domain from its two XMLs, in their order; those of the running one first."""
    defined = {disk.target: disk for disk in _disks.disks(definition)} if definition else {}
    running = {disk.target: disk for disk in _disks.disks(live)} if live else {}
    found = []
    for target in {**running, **defined}:
        meant = _sources.source(running.get(target) or defined[target], hypervisor)
        found.append(DomainDisk(target, meant.path, defined.get(target), running.get(target), meant.problem))
    return tuple(found)


def block_jobs(domain: Domain, state: DomainState) -> list[str]:
    """The targets of the running domain's disks on which a block job runs, or waits for its pivot. Raises NoAnswer.

    None are looked for where the domain is busy: libvirt does not tell of one that is migrated to here.
    """
    if state.busy:
        return []
    return [
        disk.target for disk in state.disks if disk.live and (disk.live.mirror is not None or _has_job(domain, disk))
    ]


def _has_job(domain: Domain, disk: DomainDisk) -> bool:
    try:
        return bool(domain.block_job(disk.target))
    except NoAnswer:
        raise
    except DiskError:  # an empty drive has no block device to ask
        return False
