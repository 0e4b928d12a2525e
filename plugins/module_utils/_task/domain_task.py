# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A task on the disks of one domain: what it works with, and what it settles where the wish is refused."""

from __future__ import annotations

import functools
import os
import typing as t
from abc import abstractmethod

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._domain import domain as _domain
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, NoAnswer, OperationInFlight
from ansible_collections.kvmops.disk.plugins.module_utils._image import image as _image
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.connection import Hypervisor
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan, Step, refusal
from ansible_collections.kvmops.disk.plugins.module_utils._progress import Progress
from ansible_collections.kvmops.disk.plugins.module_utils._qemu import door as _door
from ansible_collections.kvmops.disk.plugins.module_utils._task.places import guard_paths
from ansible_collections.kvmops.disk.plugins.module_utils._task.task import Task

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainDisk, DomainState
    from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation
    from ansible_collections.kvmops.disk.plugins.module_utils._task.libvirts import Libvirts


class DomainTask(Task):
    """A task on disks of the domain that the parameters name. Raises LibvirtFailed where there is none."""

    def __init__(self, module: AnsibleModule) -> None:
        qemu_img = _door.find(limited=not module.params["trusted"])
        self.hypervisor = Hypervisor.connect(module.params["uri"])
        super().__init__(module, qemu_img, functools.lru_cache(None)(self._find_libvirts))
        self.domain = self.hypervisor.domain(module.params["name"])
        self.progress = Progress.wanted()
        self.state: DomainState
        self.mode: str | None = None
        self._places: list[str] = []

    def _find_libvirts(self) -> Libvirts:
        from ansible_collections.kvmops.disk.plugins.module_utils._task.libvirts import beside

        return beside(self.hypervisor)

    def decide(self, operation: Operation | None) -> Plan:
        """The plan, from a new look at the world. Where the wish is refused, but a dead run left something, it settles
        that and then refuses."""
        self.state = _domain.observe(self.hypervisor, self.domain)
        try:
            plan = super().decide(operation)
        except (NoAnswer, OperationInFlight):
            raise
        except DiskError as error:
            settlement = () if self.check_mode else self._given_up(operation)
            if not settlement:
                raise
            plan = Plan({}, {}, (*settlement, refusal(error)))
        if plan:
            guard_paths(self.paths(), self.module)
        self._places = [name for path in self.paths() for name in (path, os.path.realpath(path))]
        return plan

    @abstractmethod
    def _given_up(self, operation: Operation | None) -> tuple[Step, ...]:
        """The steps that only settle what a dead run left; none where there is nothing."""

    def state_after(self, plan: Plan) -> DomainState:
        """The domain after *plan*, which was carried out; pools have seen what came and went."""
        if not plan or self.check_mode:
            return self.state
        self.surroundings.refresh_pools(self._places)
        return _domain.observe(self.hypervisor, self.domain)

    def tools(self, operation: Operation | None) -> dict[str, t.Any]:
        """What a DomainWork is made of."""
        from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation
        from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.acting import acting
        from ansible_collections.kvmops.disk.plugins.module_utils._recovery.records import Records

        domain = acting(self.domain)
        return {
            "hypervisor": self.hypervisor,
            "domain": domain,
            "qemu_img": self.holding(operation),
            "records": Records(self.hypervisor, domain, operation or Operation(self.verb), self.state.record),
            "progress": self.progress,
            "warn": self.warn,
        }

    def images_of(self, disk: DomainDisk) -> tuple[_image.Image, ...]:
        """The images of a disk as they are now, top first."""
        return _image.chain(self.qemu_img, _image.inspect(self.qemu_img, t.cast(str, disk.path), disk.format))

    def images_now(self, disk: DomainDisk) -> tuple[_image.Image, ...]:
        """The same; none for a disk without a file."""
        return self.images_of(disk) if disk.path is not None else ()
