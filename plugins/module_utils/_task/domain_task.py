# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The walk that the modules share which make new images for a domain's disks: what they work with, how they decide."""

from __future__ import annotations

import os
import typing as t
from abc import ABC, abstractmethod

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._domain import domain as _domain
from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainDisk, DomainState
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, NoAnswer, OperationInFlight
from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation
from ansible_collections.kvmops.disk.plugins.module_utils._image import image as _image
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.connection import Hypervisor
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan, Step, refusal
from ansible_collections.kvmops.disk.plugins.module_utils._progress import Progress
from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg
from ansible_collections.kvmops.disk.plugins.module_utils._recovery.records import Records
from ansible_collections.kvmops.disk.plugins.module_utils._task.hypervisor import refresh_pools


class DomainTask(ABC):
    """A task at hand: looks at the world, decides by pure functions, and says what became of it. *verb* is its name in
    records."""

    verb: t.ClassVar[str]

    def __init__(self, module: AnsibleModule) -> None:
        self.params = module.params
        self.check_mode = module.check_mode
        self.warn: t.Callable[[str], None] = module.warn
        self.progress = Progress.wanted()
        self.qemu_img = QemuImg.find().limiting(not module.params["trusted"])
        self.hypervisor = Hypervisor.connect(module.params["uri"])
        self.domain = self.hypervisor.domain(module.params["name"])
        self.state: DomainState
        self.mode: str | None = None
        self._directories: set[str] = set()

    def decide(self, operation: Operation | None) -> Plan:
        """The plan, from a new look at the world. Where the wish is refused, but a dead run left something, it settles
        that and then refuses."""
        self.state = _domain.observe(self.hypervisor, self.domain)
        try:
            plan = self._plan(operation)
        except (NoAnswer, OperationInFlight):
            raise
        except DiskError as error:
            settlement = () if self.check_mode else self._given_up(operation)
            if not settlement:
                raise
            plan = Plan({}, {}, (*settlement, refusal(error)))
        self._directories = {os.path.dirname(name) for path in self.paths() for name in (path, os.path.realpath(path))}
        return plan

    @abstractmethod
    def paths(self) -> set[str]:
        """The images whose records are to be held."""

    @abstractmethod
    def _plan(self, operation: Operation | None) -> Plan:
        """The plan that grants the wish. Raises DiskError."""

    @abstractmethod
    def _given_up(self, operation: Operation | None) -> tuple[Step, ...]:
        """The steps that only settle what a dead run left; none where there is nothing."""

    def state_after(self, plan: Plan) -> DomainState:
        """The domain after *plan*, which was carried out; pools have seen what came and went."""
        if not plan or self.check_mode:
            return self.state
        refresh_pools(self.hypervisor, self._directories)
        return _domain.observe(self.hypervisor, self.domain)

    def hands(self, operation: Operation | None) -> dict[str, t.Any]:
        """What _hands.Hands are made of."""
        return {
            "hypervisor": self.hypervisor,
            "domain": self.domain,
            "qemu_img": self.holding(operation),
            "records": Records(self.hypervisor, self.domain, operation or Operation(self.verb), self.state.record),
            "progress": self.progress,
        }

    def holding(self, operation: Operation | None) -> QemuImg:
        """qemu-img, which keeps the locks of the operation for as long as it works."""
        return self.qemu_img.holding(*operation.descriptors) if operation else self.qemu_img

    def images_of(self, disk: DomainDisk) -> tuple[_image.Image, ...]:
        """The images of a disk as they are now, top first."""
        return _image.chain(self.qemu_img, _image.inspect(self.qemu_img, t.cast(str, disk.path), disk.format))
