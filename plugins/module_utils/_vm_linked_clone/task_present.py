# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The walk of vm_linked_clone with state=present. What a run has no use for it does not load: most make nothing.

Each clone is decided, made and undone by itself; the world around them is looked at once for all.
"""

from __future__ import annotations

import typing as t
import uuid
from functools import cached_property

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass, replace
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError
from ansible_collections.kvmops.disk.plugins.module_utils._files import rest as _rest
from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.connection import Hypervisor
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan, Step
from ansible_collections.kvmops.disk.plugins.module_utils._progress import Progress
from ansible_collections.kvmops.disk.plugins.module_utils._qemu import door as _door
from ansible_collections.kvmops.disk.plugins.module_utils._task import pools as _pools
from ansible_collections.kvmops.disk.plugins.module_utils._task.batch import Several
from ansible_collections.kvmops.disk.plugins.module_utils._task.items import Item, report
from ansible_collections.kvmops.disk.plugins.module_utils._usage import noted_bases as _noted_bases
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import (
    decision_existing as _decision_existing,
)
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import decision_keep as _decision_keep
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import decision_seed as _decision_seed
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import leftovers as _leftovers
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import result as _result
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import survey_present as _survey_present
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.leftovers import MAKE
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.wish import (
    LINKED,
    CloneSpec,
    CloneWish,
    wish_from,
)
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disk_changes as _disk_changes

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_blueprint import Blueprint
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_existing import Existing
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_keep import Lack
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_source import SourceDisk
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.survey_present import Survey
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.survey_room import Room
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.work_make import Overlays

#: Copies take long: those that wait for their turn are not held meanwhile.
_COPIES_AT_ONCE = 4


@dataclass
class CloneItem(Item):
    """A clone of the list, as it is *asked* for: the *plan* by which it is to be made, or the domain that was *found*,
    and what that lacks."""

    asked: CloneSpec | None = None
    plan: Blueprint | None = None
    found: Existing | None = None
    lack: Lack | None = None

    @property
    def spec(self) -> CloneSpec:
        return t.cast(CloneSpec, self.asked)

    def overlay(self, disk: SourceDisk) -> str | None:
        """The image of the clone that reads, or is to read, that of the source's *disk*."""
        if self.found is not None:
            own = self.found.disk(disk.target)
            return own.over if own is not None else None
        return next((image.path for image in self.plan.images if image.disk is disk), None) if self.plan else None


class CloneTask:
    """The task at hand: decides on each clone, makes those that are missing, and says what became of them."""

    def __init__(self, module: AnsibleModule, wish: CloneWish, survey: Survey) -> None:
        self.module = module
        self.wish = wish
        self.survey = survey
        self.source = survey.source
        self.is_linked = survey.mode == LINKED
        self.progress = Progress.wanted()
        self.several = Several(module, MAKE, 100 if self.is_linked else _COPIES_AT_ONCE, [survey.directory])

    def present(self) -> dict[str, t.Any]:
        """Makes the clones that are missing; in check mode says so."""
        items = [self._item(spec) for spec in self.wish.clones]
        self._validate_first(items)
        unprotected = _noted_bases.unprotected(item.bases for item in items) if self.wish.protect_base else []
        if not self.module.check_mode and (unprotected or any(item.open for item in items)):
            self._carry_out(items)
            _pools.refresh([self.survey.hypervisor], self.survey.places, self.module.warn)
        self._warn(items)
        return report(items, "clones", {"diff": self._diff(items)}, first=[f"protect {path}" for path in unprotected])

    def _item(self, spec: CloneSpec) -> CloneItem:
        """What is to be done for one clone; why it cannot be is noted in it."""
        item = CloneItem(spec.name, {"name": spec.name}, asked=spec)
        found = self.survey.known.get(spec.name)
        left = [one.path for one in self.survey.left.get(spec.name, ())]
        try:
            if found is not None:
                self._keep(item, self.survey.existing(spec, found), left)
            else:
                self._design(item, left)
                appeared = self.survey.appeared(spec, item.paths, left)
                if appeared is not None:
                    item.plan = None
                    self._keep(item, appeared, left)
        except DiskError as error:
            item.error = error
        item.bases = self._bases(item)
        return item

    def _keep(self, item: CloneItem, found: Existing, left: t.Sequence[str]) -> None:
        """A clone that is there is left alone, but for what it lacks."""
        spec = item.spec
        _decision_existing.require_right(spec, self.wish, self.source, found)
        item.found = found
        item.lack = _decision_keep.lack(spec, self.wish, found, left)
        if item.lack.defines:
            _decision_seed.require_file(spec.name, found.seed, later=self.module.check_mode)
        item.facts = _result.facts_of(found, self.source, spec.seed)
        own = [disk["path"] for disk in item.facts["disks"]]
        item.paths = tuple({*own, *item.lack.left}) if item.lack else ()
        item.actions = tuple(step.summary for step in self._finishing(item, Operation(MAKE)))

    def _design(self, item: CloneItem, left: t.Sequence[str]) -> None:
        """How the clone is to be made. Raises DiskError where it cannot be."""
        from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import (
            decision_blueprint as _decision_blueprint,
        )

        spec, survey, seed = item.spec, self.survey, self.survey.seed(item.spec)
        _decision_seed.require_file(spec.name, seed, later=self.module.check_mode)
        setting = survey.setting
        own = _decision_blueprint.outline(spec, self.source, setting)
        survey.taken.require_free(spec, own.macs, survey.real_names(own.paths))
        self.room.take(own.images)
        numbers = _decision_blueprint.Numbers(spec.uuid or str(uuid.uuid4()), str(uuid.uuid4()))
        plan = _decision_blueprint.blueprint(spec, self.wish, self.source, setting, own, numbers, seed)
        debris = tuple(one.path for one in survey.left.get(spec.name, ()) if one.there)
        item.plan = replace(plan, left=tuple(left), debris=debris)
        item.paths = tuple(item.plan.paths)
        item.facts = _result.facts_of_new(item.plan, self._chosen_later(item.plan))
        item.actions = tuple(step.summary for step in self._making(item, Operation(MAKE)) if step.summary)

    def _bases(self, item: CloneItem) -> dict[str, list[str]]:
        """The overlays of *item* by the images of the source.

        A block device has no mode that would keep anybody off, and there is no place beside it for a note.
        """
        disks = [disk for disk in self.source.disks if self.is_linked and not disk.block[0]]
        found = {disk.path: item.overlay(disk) for disk in disks}
        return {path: [overlay] for path, overlay in found.items() if overlay is not None}

    def _validate_first(self, items: t.Sequence[CloneItem]) -> None:
        """One definition is checked by libvirt's schema: the others have the same shape, and a check costs its time."""
        for item in items:
            if item.plan is not None:
                item.plan = replace(item.plan, validate=True)
                return

    def _carry_out(self, items: t.Sequence[CloneItem]) -> None:
        owners = _rest.owners(image.path for disk in self.source.disks for image in disk.images)
        if self.wish.protect_base:
            self._protect([item for item in items if item.found])
        try:
            self.several.carry_out(items, self._decided, self._prepare)
        finally:
            _rest.give_back(owners)

    def _prepare(self, items: list[CloneItem]) -> None:
        """Counts once more what the new images may come to need, since nobody else makes any now, and notes them."""
        room = self.survey.room() if self.wish.max_overcommit is not None else None
        for item, plan in [(item, item.plan) for item in items if item.plan is not None]:
            try:
                if room is not None:
                    room.take(plan.images)
            except DiskError as error:
                item.error = error
        self._protect([item for item in items if item.error is None])

    def _protect(self, items: t.Iterable[CloneItem]) -> None:
        """Notes what reads, or is to read, the images of the source, and keeps everybody from writing these."""
        _noted_bases.protect((item.bases for item in items), read_only=self.wish.protect_base, warn=self.module.warn)

    def _decided(self, item: CloneItem, operation: Operation) -> Plan:
        """What is to be done for the clone, whose files are held: another run may have made it meanwhile."""
        found = self.survey.existing_now(item.spec)
        if found is not None:
            left = [one.path for one in _leftovers.still_left(operation) if one.path in item.paths]
            self._keep(item, found, left)
            return Plan({}, {}, self._finishing(item, operation))
        if item.plan is None:
            raise DiskError(f"{item.name}: was undefined in the meantime: run again")
        return Plan({}, {}, self._making(item, operation))

    def _making(self, item: CloneItem, operation: Operation) -> tuple[Step, ...]:
        """How a clone is made."""
        from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import (
            decision_make as _decision_make,
        )
        from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import work_make as _work_make

        plan = t.cast("Blueprint", item.plan)
        work = _work_make.Work(
            self.survey.hypervisor,
            self.survey.qemu_img,
            operation,
            self.overlays,
            self.wish,
            plan,
            self.several.stopped,
            self.progress,
        )
        return _decision_make.steps(self.source.state.name, plan, work, start=self.wish.start)

    def _finishing(self, item: CloneItem, operation: Operation) -> tuple[Step, ...]:
        """How a clone that is there gets what it lacks."""
        if not item.lack:
            return ()
        from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import work_keep as _work_keep

        work = _work_keep.Work(self.survey.hypervisor, operation, item.lack)
        return _decision_keep.steps(item.lack, item.spec.seed, work)

    @cached_property
    def room(self) -> Room:
        """What the file system of the new images has for those that come next."""
        return self.survey.room()

    @cached_property
    def overlays(self) -> Overlays:
        from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.work_make import Overlays

        return Overlays(self.survey.qemu_img, self.wish)

    def _chosen_later(self, plan: Blueprint) -> set[str]:
        """What the plan says in check mode though it is random, so that the run will have something else."""
        return plan.random if self.module.check_mode else set()

    def _warn(self, items: t.Sequence[CloneItem]) -> None:
        """Tells of what is done as asked, and may still hurt."""
        plans = [item.plan for item in items if item.plan and item.error is None]
        missing = self.survey.missing(item.spec.seed for item in items if item.open) if self.module.check_mode else []
        for warning in _result.warnings(self.wish, plans, missing):
            self.module.warn(warning)
        if plans:
            from ansible_collections.kvmops.disk.plugins.module_utils._image.doubts import warn_of_compressed

            for disk in self.source.disks:
                warn_of_compressed(disk.path, disk.format, self.module.warn)

    def _diff(self, items: t.Sequence[CloneItem]) -> list[dict[str, t.Any]]:
        """The clones before and after; in diff mode the definition of each new one against that of the source."""
        right = [item for item in items if item.error is None]
        new = [item for item in right if item.plan is not None and item.actions]
        made = {item.name for item in new}
        there = [item.name for item in right if item.name not in made]
        told: list[dict[str, t.Any]] = [
            {"before": {"clones": there}, "after": {"clones": [item.name for item in right]}}
        ]
        if not self.module._diff:
            return told
        plans = [item.plan for item in new if item.plan is not None]
        lacks = [item.lack for item in right if item.actions and item.lack and item.lack.defines]
        return [
            *told,
            *({"prepared": _result.definition_diff(self.source, one, self._chosen_later(one))} for one in plans),
            *({"prepared": _disk_changes.definition_diff(one.xml, one.wanted)} for one in lacks),
        ]


def run(module: AnsibleModule) -> dict[str, t.Any]:
    """One run of the module."""
    wish = wish_from(module.params)
    qemu_img = _door.find(limited=not wish.trusted)
    survey = _survey_present.look(Hypervisor.connect(module.params["uri"]), qemu_img, wish, module.warn)
    return CloneTask(module, wish, survey).present()
