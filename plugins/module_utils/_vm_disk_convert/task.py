# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The disks of a domain as a task wants them: the walk of vm_disk_convert from its parameters to its result.

A run that finds everything as wanted loads neither the survey nor the work, nor what dead runs left unless there is a
trace of one.
"""

from __future__ import annotations

import os
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._domain import domain as _domain
from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainDisk
from ansible_collections.kvmops.disk.plugins.module_utils._files import lock as _lock
from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation
from ansible_collections.kvmops.disk.plugins.module_utils._image import image as _image
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan, Step
from ansible_collections.kvmops.disk.plugins.module_utils._recovery.records import is_untouched
from ansible_collections.kvmops.disk.plugins.module_utils._task.domain_task import DomainTask
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert import decision as _decision
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert import result as _result
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert.decision import Conversion
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert.wish import ConvertWish, wish_from
from ansible_collections.kvmops.disk.plugins.module_utils._xml import records as _records

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert import work_offline as _work_offline
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert.leftovers import Unfinished
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert.survey import Survey
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert.work import Work


class ConvertTask(DomainTask):
    """The disks of a domain as *wish* wants them."""

    verb = "convert"

    def __init__(self, module: AnsibleModule, wish: ConvertWish) -> None:
        super().__init__(module)
        self.wish = wish
        self.survey: Survey
        self.meant: list[DomainDisk] = []
        self.conversions: list[Conversion] = []
        self.unfinished: Unfinished | None = None
        self.offline: _work_offline.Work | None = None

    def paths(self) -> set[str]:
        """The images whose records are to be held."""
        left = self.unfinished.paths if self.unfinished else set()
        return left | {path for item in self.conversions for path in (item.source, item.dest)}

    def counted(self) -> set[str]:
        """Where the new images lie."""
        return {os.path.dirname(os.path.realpath(item.dest)) for item in self.conversions}

    def result(self, plan: Plan) -> dict[str, t.Any]:
        """What the module returns, read from the world again after a change."""
        targets = [disk.target for disk in self.meant]
        now = {disk.target: disk for disk in self.state_after(plan).disks}
        return {
            **plan.report(),
            "diff": [{"before": plan.before, "after": plan.after}, *plan.diff],
            "disks": [self._facts(now[target]) for target in targets if target in now],
        }

    def _plan(self, operation: Operation | None) -> Plan:
        self.conversions, self.offline = [], None
        self.unfinished = self._find_unfinished([], operation)
        self.meant, conversions = _decision.select(self.state, self.wish)
        pivoted = self.unfinished.pivoted if self.unfinished else ()
        conversions = _decision.without_pivoted(conversions, pivoted, self.wish)
        return self._conversion(conversions, operation) if conversions else self._settling(operation)

    def _given_up(self, operation: Operation | None) -> tuple[Step, ...]:
        if not self.unfinished:
            return ()
        self.conversions = []
        return self._settlement(self.unfinished, operation, restart=True)

    def _settling(self, operation: Operation | None) -> Plan:
        """The plan where each disk is as wanted: only a dead run may have left things."""
        self.unfinished = left = self._find_unfinished([disk.path for disk in self.meant if disk.path], operation)
        self._warn_of_shutdown(operation)
        return Plan({}, {}, self._settlement(left, operation, restart=self.wish.restart) if left else ())

    def _conversion(self, wanted: list[Conversion], operation: Operation | None) -> Plan:
        """The plan that converts disks. Raises DiskError where they must not be converted, or cannot be."""
        from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert import (
            decision_obstacles as _obstacles,
        )
        from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert import leftovers as _leftovers

        self.survey = survey = self._survey()
        _obstacles.require_convertible(self.state, wanted, self._foreign_jobs())
        self.mode = _obstacles.way(self.state, self.wish)
        self.unfinished = self._find_unfinished([item.dest for item in wanted], operation)
        left = self.unfinished if self.unfinished is not None else _leftovers.Unfinished()
        self.conversions = wanted
        self.conversions = conversions = [survey.examined(item) for item in wanted]
        adopted = _leftovers.adoptable(left, conversions, self.wish) if self.mode == "live" else frozenset()
        self.unfinished = left = _leftovers.without(left, {item.dest for item in conversions if item.target in adopted})
        self._require_possible(conversions, adopted, left)
        work = self._work(operation)
        steps = (
            *_leftovers.settled_images(conversions, _lock.notes(operation), self.qemu_img),
            *_leftovers.in_order(self.state, left, work),
            *(self._live(adopted, operation) if self.mode == "live" else self._offline(left, operation)),
            *_leftovers.removals(self._removable(left), work),
        )
        return _decision.plan(self.state, self.wish, conversions, steps)

    def _require_possible(
        self, conversions: t.Sequence[Conversion], adopted: t.Container[str], left: Unfinished
    ) -> None:
        """Raises DiskError where the world around the disks is in the way. Copies that are *adopted* have their images
        already."""
        from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert import (
            decision_obstacles as _obstacles,
        )

        new, survey = [item for item in conversions if item.target not in adopted], self.survey
        _obstacles.require_free_destinations(new, survey.places(new, left.stale), block_device=self.wish.block_device)
        survey.require_unused(conversions)
        survey.require_space(new)
        survey.require_promise(conversions)

    def _live(self, adopted: t.Container[str], operation: Operation | None) -> tuple[Step, ...]:
        from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert import (
            decision_live as _decision_live,
        )
        from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert import work_live as _work_live

        self._warn_of_shutdown(operation)
        work = _work_live.Work(**self.tools(operation), wish=self.wish, images=self.survey.images, adopted=adopted)
        return _decision_live.steps(self.state, self.wish, self.conversions, adopted, work)

    def _offline(self, left: Unfinished, operation: Operation | None) -> tuple[Step, ...]:
        from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert import (
            decision_offline as _decision_offline,
        )
        from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert import work_offline as _work_offline

        survey, conversions, runs = self.survey, self.conversions, self.state.active or left.owed
        self.offline = work = _work_offline.Work(
            **self.tools(operation),
            wish=self.wish,
            chains=survey.chains,
            runs=runs,
            measure=lambda: survey.require_space(conversions),
        )
        return _decision_offline.steps(self.state, self.wish, conversions, runs, work)

    def _settlement(self, left: Unfinished, operation: Operation | None, *, restart: bool) -> tuple[Step, ...]:
        """The steps that end what a dead run left, where there is nothing else to do."""
        from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert import leftovers as _leftovers

        work = self._work(operation)
        return _leftovers.settlement(self.state, left, self._removable(left), work, restart=restart)

    def _find_unfinished(self, images: t.Collection[str], operation: Operation | None) -> Unfinished | None:
        """What a dead run left of the domain and beside *images*; None where there is no trace of one."""
        note_of, asked = _lock.notes(operation), _records.shutdown_in(self.state.definition)
        if asked is None and is_untouched(self.state.record, images, self.verb, note_of):
            return None
        from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert import leftovers as _leftovers

        run = self.domain.run_number() if asked else None
        return _leftovers.find(self.state, images, note_of, asked, run)

    def _removable(self, left: Unfinished) -> list[str]:
        """The sources that a dead run was to remove, as far as that is still wanted and nobody uses them."""
        if self.wish.keep_source or not left.sources:
            return []
        return self._survey().removable(left.sources)

    def _foreign_jobs(self) -> list[str]:
        """The disks with block jobs, without those that a dead run of ours began."""
        ours = {disk.target for disk in self.unfinished.copied} if self.unfinished else set()
        jobs = _domain.block_jobs(self.domain, self.state) if self.state.active else []
        return [target for target in jobs if target not in ours]

    def _warn_of_shutdown(self, operation: Operation | None) -> None:
        """Says, once, that the guest may go off under what is done or found now."""
        pending = self.unfinished.pending if self.unfinished is not None else None
        if pending is not None and operation is None:
            self.warn(
                f"{self.state.name}: its guest was asked to shut down at {pending.asked}, by a run that gave up "
                "waiting, and may still do so: the next run of this module on it starts it again, whatever its "
                "parameters are"
            )

    def _survey(self) -> Survey:
        from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert.survey import Survey

        return Survey(self.hypervisor, self.surroundings, self.qemu_img, self.state, self.wish)

    def _work(self, operation: Operation | None) -> Work:
        from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert.work import Work

        return Work(**self.tools(operation))

    def _facts(self, disk: DomainDisk) -> dict[str, t.Any]:
        """One disk as the module returns it; in check mode as it would be."""
        item = next((item for item in self.conversions if item.target == disk.target), None)
        if item is None:
            return _result.facts(self.state.name, disk, self._images_now(disk), _result.UNCHANGED)
        source = self.survey.images[item.target]
        became = _result.converted(
            *(item, source, self.mode),
            verified=self.mode == "offline" and self.wish.verify and not self.check_mode,
            downtime=self.offline.downtime if self.offline else None,
        )
        images = self._images_predicted(item, source) if self.check_mode else self._images_now(disk)
        return _result.facts(self.state.name, disk, images, became)

    def _images_now(self, disk: DomainDisk) -> tuple[_image.Image, ...]:
        return self.images_of(disk) if disk.path is not None else ()

    def _images_predicted(self, item: Conversion, source: _image.Image) -> tuple[_image.Image, ...]:
        """The new image, and what is to be below it."""
        top = _decision.predicted(item, source, self.wish.layout.format)
        return (top, *_image.chain(self.qemu_img, source)[1:]) if item.backing else (top,)


def run(module: AnsibleModule) -> dict[str, t.Any]:
    """One run of the module."""
    return ConvertTask(module, wish_from(module.params)).walk()
