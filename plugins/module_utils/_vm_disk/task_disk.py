# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One disk that a task is about, and what all disks of the task have in common."""

from __future__ import annotations

import functools
import typing as t
from abc import ABC, abstractmethod

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._domain import domain as _domain
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError
from ansible_collections.kvmops.disk.plugins.module_utils._image import image as _image
from ansible_collections.kvmops.disk.plugins.module_utils._task.task import holding
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk import decision_obstacles as _obstacles
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk import survey as _survey

if t.TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule
    from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainDisk, DomainState
    from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation
    from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.connection import Hypervisor
    from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.domain import Domain
    from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg
    from ansible_collections.kvmops.disk.plugins.module_utils._task.surroundings import Surroundings
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk.survey import Look
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk.wish import DiskWish
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk.work import Work


@dataclass(frozen=True)
class Claim:
    """What a disk takes of a domain that does not have it yet: a *target*, and, with *port*, one of its PCIe ports.
    *controller* is the number of the SCSI controller that comes with it."""

    target: str
    port: bool
    controller: int | None = None


class Around:
    """What the disks of a task share: the way to libvirt and to qemu-img, one look at who else has images, and what
    those that are decided on take of their domains, by the UUIDs of these."""

    def __init__(self, module: AnsibleModule, hypervisor: Hypervisor, qemu_img: QemuImg) -> None:
        self.module = module
        self.hypervisor = hypervisor
        self.qemu_img = qemu_img
        self.claims: dict[str, dict[Disk, Claim]] = {}
        self._surroundings: Surroundings | None = None
        self._warned: set[str] = set()

    @property
    def surroundings(self) -> Surroundings:
        if self._surroundings is None:
            from ansible_collections.kvmops.disk.plugins.module_utils._task.surroundings import Surroundings

            search_paths = self.module.params["search_paths"]
            self._surroundings = Surroundings.of(self.hypervisor, search_paths, warn=self.warn)
        return self._surroundings

    def look_again(self) -> None:
        """The world may have moved."""
        self._surroundings = None

    def refresh_pools(self, paths: t.Sequence[str]) -> None:
        if paths:
            self.surroundings.refresh_pools(paths)

    def claim(self, uuid: str, disk: Disk, claim: Claim) -> None:
        """Keeps *claim* for *disk*."""
        self.claims.setdefault(uuid, {})[disk] = claim

    def withdraw(self, uuid: str, disk: Disk) -> None:
        """Forgets what *disk*, which does not come, would have taken."""
        self.claims.get(uuid, {}).pop(disk, None)

    def claims_of_others(self, uuid: str, disk: Disk) -> list[Claim]:
        """What other disks take of that domain."""
        return [claim for other, claim in self.claims.get(uuid, {}).items() if other is not disk]

    def warn(self, sentence: str) -> None:
        """Warns, once, however many disks there are."""
        if sentence not in self._warned:
            self._warned.add(sentence)
            self.module.warn(sentence)


class Disk(ABC):
    """A disk as *wish* wants it. Raises LibvirtFailed where there is no such domain."""

    def __init__(self, around: Around, wish: DiskWish) -> None:
        self.around = around
        self.wish = wish
        self.paths: tuple[str, ...] = ()
        self.uuid = ""
        self.domain: Domain
        self.look: Look

    @property
    def state(self) -> DomainState:
        return self.look.state

    def decide(self, operation: Operation | None) -> Plan:
        """The plan, from a new look at the domain; the second time *operation* holds the records of *paths*."""
        self._observe()
        try:
            return self._plan(operation)
        except DiskError as error:
            if "missing_ports" not in error.facts:  # each that lacks one counts in what is missing
                self.around.withdraw(self.uuid, self)
            raise

    @abstractmethod
    def _plan(self, operation: Operation | None) -> Plan:
        """The plan that grants the wish. Raises DiskError where it must not be granted."""

    @abstractmethod
    def facts(self, plan: Plan) -> dict[str, t.Any]:
        """The disk as it is after *plan*; in check mode as it would be."""

    def _observe(self) -> None:
        self.domain = self.around.hypervisor.domain(self.wish.name)
        self.uuid = self.domain.uuid
        state = _domain.observe(self.around.hypervisor, self.domain)
        self.look = _survey.look(self.around.hypervisor, state, self.wish)

    def _require_changeable(self, found: DomainDisk | None) -> None:
        """Raises DiskError where the domain, or a block job on the disk, is in the way."""
        _obstacles.require_changeable(self.state)
        if found is not None:
            jobs = _domain.block_jobs(self.domain, self.state)
            _obstacles.require_no_job(self.state, found.target, jobs)

    def _work(self, operation: Operation | None, target: str, source: str | None) -> t.Callable[[], Work]:
        """Who does what is to be done; made where something is."""
        return functools.lru_cache(None)(lambda: self._made_work(operation, target, source))

    def _made_work(self, operation: Operation | None, target: str, source: str | None) -> Work:
        from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation
        from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.acting import acting
        from ansible_collections.kvmops.disk.plugins.module_utils._progress import Progress
        from ansible_collections.kvmops.disk.plugins.module_utils._recovery.records import Records
        from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk.work import Work

        domain = acting(self.domain)
        running = operation or Operation("reconcile")
        return Work(
            hypervisor=self.around.hypervisor,
            domain=domain,
            qemu_img=holding(self.around.qemu_img, operation),
            records=Records(self.around.hypervisor, domain, running, self.state.record),
            progress=Progress.wanted(),
            warn=self.around.warn,
            target=target,
            source=source,
            force=self.wish.force,
        )

    def _images(self, path: str | None, image_format: str, device: str) -> tuple[_image.Image, ...]:
        """The images of the disk, top first; none for an empty drive, or a medium that is no file."""
        if not path or _survey.image(self.around.qemu_img, path, image_format) is None:
            return ()
        top = _image.inspect(self.around.qemu_img, path, image_format)
        return _image.chain(self.around.qemu_img, top) if device == "disk" else (top,)
