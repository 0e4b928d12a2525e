# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Clones of a domain as a task wants them: the walk of vm_linked_clone from its parameters to its result.

Each clone is decided, made and undone by itself; the world around them is looked at once for all.
"""

from __future__ import annotations

import os
import typing as t
import uuid
from dataclasses import dataclass

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._capacity import space as _space
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, ImageInUse
from ansible_collections.kvmops.disk.plugins.module_utils._files import lock as _lock
from ansible_collections.kvmops.disk.plugins.module_utils._files import staging as _staging
from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation
from ansible_collections.kvmops.disk.plugins.module_utils._formats.references import identity
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.connection import Hypervisor
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.domain import Domain
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan, Step
from ansible_collections.kvmops.disk.plugins.module_utils._progress import Progress
from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg
from ansible_collections.kvmops.disk.plugins.module_utils._recovery import records as _records
from ansible_collections.kvmops.disk.plugins.module_utils._task import surroundings as _surroundings
from ansible_collections.kvmops.disk.plugins.module_utils._task.batch import Item, Several, report
from ansible_collections.kvmops.disk.plugins.module_utils._task.hypervisor import refresh_pools
from ansible_collections.kvmops.disk.plugins.module_utils._usage import dependents as _dependents
from ansible_collections.kvmops.disk.plugins.module_utils._usage import noted_bases as _noted_bases
from ansible_collections.kvmops.disk.plugins.module_utils._usage import users as _users
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import (
    decision_blueprint as _decision_blueprint,
)
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import (
    decision_definition as _decision_definition,
)
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import (
    decision_existing as _decision_existing,
)
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import decision_keep as _decision_keep
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import decision_names as _decision_names
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import decision_seed as _decision_seed
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import decision_source as _decision_source
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import result as _result
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import survey as _survey
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import work_keep as _work_keep
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import work_make as _work_make
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_blueprint import Blueprint, NewImage
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_existing import Neighbour
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_keep import Lack
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_source import SourceDisk
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.survey import Left
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.wish import (
    LINKED,
    CloneSpec,
    CloneWish,
    wish_from,
)
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.work_keep import Keeping
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disks as _disks
from ansible_collections.kvmops.disk.plugins.module_utils._xml.identity import Mark, MarkedDisk

#: Copies take long: those that wait for their turn are not held meanwhile.
_COPIES_AT_ONCE = 4


@dataclass
class CloneItem(Item):
    """A clone of the list: the *plan* by which it is to be made, or the domain that was *found*, and what it lacks."""

    spec: CloneSpec | None = None
    plan: Blueprint | None = None
    found: Neighbour | None = None
    lack: Lack | None = None

    def overlay(self, disk: SourceDisk) -> str | None:
        """The image of the clone that reads, or is to read, that of the source's *disk*."""
        if self.found is not None:
            return _decision_existing.overlay_over(self.found, disk)
        return next((image.path for image in self.plan.images if image.disk is disk), None) if self.plan else None


class CloneTask:
    """The task at hand: looks at the world, decides by the pure functions, and says what became of it."""

    def __init__(self, module: AnsibleModule, wish: CloneWish) -> None:
        self.module = module
        self.params = module.params
        self.wish = wish
        self.progress = Progress.wanted()
        self.qemu_img = QemuImg.find().limiting(not wish.trusted)
        self.hypervisor = Hypervisor.connect(module.params["uri"])
        self.source = _survey.look_at_source(self.hypervisor, self.qemu_img, wish)
        _records.require_own(wish.source, self.source.state.record, _decision_blueprint.MAKE, _lock.notes(None))
        self.neighbours = _survey.look_around(self.hypervisor)
        self.taken = _decision_existing.Taken(self.neighbours)
        self._require_quiet()
        self.directory = _survey.place(self.source, wish)
        _survey.require_place(self.directory, self.hypervisor.qemu_user)
        self.mode = _survey.effective_mode(self.source, wish, self.directory)
        for disk in self.source.disks:
            _decision_source.require_clonable_images(disk, self.mode)
        self.room = self._room()
        self.overlays = _work_make.Overlays(self.qemu_img, wish)
        at_once = 100 if self.mode == LINKED else _COPIES_AT_ONCE
        self.several = Several(module, _decision_blueprint.MAKE, at_once, [self.directory])

    def present(self) -> dict[str, t.Any]:
        """Makes the clones that are missing; in check mode says so."""
        names = {spec.name for spec in self.wish.clones}
        nvram = self.source.looks.nvram
        places = {self.directory, *([os.path.dirname(nvram)] if nvram else [])}
        left = _survey.left_behind(places, names)
        known = {neighbour.looks.name: neighbour for neighbour in self.neighbours}
        items = [self._item(spec, known.get(spec.name), left.get(spec.name, [])) for spec in self.wish.clones]
        self._validate_first(items)
        unprotected = _noted_bases.unprotected(item.bases for item in items) if self.wish.protect_base else []
        if not self.module.check_mode and (unprotected or any(item.open for item in items)):
            self._carry_out(items)
            refresh_pools(self.hypervisor, places)
        self._warn(items)
        return report(items, "clones", {"diff": self._diff(items)}, first=[f"protect {path}" for path in unprotected])

    def _warn(self, items: t.Sequence[CloneItem]) -> None:
        """Tells of what is done as asked, and may still hurt."""
        new = [item for item in items if item.plan and item.error is None]
        if new and self.mode == LINKED and not self.wish.protect_base:
            self.module.warn(
                f"{self.wish.source} is not protected: starting it, or changing its images, destroys its clones"
            )
        shared = new[0].plan.definition.shared if new and new[0].plan else ()
        seeds = {item.spec.seed for item in items if item.open and item.spec and item.spec.seed}
        missing = sorted(path for path in seeds if not os.path.exists(path))
        if missing and self.module.check_mode:
            self.module.warn(
                f"seed: {', '.join(missing)}: does not exist yet: make it before the task runs outside check mode"
            )
        if shared:
            self.module.warn(f"{self.wish.source} and its clones cannot run at once: they share {', '.join(shared)}")

    def _carry_out(self, items: t.Sequence[CloneItem]) -> None:
        owners = _staging.owners(image.path for disk in self.source.disks for image in disk.images)
        if self.wish.protect_base:
            self._protect([item for item in items if item.found])
        try:
            self.several.carry_out(items, self._decided, self._prepare)
        finally:
            _staging.give_back(owners)

    def _prepare(self, items: list[CloneItem]) -> None:
        """Counts once more what the new images may come to need, since nobody else makes any now, and notes them."""
        self.room = self._room()
        counted = self.params["max_overcommit"] is not None
        for item, plan in [(item, item.plan) for item in items if item.plan is not None and counted]:
            try:
                self.room.take([(image.disk, image.path, image.size) for image in plan.images])
            except DiskError as error:
                item.error = error
        self._protect([item for item in items if item.error is None])

    def _protect(self, items: t.Iterable[CloneItem]) -> None:
        """Notes what reads, or is to read, the images of the source, and keeps everybody from writing these."""
        _noted_bases.protect((item.bases for item in items), read_only=self.wish.protect_base, warn=self.module.warn)

    def _bases(self, item: CloneItem) -> dict[str, list[str]]:
        """The overlays of *item* by the images of the source.

        A block device has no mode that would keep anybody off, and there is no place beside it for a note.
        """
        disks = [disk for disk in self.source.disks if self.mode == LINKED and not disk.block[0]]
        found = {disk.path: item.overlay(disk) for disk in disks}
        return {path: [overlay] for path, overlay in found.items() if overlay is not None}

    def _item(self, spec: CloneSpec, found: Neighbour | None, left: t.Sequence[Left]) -> CloneItem:
        """What is to be done for one clone; why it cannot be is noted in it."""
        item = CloneItem(spec.name, {"name": spec.name}, spec=spec)
        try:
            if found is not None:
                self._keep(item, found, left)
            else:
                self._design(item, left)
                appeared = self._require_no_files(item, {one.path for one in left})
                if appeared is not None:
                    item.plan = None
                    self._keep(item, appeared, left)
        except DiskError as error:
            item.error = error
        item.bases = self._bases(item)
        return item

    def _keep(self, item: CloneItem, found: Neighbour, left: t.Sequence[Left]) -> None:
        """A clone that is there is left alone, but for what it lacks."""
        spec = t.cast(CloneSpec, item.spec)
        _survey.require_right(spec, self.wish, self.source, found, self.qemu_img)
        item.found = found
        item.lack = _decision_keep.lack(spec, self.wish, found, [one.path for one in left])
        if item.lack.defines:
            _decision_seed.require_file(spec.name, spec.seed, later=self.module.check_mode)
        item.facts = _result.facts_of(found, self.source, spec.seed)
        own = [disk["path"] for disk in item.facts["disks"]]
        item.paths = tuple({*own, *item.lack.left}) if item.lack else ()
        item.actions = tuple(step.summary for step in self._finishing(item, None))

    def _design(self, item: CloneItem, left: t.Sequence[Left]) -> None:
        """How the clone is to be made. Raises DiskError where it cannot be."""
        spec = t.cast(CloneSpec, item.spec)
        _decision_seed.require_file(spec.name, spec.seed, later=self.module.check_mode)
        source, count = self.source, len(self.source.disks)
        images = tuple(
            NewImage(
                disk,
                _decision_names.image_path(self.directory, spec.name, disk.target, self._format(disk.format), count),
                _decision_source.size_of(disk, spec.name, spec.sizes),
                self._format(disk.format),
            )
            for disk in source.disks
        )
        nvram = source.looks.nvram
        own_nvram = _decision_definition.own_path(nvram, source.state.name, spec.name) if nvram else None
        macs = _decision_names.macs_of(spec, len(source.looks.macs))
        paths = [*(image.path for image in images), *([own_nvram] if own_nvram else [])]
        self.taken.require_free(spec, macs, paths)
        self.room.take([(image.disk, image.path, image.size) for image in images])
        identity = self._identity(spec, images, macs, own_nvram)
        definition = _decision_definition.cloned(source.definition, identity)
        if spec.seed is not None:
            definition = _decision_seed.seeded(definition, spec.seed, self.wish.seed_bus)
        copied = (nvram, own_nvram) if nvram and own_nvram and os.path.exists(nvram) else None
        debris = tuple(one.path for one in left if one.there)
        item.plan = Blueprint(spec, identity, definition, images, copied, tuple(one.path for one in left), debris)
        item.paths = tuple(item.plan.paths)
        item.facts = _result.facts_of_new(item.plan, self._chosen_later(item.plan))
        item.actions = tuple(step.summary for step in self._making(item, None) if step.summary)

    def _require_no_files(self, item: CloneItem, ours: t.Container[str]) -> Neighbour | None:
        """Raises DiskError where a file stands at a place of the clone that no run of ours made.

        Where another run has made the clone since we looked, that; where one is about it, it is waited for later.
        """
        for path in item.paths:
            if path in ours or not os.path.lexists(path):
                continue
            domain = self.hypervisor.find(item.name)
            if domain is not None:
                return _survey.look_at(self.hypervisor, domain)
            if not (_lock.look(path) or {}).get("alive"):
                raise DiskError(
                    f"{item.name}: {path} exists already: it was left alone: remove it, or choose another name or "
                    "disk_dir",
                    path=path,
                )
        return None

    def _identity(
        self, spec: CloneSpec, images: t.Sequence[NewImage], macs: tuple[str, ...], nvram: str | None
    ) -> _decision_definition.Identity:
        unique = self.wish.unique_serials
        state, mark = self.source.state, self.source.looks.mark
        return _decision_definition.Identity(
            name=spec.name,
            uuid=spec.uuid or str(uuid.uuid4()),
            genid=str(uuid.uuid4()),
            macs=macs,
            disks=tuple(
                _decision_definition.CloneDisk(
                    image.disk.target,
                    image.path,
                    image.format,
                    image.disk.chain(self.mode),
                    _decision_names.derived_serial(spec.name, image.disk.target) if unique else None,
                    _decision_names.derived_wwn(spec.name, image.disk.target) if unique and image.disk.wwn else None,
                )
                for image in images
            ),
            mark=Mark(
                state.name,
                state.uuid,
                self.mode,
                tuple(MarkedDisk(image.disk.target, image.path, image.disk.path) for image in images),
                nvram,
                mark.seed if mark is not None else None,
            ),
            nvram=nvram,
            **{name: getattr(spec, name) for name in ("memory", "vcpus", "description", "metadata")},
        )

    def _decided(self, item: CloneItem, operation: Operation) -> Plan:
        """What is to be done for the clone, whose files are held: another run may have made it meanwhile."""
        domain = self.hypervisor.find(item.name)
        if domain is not None:
            left = [Left(path) for path in item.paths if operation.left_behind(path)]
            self._keep(item, _survey.look_at(self.hypervisor, domain), left)
            return Plan({}, {}, self._finishing(item, operation, domain))
        if item.plan is None:
            raise DiskError(f"{item.name}: was undefined in the meantime: run again")
        return Plan({}, {}, self._making(item, operation))

    def _making(self, item: CloneItem, operation: Operation | None) -> tuple[Step, ...]:
        making = _work_make.Making(
            self.hypervisor,
            self.qemu_img,
            operation or Operation(_decision_blueprint.MAKE),
            self.overlays,
            self.wish,
            t.cast(Blueprint, item.plan),
            self.several.stopped,
            self.progress,
        )
        return _work_make.steps(self.source, making)

    def _finishing(
        self, item: CloneItem, operation: Operation | None, domain: Domain | None = None
    ) -> tuple[Step, ...]:
        """What a clone that is there lacks."""
        keeping = Keeping(
            self.hypervisor,
            t.cast(Domain, domain),
            operation or Operation(_decision_blueprint.MAKE),
            t.cast(Lack, item.lack),
        )
        return _work_keep.steps(keeping, t.cast(CloneSpec, item.spec).seed)

    def _require_quiet(self) -> None:
        """Raises where an image of the source is not at rest, whoever works on it."""
        for image in (image for disk in self.source.disks for image in disk.images):
            for other in self.neighbours:
                if other.active and any(_users.is_same_file(disk.path, image.path) for disk in other.disks):
                    raise ImageInUse(
                        f"{image.path}: is a disk of the running domain {other.looks.name}: asked to clone it: shut "
                        "that down first",
                        path=image.path,
                        in_use_by=[{"domain": other.looks.name, "uuid": other.looks.uuid, "running": True}],
                    )
            _surroundings.require_unwritten(image)
            _surroundings.require_settled(self.qemu_img, image.path, image.format, _lock.look(image.path))

    def _room(self) -> _survey.Room:
        ratio = self.params["max_overcommit"]
        return _survey.Room(self.qemu_img, self.wish, self.mode, self.directory, ratio, self._promises)

    def _promises(self) -> _space.FileSystem:
        """What the images on the file system of the new ones may come to need: the base, from now on, nothing more."""
        directories = _dependents.directories_to_search([], self.params["search_paths"], self.hypervisor)
        users = _users.domain_users(self.hypervisor)
        bases = {identity(disk.path) for disk in self.source.disks} if self.mode == LINKED else set()
        return _space.file_systems([self.directory], directories, users, self.qemu_img, bases=bases)[0]

    def _format(self, source_format: str) -> str:
        return "qcow2" if self.mode == LINKED else source_format

    def _validate_first(self, items: t.Sequence[CloneItem]) -> None:
        """One definition is checked by libvirt's schema: the others have the same shape, and a check costs its time."""
        for item in items:
            if item.plan is not None:
                item.plan.validate = True
                return

    def _chosen_later(self, plan: Blueprint) -> set[str]:
        """What the plan says in check mode though it is random, so that the run will have something else."""
        if not self.module.check_mode:
            return set()
        return {plan.identity.genid, *([plan.identity.uuid] if plan.spec.uuid is None else [])}

    def _diff(self, items: t.Sequence[CloneItem]) -> list[dict[str, t.Any]]:
        """The clones before and after; in diff mode the definition of each new one against that of the source."""
        new = [item for item in items if item.plan is not None and item.error is None and item.actions]
        there = [item.name for item in items if item.error is None and item not in new]
        changed = [item.lack for item in items if item.error is None and item.actions and item.lack]
        told = {"before": {"clones": there}, "after": {"clones": [item.name for item in items if item.error is None]}}
        if not self.module._diff:
            return [told]
        return [
            told,
            *({"prepared": self._definition_diff(t.cast(Blueprint, item.plan))} for item in new),
            *({"prepared": _disks.definition_diff(one.xml, one.wanted)} for one in changed if one.defines),
        ]

    def _definition_diff(self, plan: Blueprint) -> str:
        after = plan.definition.xml
        for value in self._chosen_later(plan):
            after = after.replace(value, "random")
        return _disks.definition_diff(self.source.definition, after)


def run(module: AnsibleModule) -> dict[str, t.Any]:
    """One run of the module."""
    return CloneTask(module, wish_from(module.params)).present()
