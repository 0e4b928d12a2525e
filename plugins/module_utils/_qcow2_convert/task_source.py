# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The part of the walk in which the source matters: the image is made, or compared, or the source goes."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_convert import decision as _decision
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_convert import decision_image as _decision_image
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_convert.decision import Course, Source
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_convert.survey_source import (
    SourceSurvey,
    dest_bitmaps,
    source_files,
)
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_convert.work import Work
from ansible_collections.kvmops.disk.plugins.module_utils._task.task import holding

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._content.bitmaps import Carried
    from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation
    from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
    from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan
    from ansible_collections.kvmops.disk.plugins.module_utils._progress import Phases
    from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_convert.wish import ImageConvertWish


class SourceWalk:
    """One decision; *predicted* is the wanted image, where that was looked into.

    *dress* gives a new file the owner, mode and attributes that the task wants. *warn* tells a person.
    """

    def __init__(
        self,
        wish: ImageConvertWish,
        survey: SourceSurvey,
        operation: Operation | None,
        dress: t.Callable[[str], object],
        phases: Phases,
        warn: t.Callable[[str], None],
    ) -> None:
        self.predicted: Image | None = None
        self._wish = wish
        self._survey = survey
        self._operation = operation
        self._dress = dress
        self._phases = phases
        self._warn = warn
        self._work: Work | None = None

    @property
    def verified(self) -> bool | None:
        """Whether the image was compared that was made; None where none was."""
        return self._work.verified if self._work else None

    def plan(self, course: Course, dest: Image | None, source: Source) -> Plan:
        """The plan that takes the *course* with the image *dest*. Raises DiskError where it must not."""
        if dest is None:
            return self._conversion(None, None)
        if course is Course.COMPARE:
            reason = self._survey.difference(dest)
            if reason is not None:
                return self._conversion(dest, reason)
            course = _decision.course_beside_right(self._wish, dest, source)
            self._predict()
        return self._removal(course, dest)

    def _conversion(self, dest: Image | None, reason: str | None) -> Plan:
        wish, survey = self._wish, self._survey
        survey.require_possible()
        self._predict()
        self._tell_of_bitmaps(_decision_image.carried(wish, survey.found))
        if dest is not None:
            self._tell_of_bitmaps(_decision_image.lost_with_replaced(wish, survey.found, dest_bitmaps(dest)))
        replaced, source = survey.replaced(), source_files(wish)
        return _decision_image.plan_conversion(wish, survey.found, dest, reason, replaced, source, self._working(dest))

    def _removal(self, course: Course, dest: Image) -> Plan:
        if course is Course.KEEP:
            return _decision.plan_nothing(dest)
        if course is Course.REMOVE_IF_SAME:
            self._survey.require_source_same(dest)
            self._predict()
            self._tell_of_bitmaps(_decision_image.left_with_source(self._wish, self._survey.found, dest_bitmaps(dest)))
        return _decision_image.plan_removal(self._wish, dest, source_files(self._wish), self._working(dest))

    def _tell_of_bitmaps(self, carried: Carried) -> None:
        """Says once which bitmaps get lost."""
        if carried.warning is not None and self._operation is None:
            self._warn(carried.warning)

    def _predict(self) -> None:
        self.predicted = _decision_image.predicted(self._wish, self._survey.found)

    def _working(self, dest: Image | None) -> Work:
        qemu_img = holding(self._survey.qemu_img, self._operation)
        self._work = Work(self._wish, dest, qemu_img, self._operation, self._dress, self._phases)
        return self._work
