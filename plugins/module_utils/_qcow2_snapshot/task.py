# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The internal snapshots of one image: the walk of the module qcow2_snapshot from its parameters to its result."""

from __future__ import annotations

import os
import typing as t
from dataclasses import replace

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._capacity import space as _space
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, ImageInUse
from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation
from ansible_collections.kvmops.disk.plugins.module_utils._formats import headers as _headers
from ansible_collections.kvmops.disk.plugins.module_utils._formats import qcow2 as _qcow2
from ansible_collections.kvmops.disk.plugins.module_utils._image import image as _image
from ansible_collections.kvmops.disk.plugins.module_utils._image import key_slots as _key_slots
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan, Step
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_snapshot.decision import (
    Observed,
    addition,
    bytes_needed,
    outcome,
    plan_snapshots,
    removals,
    require_changeable,
)
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_snapshot.wish import SnapshotWish, wish_from
from ansible_collections.kvmops.disk.plugins.module_utils._recovery import leftovers as _leftovers
from ansible_collections.kvmops.disk.plugins.module_utils._recovery.settle import recorded
from ansible_collections.kvmops.disk.plugins.module_utils._task.carry_out import carry_out
from ansible_collections.kvmops.disk.plugins.module_utils._task.image_task import InPlaceTask
from ansible_collections.kvmops.disk.plugins.module_utils._usage import users as _users
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disks as _disks

_VERBS = {"present": _leftovers.CREATE, "absent": _leftovers.DELETE, "reverted": _leftovers.REVERT}
_TO_DO = {"present": "take or delete a snapshot", "absent": "delete a snapshot", "reverted": "revert it"}


class SnapshotTask(InPlaceTask):
    """The task at hand: looks at the world, decides by the pure functions, and says what became of it."""

    def __init__(self, module: AnsibleModule, wish: SnapshotWish) -> None:
        super().__init__(module)
        self.qemu_img = self.qemu_img.limiting()  # whoever wrote the image
        self.openers = _key_slots.openers_from(module.params, "encryption")
        self.wish = wish
        self._observed: Observed
        self._removed: list[str] = []

    @property
    def verb(self) -> str:
        return _VERBS[self.wish.state]

    def decide(self, operation: Operation | None) -> Plan:
        """The plan for the snapshots, or for the disk that goes back to one."""
        reverting = self.wish.state == "reverted"
        if reverting and _users.is_locked(self.path, against_readers=True):
            self._require_unused(self.users())  # what is read while somebody writes it proves nothing
        observed = self._observed = self._observe()
        self.unlock(observed.image)
        first = self.settling("qcow2", operation, finishing=_leftovers.REVERT if reverting else None)
        if not reverting:
            self._removed = [entry.snapshot.name for entry in removals(self.wish, observed)]
        plan = plan_snapshots(self.wish, observed, self.door(operation))
        if first or plan:
            self.require_secret(_TO_DO[self.wish.state], observed.image)
        if plan:
            # What a dead run did not close is closed by the steps that settle it.
            self._require_possible(replace(observed, image=replace(observed.image, dirty=False)) if first else observed)
            plan = replace(plan, steps=(*self._watched(plan.steps, operation), Step("", lambda: self._verify(plan))))
        elif first:
            self._require_unused(self.users())
        return recorded(first, plan, self.path, operation, facts=self._facts_of_revert if reverting else dict)

    def result(self, plan: Plan) -> dict[str, t.Any]:
        """What the module returns; in check mode what it would."""
        image = _image.inspect(self.qemu_img, self.path, "qcow2", by_header=True)
        snapshots = image.snapshots
        if self.module.check_mode and plan:
            if self.wish.state == "reverted":
                image = replace(image, virtual_size=plan.after["virtual_size"])
            else:
                snapshots = tuple(entry.snapshot for entry in outcome(self.wish, self._observed))
                image = replace(image, snapshots=snapshots)
        return {
            **plan.full_report(),
            "snapshots": [dict(vars(snapshot)) for snapshot in snapshots],
            "removed": self._removed,
            "image": image.facts(),
        }

    def _observe(self) -> Observed:
        image = _image.inspect(self.qemu_img, self.path, "qcow2", by_header=True)
        with _headers.open_image(self.path) as stream:
            header = _qcow2.read_header(stream, self.path)
            entries = _qcow2.read_snapshot_table(stream, header, self.path)
            name = str(self.wish.name).encode() if self.wish.state == "reverted" else None
            wished = [entry for entry in entries if entry.name == name]
            at_snapshot = bool(wished) and _qcow2.is_at_snapshot(stream, header, wished[0], self.path)
        return Observed(image, entries, max([header.l1_entries, *(entry.l1_entries for entry in wished)]), at_snapshot)

    def _require_possible(self, observed: Observed) -> None:
        """Raises where the image cannot be written, or where writing it would hurt somebody."""
        require_changeable(observed.image)
        users = self.users()
        self._require_unused(users)
        if self.wish.state == "reverted":
            self.require_no_saved_state(self.path, users)
        else:
            self._require_not_libvirts(users)
        self.require_no_dependents(_TO_DO[self.wish.state], users)
        writes_tables = self.wish.state == "reverted" or addition(self.wish, observed) is not None
        if writes_tables and os.path.isfile(self.path):
            _space.require_space([(os.path.realpath(self.path), bytes_needed(observed))])

    def _require_unused(self, users: t.Iterable[_users.User]) -> None:
        _users.require_unused(self.path, [user for user in users if user.running], _TO_DO[self.wish.state])

    def _require_not_libvirts(self, users: t.Iterable[_users.User]) -> None:
        """libvirt keeps records of the snapshots that it made inside of images, and fails on those that are gone."""
        for user in {user.uuid: user for user in _users.users_of(self.path, users)}.values() if self._removed else ():
            definitions = self.hypervisor().domain(user.uuid).snapshot_definitions()
            recorded_there = {_disks.internal_snapshot(xml) for xml in definitions}
            for name in self._removed:
                if name in recorded_there:
                    raise ImageInUse(
                        f"{self.path}: its snapshot {name!r} is one of domain {user.domain}, in libvirt's records: "
                        "delete it there (virsh snapshot-delete)",
                        path=self.path,
                        in_use_by=[dict(vars(user))],
                    )

    def _facts_of_revert(self) -> dict[str, t.Any]:
        """By these the next run knows whether the disk is what it was, what it is to be, or neither."""
        found = [entry.snapshot for entry in self._observed.entries if entry.name == str(self.wish.name).encode()]
        return {
            "layer": _leftovers.active_layer(self.path),
            "snapshot": self.wish.name,
            "snapshot_id": found[0].id if found else None,
        }

    def _watched(self, steps: t.Iterable[Step], operation: Operation | None) -> tuple[Step, ...]:
        return tuple(replace(step, do=self.kept(operation, step.do)) for step in steps)

    def _verify(self, plan: Plan) -> None:
        """Raises DiskError where the image does not have what qemu-img said that it made."""
        observed = self._observe()
        names = [entry.snapshot.name for entry in observed.entries]
        reverted = self.wish.state == "reverted"
        is_right = observed.at_snapshot if reverted else names == plan.after["snapshots"]
        if not is_right:
            raise DiskError(
                f"{self.path}: qemu-img reported success, but the image is not as it should be: check it",
                path=self.path,
                snapshots=names,
            )


def run(module: AnsibleModule) -> dict[str, t.Any]:
    """One run of the module."""
    task = SnapshotTask(module, wish_from(module.params))
    plan = carry_out(task.decide, task.verb, lambda: [task.path], module)
    return task.result(plan)
