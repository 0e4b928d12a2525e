# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An image as a task wants it: the walk from parameters to result. What changes one is loaded where one is changed."""

from __future__ import annotations

import os
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._image import image as _image
from ansible_collections.kvmops.disk.plugins.module_utils._provision import survey as _survey
from ansible_collections.kvmops.disk.plugins.module_utils._provision.present import Provision
from ansible_collections.kvmops.disk.plugins.module_utils._qemu import door as _door
from ansible_collections.kvmops.disk.plugins.module_utils._task import attributes as _attributes

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan


class PresentTask(Provision):
    """The image is to be there as *wish* says."""

    def result(self, plan: Plan) -> dict[str, t.Any]:
        """What the module returns; the file's attributes are the file modules' business, done here at the end."""
        report = plan.full_report()
        if plan:
            self.surroundings.refresh_pools([self.path])
        made = plan.before.get("state") == "absent"
        _attributes.set_attributes(self.module, self._files(), report, made=made)
        if not os.path.exists(self.path):
            from ansible_collections.kvmops.disk.plugins.module_utils._provision.plan_create import foreseen

            return {**report, "image": foreseen(plan.after, self.wish.layout)}
        image = _image.inspect(self.qemu_img, self.path, self.wish.layout.format)
        return {**report, "image": {**image.facts(), **(plan.after if self.check_mode else {})}}

    def _files(self) -> tuple[str, ...]:
        """The files of the image, as it lies where the path leads."""
        place = os.path.realpath(self.path)
        if self.wish.layout.format != "vmdk":
            return (place,)
        from ansible_collections.kvmops.disk.plugins.module_utils._files.file_set import files

        return files(place)


def run(module: AnsibleModule) -> dict[str, t.Any]:
    """One run of the module with state=present."""
    qemu_img = _door.find(limited=not module.params["trusted"])
    return PresentTask(module, _survey.fitting(_survey.wished(qemu_img, module.params))).walk()
