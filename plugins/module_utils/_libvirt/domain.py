# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A domain of libvirt as it is: its state, its definition, the block jobs on its disks. XML passes as text."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt import binding
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.binding import asked_about, failure, translated
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.line import repeatable

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.line import Line

#: The namespace of what this collection writes into a domain's metadata.
METADATA_URI = "urn:kvmops:disk:1"


@dataclass(frozen=True)
class GuestFileSystem:
    """A file system that a guest has mounted at *point*, as its agent tells of it: the bytes that are *used*, and that
    may be used in *total*, None where it does not tell; *disks* are the targets of those on which it lies."""

    point: str
    used: int | None
    total: int | None
    disks: tuple[str, ...] = ()


class Domain:
    """A domain of libvirt, to be looked at."""

    def __init__(self, domain: t.Any, line: Line) -> None:
        self._line, self._found = line, domain
        self.name: str = domain.name()
        self.uuid: str = domain.UUIDString()

    @property
    def _domain(self) -> t.Any:
        """libvirt's own, found again where the line to it is another one by now. Raises libvirtError, and NoAnswer."""
        connection = self._line.connection()
        if self._found.connect() is not connection:
            self._found = connection.lookupByUUIDString(self.uuid)
        return self._found

    @repeatable
    def xml(self, *, inactive: bool, secrets: bool = True) -> str:
        """The definition (*inactive*) or what is now; with *secrets*, so that a redefine loses none (HAZARDS G1)."""
        flags = binding.libvirt.VIR_DOMAIN_XML_INACTIVE if inactive else 0
        flags |= binding.libvirt.VIR_DOMAIN_XML_SECURE if secrets else 0
        with translated(f"{self.name}: cannot read the domain"):
            return t.cast(str, self._domain.XMLDesc(flags))

    @repeatable
    def state(self) -> str:
        """In the words of ``virsh domstate``: running, paused, shut off, crashed, ..."""
        with translated(f"{self.name}: cannot read the domain's state"):
            number = self._domain.state()[0]
        return {
            binding.libvirt.VIR_DOMAIN_RUNNING: "running",
            binding.libvirt.VIR_DOMAIN_BLOCKED: "running",
            binding.libvirt.VIR_DOMAIN_PAUSED: "paused",
            binding.libvirt.VIR_DOMAIN_SHUTDOWN: "in shutdown",
            binding.libvirt.VIR_DOMAIN_SHUTOFF: "shut off",
            binding.libvirt.VIR_DOMAIN_CRASHED: "crashed",
            binding.libvirt.VIR_DOMAIN_PMSUSPENDED: "pmsuspended",
        }.get(number, "no state")

    @repeatable
    def is_active(self) -> bool:
        with translated(f"{self.name}: cannot read the domain's state"):
            return bool(self._domain.isActive())

    @repeatable
    def is_persistent(self) -> bool:
        with translated(f"{self.name}: cannot read the domain's state"):
            return bool(self._domain.isPersistent())

    @repeatable
    def has_managed_save(self) -> bool:
        with translated(f"{self.name}: cannot look for a managed-save image"):
            return bool(self._domain.hasManagedSaveImage(0))

    @repeatable
    def snapshots(self) -> list[str]:
        """The names of the snapshots that libvirt knows."""
        with translated(f"{self.name}: cannot list the snapshots"):
            return list(self._domain.snapshotListNames(0))

    @repeatable
    def snapshot_definitions(self) -> list[str]:
        """The XML of the snapshots: each holds the domain as it was."""
        with translated(f"{self.name}: cannot read the snapshots"):
            return [snapshot.getXMLDesc(0) for snapshot in self._domain.listAllSnapshots(0)]

    @repeatable
    def snapshot_xmls(self) -> tuple[list[str], str | None]:
        """The XML of the snapshots, with secrets, so that a redefinition loses none, and the name of the one from which
        the domain goes on."""
        with translated(f"{self.name}: cannot read the snapshots"):
            secure = binding.libvirt.VIR_DOMAIN_SNAPSHOT_XML_SECURE
            found = [snapshot.getXMLDesc(secure) for snapshot in self._domain.listAllSnapshots(0)]
            current = self._domain.snapshotCurrent(0).getName() if self._domain.hasCurrentSnapshot(0) else None
            return found, current

    @repeatable
    def checkpoints(self) -> list[str]:
        """The names of the checkpoints; none where the driver has no checkpoints."""
        try:
            return [found.getName() for found in self._domain.listAllCheckpoints(0)]
        except binding.libvirt.libvirtError as error:
            if error.get_error_code() == binding.libvirt.VIR_ERR_NO_SUPPORT:
                return []
            raise failure(f"{self.name}: cannot list the checkpoints", error) from error

    @repeatable
    def block_job(self, target: str) -> dict[str, int]:
        """The block job on a disk of the running domain: type, bandwidth, cur, end; empty where there is none."""
        with translated(f"{self.name}: cannot look for a block job on {target}"):
            return dict(self._ask(self._domain.blockJobInfo, target, 0) or {})

    @repeatable
    def capacity(self, target: str) -> int:
        """The bytes that the guest sees of a disk of the running domain, as its QEMU has them."""
        with translated(f"{self.name}: cannot read the size of {target}"):
            return int(self._ask(self._domain.blockInfo, target)[0])

    @repeatable
    def has_domain_job(self) -> bool:
        """Whether the running domain is being migrated, saved, dumped or backed up."""
        with translated(f"{self.name}: cannot look for a job of the domain"):
            try:
                return bool(self._ask(self._domain.jobInfo)[0] != binding.libvirt.VIR_DOMAIN_JOB_NONE)
            except binding.libvirt.libvirtError as error:
                known = (binding.libvirt.VIR_ERR_OPERATION_INVALID, binding.libvirt.VIR_ERR_OPERATION_UNSUPPORTED)
                if error.get_error_code() not in known:
                    raise
                return bool(self._domain.isActive())  # it went off, or comes from where alone libvirt tells of it

    def is_committed(self, target: str) -> bool:
        """Whether a backing file of a disk of the running domain is being written from what is above it."""
        kinds = (
            binding.libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_COMMIT,
            binding.libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_ACTIVE_COMMIT,
        )
        return self.block_job(target).get("type") in kinds

    def is_pulled(self, target: str) -> bool:
        """Whether a pull goes on below a disk of the running domain."""
        return bool(self.block_job(target).get("type") == binding.libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_PULL)

    def run_number(self) -> str | None:
        """libvirt's number of this run of the domain, which no other run has; None where it is off."""
        with translated(f"{self.name}: cannot find the domain"):
            number = self._domain.ID()
        return str(number) if number >= 0 else None

    @repeatable
    def record(self) -> str | None:
        """The element of ours in the metadata of the definition, as XML; None where there is none."""
        try:
            return t.cast(
                str,
                self._domain.metadata(
                    binding.libvirt.VIR_DOMAIN_METADATA_ELEMENT, METADATA_URI, binding.libvirt.VIR_DOMAIN_AFFECT_CONFIG
                ),
            )
        except binding.libvirt.libvirtError as error:
            if error.get_error_code() == binding.libvirt.VIR_ERR_NO_DOMAIN_METADATA:
                return None
            raise failure(f"{self.name}: cannot read the domain's metadata", error) from error

    def _ask(self, call: t.Callable[..., t.Any], *arguments: t.Any, seconds: float | None = None) -> t.Any:
        """What a call answers for which libvirt may have to ask QEMU. Raises NoAnswer, and libvirtError."""
        return asked_about(self._domain, call, *arguments, seconds=seconds)
