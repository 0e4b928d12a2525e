# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An overlay merged into an image below it: the walk of the module qcow2_commit from its parameters to its result."""

from __future__ import annotations

import os
import typing as t
from contextlib import AbstractContextManager

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._content import merge as _merge
from ansible_collections.kvmops.disk.plugins.module_utils._errors import MissingImage
from ansible_collections.kvmops.disk.plugins.module_utils._formats import bitmaps as _bitmaps
from ansible_collections.kvmops.disk.plugins.module_utils._progress import Phase, Progress
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_commit import decision as _decision
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_commit import leftovers as _leftovers
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_commit.decision import Fate
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_commit.result import result
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_commit.survey import CommitSurvey
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_commit.wish import CommitWish, wish_from
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_commit.work import Work
from ansible_collections.kvmops.disk.plugins.module_utils._recovery.noting import noting
from ansible_collections.kvmops.disk.plugins.module_utils._recovery.verbs import COMMIT, MERGED, MERGING
from ansible_collections.kvmops.disk.plugins.module_utils._task.image_task import InPlaceTask
from ansible_collections.kvmops.disk.plugins.module_utils._task.task import holding

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._content.merge import Observed
    from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation
    from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan


class CommitTask(InPlaceTask):
    """The walk: with the overlay, or, where that has gone, with what a dead merge left."""

    verb = COMMIT

    def __init__(self, module: AnsibleModule, wish: CommitWish) -> None:
        super().__init__(module, wish.path, wish.openers, limited=not wish.trusted)
        self.wish = wish
        self._progress = Progress.wanted()
        self._paths = [wish.path]
        self._fate = Fate(None)
        self._survey = self._new_survey()

    def paths(self) -> list[str]:
        """The images whose records are to be held: those from the overlay to the base."""
        return self._paths

    def result(self, plan: Plan) -> dict[str, t.Any]:
        if plan:
            self.surroundings.refresh_pools(self._paths)
        if self._fate.invalid:
            self.warn(
                f"{', '.join(self._fate.invalid)}: what it reads was written to, so it is only valid below "
                f"{self.wish.path}"
            )
        return result(plan, self._fate, self.qemu_img, verified=self._survey.verified, check_mode=self.check_mode)

    def _plan(self, operation: Operation | None) -> Plan:
        """The plan that merges the overlay, or finishes what a dead run began.

        The overlay may go while another run of the same task ends.
        """
        self._survey = self._new_survey()
        if os.path.lexists(self.wish.path):
            try:
                return self._with_overlay(operation)
            except MissingImage:
                if os.path.lexists(self.wish.path):
                    raise
        return self._without_overlay(operation)

    def _with_overlay(self, operation: Operation | None) -> Plan:
        wish, survey = self.wish, self._survey
        images = survey.look()
        _merge.require_readable(images)
        self._paths = _leftovers.with_noted([image.path for image in images], operation)
        survey.require_unused(images)
        formats = {image.path: image.format for image in images}
        qemu_img = holding(survey.qemu_img, operation)
        first = _leftovers.settling(self._paths, formats, images[:-1], operation, qemu_img)
        observed = survey.observe(images)
        plan = _decision.plan_commit(wish, observed, Work(wish, survey, operation, self._phase, self.warn))
        self._fate = _decision.fate(wish, observed, plan)
        if plan:
            self._require_possible(observed)
        if plan and operation is None:
            self._warn_of_doubts(observed)
        stage = MERGED if observed.is_merged else MERGING
        return noting(first, plan, operation, lambda: _leftovers.record(observed, self._fate.removed, stage))

    def _without_overlay(self, operation: Operation | None) -> Plan:
        """The plan where there is no overlay: a dead run may have removed it, and left what was between."""
        wish, survey = self.wish, self._survey
        _decision.require_overlay_wanted_gone(wish)
        rest = _leftovers.rest(wish, operation)
        survey.look_at_base(rest)
        self._paths = _leftovers.with_noted([wish.path, *([rest.base] if rest.base else [])], operation)
        formats = {rest.base: rest.base_format} if rest.base and rest.base_format else {}
        self._fate = Fate(next(iter(formats.items()), None), rest.images)
        first = _leftovers.settling(self._paths, formats, (), operation, holding(survey.qemu_img, operation))
        survey.require_removable(rest.images)
        return _decision.plan_rest(rest, first, Work(wish, survey, operation, self._phase, self.warn))

    def _require_possible(self, observed: Observed) -> None:
        """Raises where the images cannot be merged, or where that would hurt somebody."""
        _merge.require_mergeable(observed)
        overlay = observed.overlay
        _decision.require_endable(self.wish, overlay, _bitmaps.bitmaps_of(overlay.path, overlay.format))
        self._survey.require_nobody_hurt(observed)

    def _warn_of_doubts(self, observed: Observed) -> None:
        """Says what the task may not know of the base: what it is, and what size it gets."""
        from ansible_collections.kvmops.disk.plugins.module_utils._image import doubts as _doubts
        from ansible_collections.kvmops.disk.plugins.module_utils._image.alignment import warn_of_misfit

        base, size = observed.base, observed.overlay.virtual_size
        _doubts.warn_of_compressed(base.path, base.format, self.warn)
        if not observed.is_merged:
            _doubts.warn_of_partial_sector(base.path, base.format, self.warn)
        if base.virtual_size < size:
            warn_of_misfit(base.path, base.format, size, self.warn, "grow it to that size afterwards")

    def _new_survey(self) -> CommitSurvey:
        return CommitSurvey(self.wish, self.qemu_img, self.surroundings, self._phase)

    def _phase(self, verb: str, total: int) -> AbstractContextManager[Phase]:
        return self._progress.phase(os.path.basename(self.wish.path), verb, total)


def run(module: AnsibleModule) -> dict[str, t.Any]:
    """One run of the module."""
    return CommitTask(module, wish_from(module.params)).walk()
