# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A clone is removed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._files import base_note as _base_note
from ansible_collections.kvmops.disk.plugins.module_utils._files import same_file as _same_file
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.acting import ActingDomain, acting

if TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation
    from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.connection import Hypervisor
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_remove import Removal


@dataclass
class Work:
    """One method for each step, no decisions between them."""

    hypervisor: Hypervisor
    operation: Operation
    plan: Removal
    _xml: str | None = None

    def note(self) -> None:
        """From now on the next run finds what goes, though the definition does not name it any more."""
        for path in self.plan.files:
            self.operation.settled(path)
            self.operation.note(path, item=self.plan.name, new_file=_same_file.file_identity(path))

    def stop(self) -> None:
        self._domain().destroy()

    def undefine(self) -> None:
        domain = self._domain()
        self._xml = domain.xml(inactive=True)
        domain.undefine()

    def define_again(self) -> None:
        if self._xml is not None and self.hypervisor.find(self.plan.name) is None:
            self.hypervisor.define(self._xml)

    def remove_files(self) -> None:
        """A file that cannot be removed keeps its record, by which the next run tries again."""
        for path in self.plan.files:
            self.operation.keep(path)
        for path in self.plan.files:
            _base_note.remove(path)
            self.operation.settled(path)

    def _domain(self) -> ActingDomain:
        return acting(self.hypervisor.domain(self.plan.uuid))
