# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A linked clone gets another base."""

from __future__ import annotations

import os
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._content.rebase_work import Phases, plan_rebase
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, Interrupted
from ansible_collections.kvmops.disk.plugins.module_utils._files import staging as _staging
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disk_changes as _disk_changes

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainState
    from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation
    from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.connection import Hypervisor
    from ansible_collections.kvmops.disk.plugins.module_utils._plan import Step
    from ansible_collections.kvmops.disk.plugins.module_utils._progress import Progress
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_rebase import Move


@dataclass
class Work:
    """One method for each step, no decisions between them. *state* is the clone as it was looked at, *wanted* the
    definition that it is to have. *stopped* tells that the task was told to end."""

    hypervisor: Hypervisor
    qemu_img: QemuImg
    operation: Operation
    progress: Progress
    stopped: t.Callable[[], bool]
    state: DomainState
    wanted: str

    def clear(self, path: str) -> None:
        """Removes what a dead run left of the image at *path*."""
        _staging.discard(os.path.realpath(path))
        self.operation.settled(path)

    def rebase(self, one: Move) -> t.Sequence[Step]:
        """The steps that give an image its new base."""
        if one.rebase is None:
            return ()
        qemu_img = self.qemu_img.holding(*self.operation.descriptors)
        return plan_rebase(one.rebase, qemu_img, phases=self._phases(f"{self.state.name} {one.disk.target}")).steps

    def define(self) -> None:
        """Defines the clone anew. Raises DiskError where its definition is not the one that was looked at."""
        name, domain = self.state.name, self.hypervisor.domain(self.state.uuid)
        if domain.is_active() or domain.xml(inactive=True) != self.state.definition:
            raise DiskError(
                f"{name}: was started or changed in the meantime: its images read the new base, and its guest sees "
                "the same: run again",
            )
        self.hypervisor.define(self.wanted)
        difference = _disk_changes.unexpected_difference(self.wanted, domain.xml(inactive=True))
        if difference is not None:
            self.hypervisor.define(self.state.definition)
            raise DiskError(f"{name}: libvirt took another definition than it was given: {difference}")

    def _phases(self, subject: str) -> Phases:
        """The parts of the work on a disk, each of which ends where the task is told to end."""

        def look() -> None:
            if self.stopped():
                raise Interrupted(f"{subject}: was left as it was, because the task was stopped")

        return lambda verb, total: self.progress.phase(subject, verb, total, look)
