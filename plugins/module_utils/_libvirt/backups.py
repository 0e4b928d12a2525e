# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The backup job of a running domain, and its checkpoints. XML passes as text."""

from __future__ import annotations

import typing as t
from contextlib import suppress

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._errors import LibvirtFailed
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt import binding
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.acting import ActingDomain
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.binding import failure, translated
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.line import repeatable

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.domain import Domain


@dataclass(frozen=True)
class Ended:
    """How the last job of a domain ended: whether it was a backup and a success, and what libvirt says of it."""

    success: bool
    message: str = ""


def backing_up(domain: Domain) -> BackedUpDomain:
    """*domain*, to be backed up."""
    return BackedUpDomain(domain._found, domain._line)  # pylint: disable=protected-access


class BackedUpDomain(ActingDomain):
    """A domain that is backed up, or may be."""

    def begin_backup(self, backup: str, checkpoint: str | None) -> None:
        """Begins to copy disks into files that are there already, at one point in time, with a checkpoint of that.

        Nobody waits for it. It is the job of the domain: how it ends, ended_job() tells until another one ends.
        """
        self._forget_ended_job()
        flags = binding.libvirt.VIR_DOMAIN_BACKUP_BEGIN_REUSE_EXTERNAL
        with translated(f"{self.name}: cannot begin the backup"):
            self._ask(self._domain.backupBegin, backup, checkpoint, flags)

    @repeatable
    def backup_job(self) -> str | None:
        """The XML of the backup that goes on; None where none does."""
        with translated(f"{self.name}: cannot look for a backup job"):
            try:
                return t.cast(str, self._ask(self._domain.backupGetXMLDesc, 0))
            except binding.libvirt.libvirtError as error:
                nothing = (binding.libvirt.VIR_ERR_NO_DOMAIN_BACKUP, binding.libvirt.VIR_ERR_OPERATION_INVALID)
                if error.get_error_code() in (*nothing, binding.libvirt.VIR_ERR_NO_SUPPORT):
                    return None
                raise

    @repeatable
    def backup_figures(self) -> tuple[int, int]:
        """The bytes that the backup has copied, and those that it will have, as far as QEMU knows by now."""
        with translated(f"{self.name}: cannot see how far the backup is"):
            found = self._ask(self._domain.jobStats, 0)
        return int(found.get("disk_processed", 0)), int(found.get("disk_total", 0))

    def ended_job(self) -> Ended | None:
        """How the last job ended; None where libvirtd knows of none: it has that in its memory alone (HAZARDS K7), and
        tells it once."""
        with translated(f"{self.name}: cannot see how the backup has ended"):
            found = self._ask(self._domain.jobStats, binding.libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED)
        if not found or "operation" not in found:
            return None
        is_backup = found["operation"] == binding.libvirt.VIR_DOMAIN_JOB_OPERATION_BACKUP
        message = str(found.get("errmsg", ""))
        return Ended(bool(is_backup and found.get("success") and not message), message)

    @repeatable
    def abort_backup(self) -> None:
        """Ends the backup that goes on; nothing to do where none does any more."""
        with translated(f"{self.name}: cannot end the backup"):
            try:
                self._ask(self._domain.abortJob)
            except binding.libvirt.libvirtError:
                if self.backup_job() is not None:
                    raise

    @repeatable
    def checkpoint_xmls(self) -> list[str]:
        """The XML of the checkpoints; of a running domain with what has changed since, as far as that is known."""
        with translated(f"{self.name}: cannot read the checkpoints"):
            return [self._checkpoint_xml(found) for found in self._domain.listAllCheckpoints(0)]

    @repeatable
    def delete_checkpoint(self, name: str) -> None:
        """Has libvirt, and the images of a running domain, know nothing of a checkpoint any more.

        Where its bitmap is broken (HAZARDS K5), or the domain is off, libvirt alone forgets it.
        """
        flag = binding.libvirt.VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY
        with translated(f"{self.name}: cannot delete the checkpoint {name}"):
            try:
                found = self._domain.checkpointLookupByName(name)
            except binding.libvirt.libvirtError as error:
                if error.get_error_code() == binding.libvirt.VIR_ERR_NO_DOMAIN_CHECKPOINT:
                    return
                raise
            try:
                self._ask(found.delete, 0)
            except binding.libvirt.libvirtError:
                self._ask(found.delete, flag)

    def freeze(self) -> None:
        """Has the guest agent freeze the file systems. Raises LibvirtFailed where it does not (is_silent_agent)."""
        with translated(f"{self.name}: cannot have the guest agent freeze the file systems"), self._agent_bounded():
            self._ask(self._domain.fsFreeze)

    def _forget_ended_job(self) -> None:
        """What is told from now on is of a job that ends from now on."""
        with suppress(LibvirtFailed):
            self.ended_job()

    def _checkpoint_xml(self, found: t.Any) -> str:
        no_domain = binding.libvirt.VIR_DOMAIN_CHECKPOINT_XML_NO_DOMAIN
        if self._domain.isActive():
            with suppress(binding.libvirt.libvirtError):  # a job goes on, or a bitmap is broken
                flags = no_domain | binding.libvirt.VIR_DOMAIN_CHECKPOINT_XML_SIZE
                return t.cast(str, self._ask(found.getXMLDesc, flags))
        try:
            return t.cast(str, found.getXMLDesc(no_domain))
        except binding.libvirt.libvirtError as error:
            raise failure(f"{self.name}: cannot read a checkpoint", error) from error
