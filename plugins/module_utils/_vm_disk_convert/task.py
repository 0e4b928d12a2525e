# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The disks of a domain as a task wants them: the walk of vm_disk_convert from its parameters to its result."""

from __future__ import annotations

import os
import typing as t
from functools import partial

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._domain import domain as _domain
from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainDisk
from ansible_collections.kvmops.disk.plugins.module_utils._files import file_set as _file_set
from ansible_collections.kvmops.disk.plugins.module_utils._files import lock as _lock
from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation
from ansible_collections.kvmops.disk.plugins.module_utils._host import block_device as _block_device
from ansible_collections.kvmops.disk.plugins.module_utils._image import image as _image
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan, Step
from ansible_collections.kvmops.disk.plugins.module_utils._recovery import shutdown as _shutdown
from ansible_collections.kvmops.disk.plugins.module_utils._task.carry_out import carry_out
from ansible_collections.kvmops.disk.plugins.module_utils._task.domain_task import DomainTask
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert import decision as _decision
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert import leftovers as _leftovers
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert.decision import Conversion
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert.leftovers import Unfinished
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert.wish import ConvertWish, wish_from
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disks as _disks
from ansible_collections.kvmops.disk.plugins.module_utils._xml import records as _records

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert import work_offline as _work_offline
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert.survey import Survey


class ConvertTask(DomainTask):
    """The disks of a domain as *wish* wants them."""

    verb = "convert"

    def __init__(self, module: AnsibleModule, wish: ConvertWish) -> None:
        super().__init__(module)
        self.wish = wish
        self.survey: Survey
        self.conversions: list[Conversion] = []
        self.targets: list[str] = []
        self.unfinished = Unfinished()
        self.work: _work_offline.Work | None = None

    def paths(self) -> set[str]:
        """The images whose records are to be held."""
        return self.unfinished.paths | {path for item in self.conversions for path in (item.source, item.dest)}

    def directories(self) -> set[str]:
        """Where the new images lie."""
        return {os.path.dirname(os.path.realpath(item.dest)) for item in self.conversions}

    def result(self, plan: Plan) -> dict[str, t.Any]:
        """What the module returns, read from the world again after a change."""
        before = {item.target: item for item in self.conversions}
        state = self.state_after(plan)
        disks = [disk for target in self.targets for disk in state.disks if disk.target == target]
        return {
            **plan.report(),
            "diff": [{"before": plan.before, "after": plan.after}, *plan.diff],
            "disks": [self._facts(disk, before.get(disk.target)) for disk in disks],
        }

    def _plan(self, operation: Operation | None) -> Plan:
        self.conversions, self.work = [], None
        self.unfinished = self._find_unfinished([], operation)
        meant, conversions = _decision.select(self.state, self.wish)
        self.targets = [disk.target for disk in meant]
        there = {disk.target for disk in self.unfinished.pivoted if self.wish.is_granted(disk.dest, disk.format)}
        conversions = [item for item in conversions if item.target not in there]
        if not conversions:
            self.unfinished = self._find_unfinished([disk.path for disk in meant if disk.path], operation)
            self._warn_of_shutdown(operation)
            return Plan({}, {}, self._settlement(operation, restart=self.wish.restart) if self.unfinished else ())
        self.survey = self._survey()
        self._require_convertible(conversions)
        self.mode = _decision.way(self.state, self.wish)
        self.unfinished = self._find_unfinished([item.dest for item in conversions], operation)
        self.conversions = conversions
        self.conversions = conversions = [self.survey.examined(item) for item in conversions]
        adopted = _leftovers.adoptable(self.unfinished, conversions, self.wish) if self.mode == "live" else frozenset()
        self.unfinished = _leftovers.without(
            self.unfinished, {item.dest for item in conversions if item.target in adopted}
        )
        new = [item for item in conversions if item.target not in adopted]
        _decision.require_free_destinations(new, self._is_taken)
        self.survey.require_unused(conversions)
        self.survey.require_space(new)
        self.survey.require_promise(conversions, self.params["max_overcommit"])
        return self._conversion_plan(operation, adopted)

    def _find_unfinished(self, images: t.Iterable[str], operation: Operation | None) -> Unfinished:
        asked = _records.shutdown_in(self.state.definition)
        run = self.domain.run_number() if asked else None
        return _leftovers.find(self.state, images, _lock.notes(operation), asked, run)

    def _warn_of_shutdown(self, operation: Operation | None) -> None:
        """Says, once, that the guest may go off under what is done or found now."""
        pending = self.unfinished.pending
        if pending is not None and operation is None:
            self.warn(
                f"{self.state.name}: its guest was asked to shut down at {pending.asked}, by a run that gave up "
                "waiting, and may still do so: the next run of this module on it starts it again, whatever its "
                "parameters are"
            )

    def _given_up(self, operation: Operation | None) -> tuple[Step, ...]:
        if not self.unfinished:
            return ()
        self.conversions = []
        return self._settlement(operation, restart=True)

    def _survey(self) -> Survey:
        """The look around, which a run that finds everything as wanted does without."""
        from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert.survey import (
            Survey,  # loaded where there is work
        )

        return Survey(self.hypervisor, self.qemu_img, self.state, self.wish, self.params["search_paths"])

    def _is_taken(self, path: str) -> bool:
        """Whether something stands at a destination that is not to be overwritten."""
        _block_device.require_meant(path, self.wish.block_device)
        if self.wish.block_device and _block_device.is_block_device(path):
            return False
        return _leftovers.existing(path, self.unfinished)

    def _require_convertible(self, conversions: t.Sequence[Conversion]) -> None:
        """Raises DiskError where the domain is in no state for it. A block job of a dead run of ours is no obstacle."""
        ours = {disk.target for disk in self.unfinished.copied}
        jobs = _domain.block_jobs(self.domain, self.state) if self.state.active else []
        _decision.require_convertible(self.state, conversions, [target for target in jobs if target not in ours])

    def _conversion_plan(self, operation: Operation | None, adopted: t.Container[str]) -> Plan:
        changes = [_decision.change(item, self.wish) for item in self.conversions]
        after = _disks.with_changes(self.state.definition, changes)
        return Plan(
            before={item.target: {"path": item.source, "format": item.source_format} for item in self.conversions},
            after={item.target: {"path": item.dest, "format": self.wish.layout.format} for item in self.conversions},
            steps=(
                *self._settled_images(operation),
                *self._clean_up(),
                *self._steps(operation, adopted),
                *self._removals(),
            ),
            diff=({"prepared": _disks.definition_diff(self.state.definition, after)},),
        )

    def _steps(self, operation: Operation | None, adopted: t.Container[str]) -> tuple[Step, ...]:
        from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert import (
            work_live as _work_live,
        )
        from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert import work_offline as _work_offline

        if self.mode == "live":
            self._warn_of_shutdown(operation)
            work = _work_live.LiveWork(
                **self.hands(operation), wish=self.wish, images=self.survey.images, adopted=adopted
            )
            return _work_live.steps(self.state, self.wish, self.conversions, work)
        return _work_offline.steps(self.state, self.wish, self.conversions, self._work(operation))

    def _clean_up(self) -> tuple[Step, ...]:
        """The steps that end or finish what a dead run left of disks."""
        from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert import (
            work_live as _work_live,  # loaded where there is work
        )

        pivoted = self.unfinished.pivoted
        named = Step(
            f"define {self.state.name} with {', '.join(disk.dest for disk in pivoted)}, on which it runs",
            lambda: _work_live.name_pivoted(self.hypervisor, self.domain, pivoted),
        )
        ended = _leftovers.clean_up(self.unfinished, lambda disk: _work_live.end_copy(self.domain, disk))
        forgotten = Step(
            f"forget that the guest of {self.state.name} was asked to shut down",
            lambda: _shutdown.settle(self.hypervisor, self.domain),
        )
        is_on_again = self.unfinished.answered and self.state.active
        return (*((named,) if pivoted else ()), *ended, *((forgotten,) if is_on_again else ()))

    def _settlement(self, operation: Operation | None, *, restart: bool) -> tuple[Step, ...]:
        """The steps that end what a dead run left, where there is nothing else to do."""
        self.survey = self._survey()
        work = self._work(operation)
        owed = self.unfinished.owed and restart
        start = (Step(f"start {self.state.name}, which an interrupted run had shut down", work.start),) if owed else ()
        images = {disk.path for disk in self.state.disks if disk.path}
        return (
            *self._clean_up(),
            *start,
            *self._removals(),
            Step(f"forget the interrupted conversion of {self.state.name}", lambda: work.forget(images)),
        )

    def _settled_images(self, operation: Operation | None) -> tuple[Step, ...]:
        """Where another verb died on a source, that source is checked first."""
        from ansible_collections.kvmops.disk.plugins.module_utils._recovery.leftovers import (
            look_for,  # loaded where there is work
        )
        from ansible_collections.kvmops.disk.plugins.module_utils._recovery.settle import settle

        note_of = _lock.notes(operation)
        found: list[Step] = []
        for item in self.conversions:
            note = note_of(item.source)
            if note and note.get("verb") != "convert":
                found += settle(look_for(item.source, item.source_format, note), self.qemu_img)
        return tuple(found)

    def _removals(self) -> tuple[Step, ...]:
        """The removal of sources that an interrupted run owes, as far as it is still wanted and nobody uses them."""
        if self.wish.keep_source or not self.unfinished.sources:
            return ()
        return tuple(
            Step(f"remove {source}", partial(_file_set.remove_image, source))
            for source in self.survey.removable(self.unfinished.sources)
        )

    def _work(self, operation: Operation | None) -> _work_offline.Work:
        from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert import (
            work_offline as _work_offline,  # loaded where there is work
        )

        self.work = _work_offline.Work(
            **self.hands(operation),
            wish=self.wish,
            chains=self.survey.chains,
            runs=self.state.active or self.unfinished.owed,
            require_space=lambda: self.survey.require_space(self.conversions),
        )
        return self.work

    def _facts(self, disk: DomainDisk, item: Conversion | None) -> dict[str, t.Any]:
        """One disk as the module returns it; in check mode as it would be."""
        source = self.survey.images[item.target] if item else None
        images = self._images_of(disk, item)
        top = images[0] if images else None
        offline = self.mode == "offline"
        return {
            "domain": self.state.name,
            "target": disk.target,
            "path": top.path if top else disk.path,
            "format": top.format if top else disk.format,
            "virtual_size": top.virtual_size if top else None,
            "actual_size": top.actual_size if top else None,
            "backing_chain": [image.facts() for image in images],
            "previous_path": item.source if item else None,
            "previous_format": item.source_format if item else None,
            "previous_actual_size": source.actual_size if source else None,
            "mode": self.mode if item else None,
            "verified": bool(item and offline and self.wish.verify and not self.check_mode),
            "downtime_seconds": self.work.downtime if item and self.work else None,
        }

    def _images_of(self, disk: DomainDisk, item: Conversion | None) -> tuple[_image.Image, ...]:
        """The images of a disk, top first; in check mode the new one that it would have."""
        if self.check_mode and item:
            top = _decision.predicted(item, self.survey.images[item.target], self.wish.layout.format)
            return (top, *_image.chain(self.qemu_img, self.survey.images[item.target])[1:]) if item.backing else (top,)
        return self.images_of(disk) if disk.path is not None else ()


def run(module: AnsibleModule) -> dict[str, t.Any]:
    """One run of the module."""
    task = ConvertTask(module, wish_from(module.params))
    plan = carry_out(task.decide, "convert", task.paths, module, counted=task.directories)
    return task.result(plan)
