# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a dead run left of a domain's snapshots is removed, and what images have lost is written again."""

from __future__ import annotations

import os
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._content.merge_work import merge_offline
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._domain import start as _start
from ansible_collections.kvmops.disk.plugins.module_utils._domain.work import DomainWork
from ansible_collections.kvmops.disk.plugins.module_utils._files import durable as _durable
from ansible_collections.kvmops.disk.plugins.module_utils._files import staging as _staging
from ansible_collections.kvmops.disk.plugins.module_utils._usage import unused as _unused
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot.work_take import leave_no_record

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot.decision_found import Left
    from ansible_collections.kvmops.disk.plugins.module_utils._xml.records import RecordedDisk


@dataclass
class Work(DomainWork):
    """One method for each step, no decisions between them. *reused*: names of overlays that the same task makes."""

    left: Left
    reused: t.Collection[str] = ()

    def merge_again(self, disk: RecordedDisk) -> None:
        """Merges an overlay that nobody has open once more. Raises DiskError where somebody has."""
        for path in (disk.source, disk.dest):
            _unused.require_unused(path, (), f"merge {disk.source} into {disk.dest} again")
        overlay, into = (disk.source, disk.source_format), (disk.dest, disk.format)
        total = os.stat(disk.source).st_blocks * 512
        merge_offline(self.qemu_img, overlay, into, lambda verb: self.phase(disk.target, verb, total), self.warn)

    def discard(self, path: str) -> None:
        """Removes the directory with the half-made overlay that was to be at *path*."""
        _staging.discard(path)

    def remove(self, path: str) -> None:
        """Removes an overlay that nobody uses."""
        _durable.remove(path)

    def leave_no_record(self, name: str) -> None:
        """Has the snapshot *name* know nothing of the record of the run that took it."""
        leave_no_record(self.domain, name)

    def start(self) -> None:
        """Starts the domain, which the dead run owes that. Raises DomainIsOff."""
        _start.start_again(self.hypervisor, self.domain)

    def forget(self) -> None:
        """Removes the records of the dead run."""
        self.records.let_go({*self.left.unused} - {*self.reused})
