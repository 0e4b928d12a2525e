# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The size of a domain's disk as a task wants it: the walk of vm_disk_resize from its parameters to its result."""

from __future__ import annotations

import os
import typing as t
from dataclasses import replace

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._capacity import space as _space
from ansible_collections.kvmops.disk.plugins.module_utils._domain import disk_chain as _disk_chain
from ansible_collections.kvmops.disk.plugins.module_utils._domain import domain as _domain
from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainDisk, DomainState
from ansible_collections.kvmops.disk.plugins.module_utils._errors import (
    DiskError,
    NotEnoughSpace,
)
from ansible_collections.kvmops.disk.plugins.module_utils._files import lock as _lock
from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation
from ansible_collections.kvmops.disk.plugins.module_utils._image import image as _image
from ansible_collections.kvmops.disk.plugins.module_utils._image.trust import Trust
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.connection import Hypervisor
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan
from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg
from ansible_collections.kvmops.disk.plugins.module_utils._recovery import records as _records
from ansible_collections.kvmops.disk.plugins.module_utils._recovery import settle as _settle
from ansible_collections.kvmops.disk.plugins.module_utils._task.carry_out import carry_out
from ansible_collections.kvmops.disk.plugins.module_utils._task.hypervisor import refresh_pools
from ansible_collections.kvmops.disk.plugins.module_utils._usage import dependents as _dependents
from ansible_collections.kvmops.disk.plugins.module_utils._usage import users as _users
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_resize import decision as _decision
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_resize.decision import Resizing
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_resize.wish import ResizeWish, wish_from
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_resize.work import Work

#: What a dead run of these verbs leaves does not get worse when the image grows under its guest: a leak at most. What a
#: flattening or a conversion has left to finish is in the domain's metadata, too, which is looked at before.
_HARMLESS = frozenset(["resize", "convert", "flatten"])


class ResizeTask:
    """The task at hand: looks at the world, decides by the pure functions, and says what became of it."""

    def __init__(self, module: AnsibleModule, wish: ResizeWish) -> None:
        self.module = module
        self.params = module.params
        self.wish = wish
        self.qemu_img = QemuImg.find().limiting(not wish.trusted)
        self.hypervisor = Hypervisor.connect(module.params["uri"])
        self.domain = self.hypervisor.domain(module.params["name"])
        self.state: DomainState
        self.disk: DomainDisk
        self.item: Resizing
        self.path = ""

    def decide(self, operation: Operation | None) -> Plan:
        """The plan, from a new look at the world."""
        self.state = state = _domain.observe(self.hypervisor, self.domain)
        wanted = self.params["disk"]
        found = state.disk(wanted)
        if found is None:
            raise state.no_such_disk(wanted)
        self.disk = found
        self.item = item = self._observed(found)
        self.path = item.path
        first = () if item.live else _settle.interrupted(item.path, item.image.format, operation, self._door(operation))
        plan = self._change(item, operation) if item.growth else Plan({}, {})
        if first and not plan:
            self._require_unused(item)
        return plan if item.live else _settle.recorded(first, plan, item.path, operation)

    def paths(self) -> list[str]:
        """The image whose record is to be held."""
        return [self.path] if self.path else []

    def directories(self) -> list[str]:
        """Where the image grows."""
        return [os.path.dirname(os.path.realpath(path)) for path in self.paths()]

    def result(self, plan: Plan) -> dict[str, t.Any]:
        """What the module returns, read from the world again after a change."""
        item = self.item
        if plan and not self.module.check_mode:
            refresh_pools(self.hypervisor, {os.path.dirname(item.path), os.path.dirname(os.path.realpath(item.path))})
            item = replace(item, image=self._image(item.disk))
        chain = _image.chain(self.qemu_img, item.image)
        if self.module.check_mode:
            chain = (replace(chain[0], virtual_size=item.after), *chain[1:])
        return {
            **plan.report(),
            "diff": {"before": plan.before, "after": plan.after},
            "disks": [
                {
                    "domain": self.state.name,
                    "target": item.target,
                    "path": item.path,
                    "format": item.image.format,
                    "virtual_size": chain[0].virtual_size,
                    "actual_size": chain[0].actual_size,
                    "previous_size": item.before if item.growth else None,
                    "mode": item.mode if item.growth else None,
                    "backing_chain": [image.facts() for image in chain],
                }
            ],
        }

    def _observed(self, disk: DomainDisk) -> Resizing:
        """The disk with its size now, and the one that it is to have."""
        _decision.require_image_file(self.state, disk)
        what = f"{self.state.name}: {disk.target}"
        path = t.cast(str, disk.path)
        if os.path.exists(path) and not os.path.isfile(path):
            raise _decision.refused_device(what, path)
        _decision.require_valid_policy(self.wish, disk.format)
        live = self.state.active
        image = self._image(disk)
        before = self.domain.capacity(disk.target) if live else image.virtual_size
        return Resizing(disk, image, before, self.wish.target(what, before), live)

    def _change(self, item: Resizing, operation: Operation | None) -> Plan:
        """The plan for a disk that has not the size that it is to have. Raises DiskError where it must not get it."""
        record = self.state.record
        if record is not None and item.target in [disk.target for disk in record.disks]:
            _records.require_own(self.state.name, record, "resize", _lock.notes(operation))
        this = replace(self.state, disks=(self.disk,))
        jobs = _domain.block_jobs(self.domain, this) if item.live else []
        _decision.require_resizable(self.state, item, self.wish, jobs)
        if item.live:
            self._require_settled(item, operation)
        else:
            self._require_known_chain(item)
        users = self._require_unused(item)
        policy = None if item.live else _decision.policy(self.wish, item, os.path.getsize(item.path))
        self._require_room(item, policy, users)
        if item.live and operation is None and _decision.policy(self.wish, item, os.path.getsize(item.path)):
            self.module.warn(
                f"{item.path}: its space is reserved, but what is added while its guest runs is not: if the file "
                "system is full later, the guest gets an I/O error or is paused"
            )
        work = Work(self.domain, self._door(operation), operation, item, policy)
        return _decision.plan_resize(self.state, item, policy, work)

    def _require_settled(self, item: Resizing, operation: Operation | None) -> None:
        """Raises DiskError where a dead run left something that has to be verified, which a guest's QEMU forbids."""
        left = operation.left_behind(item.path) if operation else _lock.look(item.path)
        if left and not left.get("alive") and left.get("verb") not in _HARMLESS:
            raise DiskError(
                f"{item.path}: a run ({left.get('verb')}) was interrupted on it, and it cannot be checked while "
                f"{self.state.name} is {self.state.state}: shut the domain down, then run again",
                operation=left,
            )

    def _require_known_chain(self, item: Resizing) -> None:
        """qemu-img opens the chain to resize its top: all of it has to be known, and to fit."""
        images: tuple[_image.Image, ...] = (item.image,)
        if item.image.backing_file is not None:
            images = _disk_chain.followed(self.qemu_img, self.state, item.disk, item.image, trusted=self.wish.trusted)
            _decision.require_no_cut(item, images[1])
        Trust(self.wish.trusted).require_believable(item.image)
        _disk_chain.require_same_chain(self.state, item.disk, images)

    def _require_unused(self, item: Resizing) -> list[_users.User]:
        """All users of images. Raises ImageInUse or HasDependents where others have to do with this one."""
        users = _users.domain_users(self.hypervisor)
        others = [user for user in users if (user.uuid, user.target) != (self.state.uuid, item.target)]
        _users.require_unused(item.path, others, "resize it", locks=not item.live)
        if not self.params["allow_dependents"]:
            found = _dependents.of(item.path, self._directories(item), users)
            otherwise = "set allow_dependents=true to give them up"
            _dependents.require_none(item.path, found, "resize it", otherwise)
        return users

    def _require_room(self, item: Resizing, policy: str | None, users: t.Sequence[_users.User]) -> None:
        """Raises NotEnoughSpace where the file system cannot take the growth, or promises too much with it."""
        metadata = 0
        if policy and item.image.format == "qcow2":
            options = {"cluster_size": str(item.image.cluster_size), "extended_l2": _on(item.image.extended_l2)}
            metadata = self.qemu_img.measure_empty(item.after, "qcow2", options).required
        added = _decision.bytes_added(item, policy, metadata)
        try:
            _space.require_space([(os.path.realpath(item.path), added)])
        except NotEnoughSpace as error:
            if self.wish.preallocation is not None:
                raise
            raise NotEnoughSpace(
                f"{error}. The image is fully allocated, so what is added would be as well, unless preallocation=off",
                **error.facts,
            ) from error
        ratio = self.params["max_overcommit"]
        if ratio is not None and item.growth > 0:
            grown = _space.NewImage(item.path, max(item.after, item.image.actual_size))
            _space.require_ratio_for([grown], ratio, self._directories(item), users, self.qemu_img)

    def _directories(self, item: Resizing) -> list[str]:
        return _dependents.directories_to_search([item.path], self.params["search_paths"], self.hypervisor)

    def _image(self, disk: DomainDisk) -> _image.Image:
        """The facts of a disk's image. An encrypted raw disk is shorter than its file, by the header with its keys."""
        path, is_luks = t.cast(str, disk.path), disk.element.encrypted and disk.format == "raw"
        image = _image.inspect(self.qemu_img, path, "luks" if is_luks else disk.format, by_header=True)
        return replace(image, format=disk.format, encrypted=image.encrypted or disk.element.encrypted)

    def _door(self, operation: Operation | None) -> QemuImg:
        return self.qemu_img.holding(*operation.descriptors) if operation else self.qemu_img


def _on(value: bool | None) -> str:
    return "on" if value else "off"


def run(module: AnsibleModule) -> dict[str, t.Any]:
    """One run of the module."""
    task = ResizeTask(module, wish_from(module.params))
    plan = carry_out(task.decide, "resize", task.paths, module, counted=task.directories)
    return task.result(plan)
