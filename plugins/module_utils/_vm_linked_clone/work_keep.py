# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A clone that is there already: what it still lacks of what the task wants, and the steps that give it that."""

from __future__ import annotations

from dataclasses import dataclass

from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError
from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.connection import Hypervisor
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.domain import Domain
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Step
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_keep import Lack


@dataclass
class Keeping:
    """The hands that give a clone what it lacks; no decisions between them."""

    hypervisor: Hypervisor
    domain: Domain
    operation: Operation
    lack: Lack

    def forget(self) -> None:
        self.operation.settled(*self.lack.left)

    def define(self) -> None:
        """libvirt keeps what the definition says of all else: it is the one that was looked at."""
        if self.domain.xml(inactive=True) != self.lack.xml:
            raise DiskError(f"{self.lack.name}: its definition was changed in the meantime: run again")
        self.hypervisor.define(self.lack.wanted, validate=False)

    def define_again(self) -> None:
        self.hypervisor.define(self.lack.xml, validate=False)

    def start(self) -> None:
        self.domain.start()


def steps(keeping: Keeping, seed: str | None) -> tuple[Step, ...]:
    """The steps, in order; *seed* is the file that goes into the definition."""
    name, missing = keeping.lack.name, keeping.lack
    found = []
    if missing.left:
        found.append(Step(f"forget the run that was interrupted when it had made {name}", keeping.forget))
    if missing.defines:
        found.append(Step(f"give {name} the seed {seed}", keeping.define, keeping.define_again))
    if missing.start:
        found.append(Step(f"start {name}", keeping.start))
    return tuple(found)
