# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The job in which libvirt fills the files of a backup while the guest runs, and what it has QEMU keep for that."""

from __future__ import annotations

import os
import time
import typing as t
from contextlib import suppress

from ansible_collections.kvmops.disk.plugins.module_utils._backup.manifest import INCREMENTAL
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._domain import block_job as _block_job
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, LibvirtFailed
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.nodes import MadeForBackup
from ansible_collections.kvmops.disk.plugins.module_utils._xml import backups as _backups

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._backup.manifest import Manifest
    from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.backups import BackedUpDomain
    from ansible_collections.kvmops.disk.plugins.module_utils._progress import Phase

_LOOK_EVERY = 0.25


@dataclass(frozen=True)
class BackupJob:
    """The job of the running *domain* that fills the files of *manifest* in *directory*; it may be over. By its files
    it is told from the job of another program."""

    domain: BackedUpDomain
    manifest: Manifest
    directory: str

    def continues(self) -> bool:
        """Whether libvirt still fills the files."""
        job = self.domain.backup_job()
        return job is not None and self.directory in map(os.path.dirname, _backups.files_of_job(job).values())

    def wait(self, phase: Phase, timeout: int) -> None:
        """Waits until the job is over, however it ends. Raises DiskError after *timeout* seconds, and where the job
        comes no further."""
        began = moved = time.monotonic()
        so_far = (0, 0)
        with self.domain.watched() as wait:
            while self.continues():
                with suppress(LibvirtFailed):
                    figures = self.domain.backup_figures()
                    if figures != so_far:
                        so_far, moved = figures, time.monotonic()
                        phase.at(*figures)
                now = time.monotonic()
                if now - began > timeout or now - moved > _block_job.STALLED:
                    raise DiskError(
                        f"{self.domain.name}: the backup {self.manifest.backup}: was not done within "
                        f"{now - began:.0f} s: it was given up, and removed"
                    )
                wait(_LOOK_EVERY)

    def end(self) -> None:
        """Ends the job where it continues. Raises DiskError where it does not end."""
        if not self.continues():
            return
        self.domain.abort_backup()
        deadline = time.monotonic() + _block_job.PROMPT
        with self.domain.watched() as wait:
            while self.continues():
                if time.monotonic() > deadline:
                    raise DiskError(f"{self.domain.name}: waited for the end of a backup that was ended: given up")
                wait(_LOOK_EVERY)

    def have_qemu_forget(self) -> bool:
        """Has QEMU forget what was made for this backup, and for no other: libvirtd may have been killed before it
        noted that. Whether QEMU has; nothing is asked of one that works on another backup."""
        if not self.domain.is_active() or self.domain.backup_job() is not None:
            return True
        deadline = time.monotonic() + _block_job.PROMPT
        while not self.domain.forget(self._made()):
            if time.monotonic() > deadline:
                return False
            time.sleep(_LOOK_EVERY)
        return True

    def _made(self) -> MadeForBackup:
        disks = self.manifest.disks
        bitmaps = {_backups.temporary_bitmap(disk.target) for disk in disks if disk.kind == INCREMENTAL}
        return MadeForBackup(
            jobs=tuple(_backups.beginning_of_job(disk.target) for disk in disks),
            bitmaps=frozenset({str(self.manifest.checkpoint), *bitmaps}),
            files=frozenset(os.path.join(self.directory, disk.file) for disk in disks),
        )
