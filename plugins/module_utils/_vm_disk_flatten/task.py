# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The disks of a domain independent of their backing files: the walk of vm_disk_flatten from its parameters to its
result."""

from __future__ import annotations

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._domain import block_job as _block_job
from ansible_collections.kvmops.disk.plugins.module_utils._domain import disk_chain as _disk_chain
from ansible_collections.kvmops.disk.plugins.module_utils._domain import domain as _domain
from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainDisk
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError
from ansible_collections.kvmops.disk.plugins.module_utils._files import lock as _lock
from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation
from ansible_collections.kvmops.disk.plugins.module_utils._image import image as _image
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan, Step
from ansible_collections.kvmops.disk.plugins.module_utils._recovery import settle as _settle
from ansible_collections.kvmops.disk.plugins.module_utils._recovery.leftovers import look_for
from ansible_collections.kvmops.disk.plugins.module_utils._task.carry_out import carry_out
from ansible_collections.kvmops.disk.plugins.module_utils._task.domain_task import DomainTask
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten import decision as _decision
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten import leftovers as _leftovers
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten import work_live as _work_live
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten import work_offline as _work_offline
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten.decision import Flattening
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten.leftovers import Left
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten.survey import FlattenSurvey
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten.wish import FlattenWish, wish_from
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disks as _disks
from ansible_collections.kvmops.disk.plugins.module_utils._xml import records as _records


class FlattenTask(DomainTask):
    """The disks of a domain independent, as *wish* wants them."""

    verb = "flatten"

    def __init__(self, module: AnsibleModule, wish: FlattenWish) -> None:
        super().__init__(module)
        self.wish = wish
        self.survey: FlattenSurvey
        self.meant: list[Flattening] = []
        self.items: list[Flattening] = []
        self.left = Left()
        self.lost: tuple[_records.RecordedDisk, ...] = ()

    def paths(self) -> set[str]:
        return self.left.paths | {item.path for item in self.items}

    def result(self, plan: Plan) -> dict[str, t.Any]:
        """What the module returns, read from the world again after a change."""
        changed = bool(plan) and not self.check_mode
        now = {disk.target: disk for disk in self.state_after(plan).disks}
        return {
            **plan.report(),
            "diff": [{"before": plan.before, "after": plan.after}, *plan.diff],
            "disks": [self._facts(item, now.get(item.target, item.disk), changed) for item in self.meant],
        }

    def _plan(self, operation: Operation | None) -> Plan:
        self.meant, self.items = [], []
        self.survey = FlattenSurvey(self.hypervisor, self.qemu_img, self.state, self.wish)
        self.left = self._find_left(operation)
        self.lost = _leftovers.lost(self.left, self.qemu_img)
        return self._repair(operation) if self.lost else self._flattening(operation)

    def _given_up(self, operation: Operation | None) -> tuple[Step, ...]:
        if self.lost or not self.left:
            return ()
        self.items = []
        return self._settlement(operation)

    def _flattening(self, operation: Operation | None) -> Plan:
        self.meant = [self.survey.observed(disk) for disk in _decision.select(self.state, self.wish)]
        items = [item for item in self.meant if not _decision.is_granted(item)]
        self.left = self._find_left(operation)
        stale = [item for item in self.meant if item not in items and self._is_misnamed(item)]
        if not items:
            return self._settling_plan(operation, stale)
        self.mode = _decision.way(self.state, self.wish)
        adopted = _leftovers.adoptable(self.left, items) if self.mode == "live" else frozenset()
        jobs = _domain.block_jobs(self.domain, self.state) if self.state.active else []
        ours = {disk.target for disk in self.left.pulled}
        _decision.require_flattenable(self.state, items, [target for target in jobs if target not in ours])
        self.items = items
        self.survey.require_unused(items)
        if self.mode == "offline":
            self.survey.require_no_bitmaps(items)
        self.survey.require_space([item for item in items if item.target not in adopted])
        self.left = _leftovers.without(self.left, adopted)
        return Plan(
            before={item.target: {"backing_chain": _paths(item.images)} for item in items},
            after={item.target: {"backing_chain": _paths(_decision.predicted(item))} for item in items},
            steps=(
                *self._settled_images(operation),
                *self._clean_up(),
                *self._naming(stale),
                *self._steps(operation, adopted),
            ),
            diff=self._definition_diff([*stale, *items]),
        )

    def _settling_plan(self, operation: Operation | None, stale: list[Flattening]) -> Plan:
        """The plan where every image is as wanted: the definition may not be, and a dead run may have left things."""
        settlement = self._settlement(operation) if self.left else ()
        return Plan({}, {}, (*self._naming(stale), *settlement), self._definition_diff(stale) if stale else ())

    def _steps(self, operation: Operation | None, adopted: t.Collection[str]) -> tuple[Step, ...]:
        hands = self.hands(operation)
        if self.mode == "live":
            live = _work_live.LiveWork(**hands, wish=self.wish, owners=self.left.owners, adopted=adopted)
            return _work_live.steps(self.state, self.items, live)
        return _work_offline.steps(self.state, self.items, _work_offline.OfflineWork(**hands, wish=self.wish))

    def _is_misnamed(self, item: Flattening) -> bool:
        """Whether the definition names backing files that the image has no more, since a run died that flattened it.

        Raises UnsafeImage where it is not known whose doing that is: the guest sees what the definition says.
        """
        defined = item.disk.defined
        found = _work_live.shortened(self.state.definition, [item]) if defined and defined.chain else None
        if found is None or found == self.state.definition:
            return False
        if item.target not in self.left.targets:
            _disk_chain.require_same_chain(self.state, item.disk, item.images)
        return True

    def _naming(self, stale: t.Sequence[Flattening]) -> tuple[Step, ...]:
        if not stale:
            return ()
        targets = ", ".join(item.target for item in stale)
        return (
            Step(
                f"define {self.state.name} with the backing files that {targets} has now",
                lambda: _work_live.name_chain(self.hypervisor, self.domain, stale),
            ),
        )

    def _definition_diff(self, items: t.Sequence[Flattening]) -> tuple[dict[str, t.Any], ...]:
        before = self.state.definition
        return ({"prepared": _disks.definition_diff(before, _work_live.shortened(before, items))},)

    def _repair(self, operation: Operation | None) -> Plan:
        """The plan that gives images back what their QEMU took along when it was killed; then all begins anew."""
        if self.state.active:
            images = ", ".join(disk.source for disk in self.lost)
            raise DiskError(
                f"{self.state.name}: {images} lost a part of what was pulled into it, as its QEMU was killed then; "
                "a guest runs on it again, and reads zeros there: destroy the domain and run again, which brings back "
                "what was below",
                state=self.state.state,
            )
        again = _leftovers.give_reference_back(self.lost, self.holding(operation))
        named = _leftovers.with_old_chains(self.state.definition, self.lost, self.qemu_img)
        define = Step("", lambda: self._define(named))
        return Plan({}, {}, (*again, define, *self._settlement(operation)))

    def _define(self, wanted: str) -> None:
        if wanted != self.state.definition:
            self.hypervisor.define(wanted)

    def _settlement(self, operation: Operation | None) -> tuple[Step, ...]:
        """The steps that end what a dead run left, where there is nothing else to do."""
        records = self.hands(operation)["records"]
        images = {disk.path for disk in self.state.disks if disk.path}
        return (
            *self._clean_up(),
            Step(f"forget the interrupted flattening of {self.state.name}", lambda: records.forget(images)),
        )

    def _clean_up(self) -> tuple[Step, ...]:
        return _leftovers.settle(
            self.left,
            lambda target: _work_live.end_pull(self.domain, target),
            lambda target: _block_job.write_out(self.domain, target),
        )

    def _settled_images(self, operation: Operation | None) -> tuple[Step, ...]:
        """Where another verb died on an image, that image is checked first, which a running guest does not allow."""
        note_of = _lock.notes(operation)
        found: list[Step] = []
        for item in self.items:
            note = note_of(item.path)
            empty = operation is None and note and note.get("verb") == "unknown"  # or cut off: seen once it is held
            if not note or empty or note.get("alive") or note.get("verb") == "flatten":
                continue
            if self.mode == "live" and note.get("verb") in _settle.IN_PLACE:
                raise DiskError(
                    f"{item.path}: a run ({note.get('verb')}) was interrupted on it, and it cannot be checked while "
                    f"{self.state.name} is {self.state.state}: shut the domain down, then run again",
                    operation=note,
                )
            found += _settle.settle(look_for(item.path, item.image.format, note), self.qemu_img)
        return tuple(found)

    def _find_left(self, operation: Operation | None) -> Left:
        run, images = self.domain.run_number(), [item.path for item in self.meant]
        return _leftovers.find(self.state, run, images, _lock.notes(operation), self.domain.is_pulled)

    def _facts(self, item: Flattening, disk: DomainDisk, changed: bool) -> dict[str, t.Any]:
        """One disk as the module returns it; in check mode as it would be."""
        mine = item in self.items
        images = self.images_of(disk) if changed else _decision.predicted(item) if mine else item.images
        return {
            "domain": self.state.name,
            "target": item.target,
            "path": images[0].path,
            "format": images[0].format,
            "virtual_size": images[0].virtual_size,
            "actual_size": images[0].actual_size,
            "backing_chain": [image.facts() for image in images],
            "previous_backing_chain": [image.facts() for image in item.images] if mine else None,
            "previous_actual_size": item.image.actual_size if mine else None,
            "mode": self.mode if mine else None,
            "verified": mine and self.mode == "offline" and self.wish.verify and not self.check_mode,
        }


def _paths(images: t.Iterable[_image.Image]) -> list[str]:
    return [image.path for image in images]


def run(module: AnsibleModule) -> dict[str, t.Any]:
    """One run of the module."""
    task = FlattenTask(module, wish_from(module.params))
    plan = carry_out(task.decide, "flatten", task.paths, module)
    if task.lost and not module.check_mode:
        after = carry_out(task.decide, "flatten", task.paths, module)
        plan = Plan(after.before, after.after, (*plan.steps, *after.steps), after.diff)
    return task.result(plan)
