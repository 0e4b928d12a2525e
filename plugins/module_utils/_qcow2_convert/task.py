# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One image made of another as a task wants it: the walk of qcow2_convert from its parameters to its result."""

from __future__ import annotations

import functools
import os
import typing as t
from contextlib import AbstractContextManager

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._errors import MissingImage
from ansible_collections.kvmops.disk.plugins.module_utils._files import beside as _beside
from ansible_collections.kvmops.disk.plugins.module_utils._progress import Phase, Progress
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_convert import decision as _decision
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_convert import survey as _survey
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_convert.decision import Course
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_convert.result import result
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_convert.survey_comparison import Comparison
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_convert.wish import ImageConvertWish, wish_from
from ansible_collections.kvmops.disk.plugins.module_utils._recovery.noting import noting
from ansible_collections.kvmops.disk.plugins.module_utils._recovery.verbs import CONVERT
from ansible_collections.kvmops.disk.plugins.module_utils._task.attributes import dress
from ansible_collections.kvmops.disk.plugins.module_utils._task.image_task import InPlaceTask

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation
    from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
    from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan
    from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_convert.task_source import SourceWalk


class ConversionTask(InPlaceTask):
    """The walk. The source is looked at where the image that is there may not do, or where the source is to go; what is
    not used is not loaded."""

    verb = CONVERT

    def __init__(self, module: AnsibleModule, wish: ImageConvertWish) -> None:
        openers = wish.encryption.openers if wish.encryption else None
        super().__init__(module, wish.dest, openers, limited=not wish.trusted)
        self.wish = wish
        self._progress = Progress.wanted()
        self._comparison = Comparison(self._phase)
        self._source: SourceWalk | None = None

    def paths(self) -> list[str]:
        """The images whose records are to be held. A source that is only read may have many readers at once."""
        return [self.wish.dest, *([self.wish.src] if self.wish.remove_src else [])]

    def counted(self) -> list[str]:
        return [os.path.dirname(self.wish.dest)]

    def decide(self, operation: Operation | None) -> Plan:
        """The plan. A source may go while another run of the same task ends: its destination is there then."""
        missing = not os.path.lexists(self.wish.dest)
        try:
            return super().decide(operation)
        except MissingImage:
            if missing and os.path.lexists(self.wish.dest):
                return super().decide(operation)
            raise

    def result(self, plan: Plan) -> dict[str, t.Any]:
        if plan:
            self.surroundings.refresh_pools(self.paths())
            self._warn_of_misfit()
            self._warn_of_name()
        made = self._source.verified if self._source else None
        verified = self._comparison.is_same if made is None else made
        predicted = self._source.predicted if self._source else None
        return result(self.module, self.wish, plan, self.qemu_img, verified=verified, predicted=predicted)

    def _warn_of_compressed(self) -> None:
        from ansible_collections.kvmops.disk.plugins.module_utils._image.doubts import warn_of_compressed

        warn_of_compressed(self.wish.src, self.wish.src_format, self.warn)

    def _warn_of_misfit(self) -> None:
        """Says so where a domain might not open the new image."""
        predicted = self._source.predicted if self._source else None
        if predicted is not None and predicted.format == "raw":
            from ansible_collections.kvmops.disk.plugins.module_utils._image.alignment import warn_of_misfit

            warn_of_misfit(predicted.path, predicted.format, predicted.virtual_size, self.warn)

    def _warn_of_name(self) -> None:
        """Says so where the new image is named like one of another format."""
        predicted = self._source.predicted if self._source else None
        if predicted is not None:
            from ansible_collections.kvmops.disk.plugins.module_utils._image.doubts import warn_of_name

            warn_of_name(predicted.path, predicted.format, self.warn)

    def _plan(self, operation: Operation | None) -> Plan:
        wish, self._source = self.wish, None
        note = _beside.notes(operation)(wish.src)
        dest = _survey.destination(wish, self.qemu_img)
        if dest is not None and dest.encrypted and wish.update != "always":
            self.unlock(dest)
        first = self.settling(dest.format if dest else None, operation, finishing=CONVERT)
        source = _survey.source(wish, note)
        course = _decision.course(wish, dest, source)
        if dest is not None and course is Course.KEEP:
            plan = _decision.plan_nothing(dest)
        else:
            self._source = self._source_walk(dest, note, operation)
            plan = self._source.plan(course, dest, source)
            if self._source.predicted is not None and operation is None:
                self._warn_of_compressed()
        return noting(first, plan, operation, lambda: {"source": wish.src, "dest": wish.dest})

    def _source_walk(
        self, dest: Image | None, note: dict[str, t.Any] | None, operation: Operation | None
    ) -> SourceWalk:
        from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_convert.survey_source import SourceSurvey
        from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_convert.task_source import SourceWalk

        survey = SourceSurvey(self.wish, dest, self.qemu_img, self.surroundings, self._comparison, note)
        return SourceWalk(self.wish, survey, operation, functools.partial(dress, self.module), self._phase, self.warn)

    def _phase(self, verb: str, total: int) -> AbstractContextManager[Phase]:
        return self._progress.phase(os.path.basename(self.wish.dest), verb, total)


def run(module: AnsibleModule) -> dict[str, t.Any]:
    """One run of the module."""
    wish = _survey.placed(wish_from(module.params))
    _decision.require_apart(wish, _survey.names(wish))
    return ConversionTask(module, wish).walk()
