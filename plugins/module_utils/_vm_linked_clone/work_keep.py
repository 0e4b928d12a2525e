# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A clone that is there is given what it lacks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError

if TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation
    from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.connection import Hypervisor
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_keep import Lack


@dataclass
class Work:
    """One method for each step, no decisions between them."""

    hypervisor: Hypervisor
    operation: Operation
    lack: Lack

    def forget(self) -> None:
        self.operation.settled(*self.lack.left)

    def define(self) -> None:
        """libvirt keeps what the definition says of all else: it is the one that was looked at."""
        if self.hypervisor.domain(self.lack.uuid).xml(inactive=True) != self.lack.xml:
            raise DiskError(f"{self.lack.name}: its definition was changed in the meantime: run again")
        self.hypervisor.define(self.lack.wanted, validate=False)

    def define_again(self) -> None:
        self.hypervisor.define(self.lack.xml, validate=False)

    def start(self) -> None:
        self.hypervisor.domain(self.lack.uuid).start()
