# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The part of the walk that converts disks, or settles what a dead conversion left."""

from __future__ import annotations

import os
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._domain import domain as _domain
from ansible_collections.kvmops.disk.plugins.module_utils._domain import ready as _ready
from ansible_collections.kvmops.disk.plugins.module_utils._domain import start as _start
from ansible_collections.kvmops.disk.plugins.module_utils._files import beside as _beside
from ansible_collections.kvmops.disk.plugins.module_utils._image import image as _image
from ansible_collections.kvmops.disk.plugins.module_utils._image.doubts import warn_of_compressed, warn_of_untold_holes
from ansible_collections.kvmops.disk.plugins.module_utils._task.places import require_nobody_elses
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert import decision as _decision
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert import (
    decision_conversion as _decision_conversion,
)
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert import decision_obstacles as _obstacles
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert import leftovers as _leftovers
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert import result as _result
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert.leftovers import Unfinished
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert.survey import Survey
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert.work import Work

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainDisk
    from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation
    from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan, Step
    from ansible_collections.kvmops.disk.plugins.module_utils._task.domain_task import DomainTask
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert import work_offline as _work_offline
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert.decision import Conversion
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert.wish import ConvertWish

#: What a dead run left of the domain, and beside images; None where there is no trace of one.
FindUnfinished = t.Callable[[t.Collection[str], t.Optional["Operation"]], t.Optional[Unfinished]]


class Converting:
    """The conversion of disks for *task*, as *wish* says; *left* is what a dead run left of the domain."""

    def __init__(self, task: DomainTask, wish: ConvertWish, find: FindUnfinished, left: Unfinished | None) -> None:
        self.task = task
        self.wish = wish
        self.left = left
        self.conversions: list[Conversion] = []
        self._find = find
        self._survey = survey_of(task, wish)
        self._mode: str | None = None
        self._filled: list[Conversion] = []
        self._offline_work: _work_offline.Work | None = None

    def paths(self) -> set[str]:
        """The images whose records are to be held."""
        left = self.left.paths if self.left else set()
        return left | {path for item in self.conversions for path in (item.source, item.dest)}

    def plan(self, wanted: list[Conversion], operation: Operation | None) -> Plan:
        """The plan that converts disks. Raises DiskError where they must not be converted, or cannot be."""
        state = self.task.state
        _obstacles.require_convertible(state, wanted, self._foreign_jobs())
        self._mode = mode = _obstacles.way(state, self.wish)
        wanted = _decision.renamed(wanted, self.wish, self._is_taken)
        self.left = self._find([item.dest for item in wanted], operation)
        left = self.left if self.left is not None else Unfinished()
        self.conversions = wanted
        self.conversions = conversions = [self._survey.examined(item) for item in wanted]
        self._survey.look_at_bitmaps(conversions, mode)
        adopted = _leftovers.adoptable(left, conversions, self.wish) if mode == "live" else frozenset()
        self.left = left = _leftovers.without(left, {item.dest for item in conversions if item.target in adopted})
        self._require_possible(adopted, left)
        if mode == "offline":
            self._require_way_back(left, operation)
        self._tell_of_bitmaps(operation)
        for item in conversions if operation is None else ():
            warn_of_compressed(item.source, item.source_format, self.task.warn)
        work = Work(**self.task.tools(operation))
        steps = (
            *_leftovers.settled_images(conversions, _beside.notes(operation), self.task.qemu_img),
            *_leftovers.in_order(state, left, work),
            *(self._live(adopted, left, operation) if mode == "live" else self._offline(left, operation)),
            *_leftovers.removals(removable(self.task, self.wish, left), work),
        )
        return _decision_conversion.plan(state, self.wish, conversions, steps)

    def _is_taken(self, path: str, item: Conversion) -> bool:
        """Whether something stands at *path* that no dead run has made of the same disk."""
        record = self.left.record if self.left is not None else None
        made = {(disk.target, disk.source): disk.dest for disk in record.disks} if record is not None else {}
        return made.get((item.target, item.source)) != path and os.path.lexists(path)

    def facts(self, disk: DomainDisk) -> dict[str, t.Any]:
        """One disk as the module returns it; in check mode as it would be."""
        name = self.task.state.name
        item = next((item for item in self.conversions if item.target == disk.target), None)
        if item is None:
            return _result.facts(name, disk, self.task.images_now(disk), _result.UNCHANGED)
        source = self._survey.images[item.target]
        became = _result.converted(
            *(item, source, self._mode),
            verified=self._mode == "offline" and self.wish.verify and not self.task.check_mode,
            downtime=self._offline_work.downtime if self._offline_work else None,
        )
        images = self._images_predicted(item, source) if self.task.check_mode else self.task.images_now(disk)
        return _result.facts(name, disk, images, became)

    def _require_possible(self, adopted: t.Container[str], left: Unfinished) -> None:
        """Raises DiskError where the world around the disks is in the way. Copies that are *adopted* have their images
        already."""
        new, survey = [item for item in self.conversions if item.target not in adopted], self._survey
        _obstacles.require_free_destinations(new, survey.places(new, left.stale), block_device=self.wish.block_device)
        survey.require_unused(self.conversions)
        self._filled = self._without_holes(new)
        survey.require_space(new, {item.target for item in self._filled})
        survey.require_promise(self.conversions)

    def _without_holes(self, new: t.Sequence[Conversion]) -> list[Conversion]:
        """Those whose new image will have no holes, though it could; the guest's QEMU is only asked where it might."""
        if self._mode != "live":
            return []
        from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.acting import acting
        from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert import (
            decision_live as _decision_live,
        )

        doubtful = _decision_live.with_holes(self.wish, new)
        return doubtful if doubtful and _decision_live.fills_holes(acting(self.task.domain).qemu_version()) else []

    def _require_way_back(self, left: Unfinished, operation: Operation | None) -> None:
        """Raises DiskError where the guest could not run again as it ran; says once how it will run otherwise."""
        state = self.task.state
        changes = _ready.require_return(state)
        if changes and operation is None:
            self.task.warn(changes)
        if self.wish.restart and (state.active or left.owed):
            exchanged = {item.target for item in self.conversions}
            _start.require_startable(self.task.hypervisor, state.name, state.definition, exchanged)

    def _tell_of_bitmaps(self, operation: Operation | None) -> None:
        """Says once which dirty bitmaps get lost."""
        for carried in self._survey.bitmaps.values():
            if carried.warning is not None and operation is None:
                self.task.warn(carried.warning)

    def _live(self, adopted: t.Container[str], left: Unfinished, operation: Operation | None) -> tuple[Step, ...]:
        from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert import (
            decision_live as _decision_live,
        )
        from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert import work_live as _work_live

        for item in self.conversions:
            require_nobody_elses(item.dest, "fill a new image", self.task.module)
            if operation is None:
                files = [image.path for image in self._survey.chains[item.target]]
                warn_of_untold_holes(files, "a copy", self.task.warn)
        images, name = self._survey.images, self.task.state.name
        for item in self._filled if operation is None else ():
            self.task.warn(_decision_live.warning_of_filled(name, item, images[item.target].virtual_size))
        warn_of_shutdown(self.task, left, operation)
        hands = self.task.tools(operation)
        work = _work_live.Work(**hands, wish=self.wish, images=images, adopted=adopted)
        return _decision_live.steps(self.task.state, self.wish, self.conversions, adopted, work)

    def _offline(self, left: Unfinished, operation: Operation | None) -> tuple[Step, ...]:
        from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert import (
            decision_offline as _decision_offline,
        )
        from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert import work_offline as _work_offline

        survey, conversions, state = self._survey, self.conversions, self.task.state
        runs = state.active or left.owed
        self._offline_work = work = _work_offline.Work(
            **self.task.tools(operation),
            wish=self.wish,
            chains=survey.chains,
            bitmaps=survey.bitmaps,
            runs=runs,
            measure=lambda: survey.require_space(conversions),
        )
        return _decision_offline.steps(state, self.wish, conversions, runs, work)

    def _foreign_jobs(self) -> list[str]:
        """The disks with block jobs, without those that a dead run of ours began."""
        ours = {disk.target for disk in self.left.copied} if self.left else set()
        task = self.task
        jobs = _domain.block_jobs(task.domain, task.state) if task.state.active else []
        return [target for target in jobs if target not in ours]

    def _images_predicted(self, item: Conversion, source: _image.Image) -> tuple[_image.Image, ...]:
        """The new image, and what is to be below it."""
        top = _decision_conversion.predicted(item, source, self.wish.layout.format)
        return (top, *_image.chain(self.task.qemu_img, source)[1:]) if item.backing else (top,)


def settlement(
    task: DomainTask, wish: ConvertWish, left: Unfinished, operation: Operation | None, *, restart: bool
) -> tuple[Step, ...]:
    """The steps that end what a dead run left, where there is nothing else to do."""
    work = Work(**task.tools(operation))
    return _leftovers.settlement(task.state, left, removable(task, wish, left), work, restart=restart)


def removable(task: DomainTask, wish: ConvertWish, left: Unfinished) -> list[str]:
    """The sources that a dead run was to remove, as far as that is still wanted and nobody uses them."""
    if wish.keep_source or not left.sources:
        return []
    return survey_of(task, wish).removable(left.sources)


def survey_of(task: DomainTask, wish: ConvertWish) -> Survey:
    return Survey(task.hypervisor, task.surroundings, task.qemu_img, task.state, wish)


def warn_of_shutdown(task: DomainTask, left: Unfinished, operation: Operation | None) -> None:
    """Says, once, that the guest may go off under what is done or found now."""
    if left.pending is not None and operation is None:
        task.warn(
            f"{task.state.name}: its guest was asked to shut down at {left.pending.asked}, by a run that gave up "
            "waiting, and may still do so: the next run of this module on it starts it again, whatever its "
            "parameters are"
        )
