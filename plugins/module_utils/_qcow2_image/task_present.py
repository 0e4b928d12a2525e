# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An image as a task wants it: the walk from parameters to result. What changes one is loaded where one is changed."""

from __future__ import annotations

import os
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._content.rebase_wish import is_wanted
from ansible_collections.kvmops.disk.plugins.module_utils._image import image as _image
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_image import decision as _decision
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_image import survey as _survey
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_image.wish import ImageWish, wish_from
from ansible_collections.kvmops.disk.plugins.module_utils._recovery.noting import recorded
from ansible_collections.kvmops.disk.plugins.module_utils._task import attributes as _attributes
from ansible_collections.kvmops.disk.plugins.module_utils._task.image_task import InPlaceTask

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation
    from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_image.survey import Found


class PresentTask(InPlaceTask):
    """The image is to be there as *wish* says."""

    verb = "reconcile"

    def __init__(self, module: AnsibleModule, wish: ImageWish) -> None:
        super().__init__(module, wish.path, limited=not module.params["trusted"])
        self.wish = wish

    def counted(self) -> t.Iterable[str]:
        return [os.path.dirname(os.path.realpath(self.path))]

    def result(self, plan: Plan) -> dict[str, t.Any]:
        """What the module returns; the file's attributes are the file modules' business, done here at the end."""
        report = plan.full_report()
        if plan:
            self.surroundings.refresh_pools([self.path])
        if not os.path.exists(self.path):
            return {**report, "image": {name: value for name, value in plan.after.items() if name != "state"}}
        _attributes.set_attributes(self.module, self._files(), report)
        image = _image.inspect(self.qemu_img, self.path, self.wish.layout.format)
        return {**report, "image": {**image.facts(), **(plan.after if self.check_mode else {})}}

    def _plan(self, operation: Operation | None) -> Plan:
        found = _survey.look(self.qemu_img, self.wish)
        self.qemu_img = found.qemu_img
        first = self.settling(found.image.format if found.image else None, operation)
        if not first and self._is_as_wanted(found):
            return Plan({}, {})
        from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_image.task_change import Changing

        plan = Changing(self, self.wish).plan(found, operation, settles=bool(first))
        return recorded(first, plan, self.path, operation)

    def _is_as_wanted(self, found: Found) -> bool:
        """Whether there is nothing to do. Raises DiskError where something is that cannot be done."""
        return (
            found.image is not None
            and not found.keys
            and not is_wanted(self.wish.rebase_wish, found.image)
            and not _decision.change(self.wish, found.image)
        )

    def _files(self) -> tuple[str, ...]:
        """The files of the image, as it lies where the path leads."""
        place = os.path.realpath(self.path)
        if self.wish.layout.format != "vmdk":
            return (place,)
        from ansible_collections.kvmops.disk.plugins.module_utils._files.file_set import files

        return files(place)


def run(module: AnsibleModule) -> dict[str, t.Any]:
    """One run of the module with state=present."""
    return PresentTask(module, _survey.fitting(wish_from(module.params))).walk()
