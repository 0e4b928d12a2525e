# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An image as a task wants it: whether there is something to do, and what. What changes one is loaded where one is
changed."""

from __future__ import annotations

import os
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._content.rebase_wish import is_wanted
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan
from ansible_collections.kvmops.disk.plugins.module_utils._provision import change as _change
from ansible_collections.kvmops.disk.plugins.module_utils._provision import survey as _survey
from ansible_collections.kvmops.disk.plugins.module_utils._recovery.noting import recorded
from ansible_collections.kvmops.disk.plugins.module_utils._task.image_task import InPlaceTask

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation
    from ansible_collections.kvmops.disk.plugins.module_utils._provision.survey import Found
    from ansible_collections.kvmops.disk.plugins.module_utils._provision.wish import ImageWish


class Provision(InPlaceTask):
    """A task, or a part of one, that has an image as *wish* says."""

    verb = "reconcile"

    def __init__(self, module: AnsibleModule, wish: ImageWish) -> None:
        super().__init__(module, wish.path, limited=not module.params["trusted"])
        self.wish = wish

    def counted(self) -> t.Iterable[str]:
        return [os.path.dirname(os.path.realpath(self.path))]

    def _plan(self, operation: Operation | None) -> Plan:
        found = _survey.look(self.qemu_img, self.wish)
        self.qemu_img = found.qemu_img
        first = self.settling(found.image.format if found.image else None, operation)
        if not first and self._is_as_wanted(found):
            return Plan({}, {})
        from ansible_collections.kvmops.disk.plugins.module_utils._provision.changing import Changing

        plan = Changing(self, self.wish).plan(found, operation, settles=bool(first))
        return recorded(first, plan, self.path, operation)

    def _is_as_wanted(self, found: Found) -> bool:
        """Whether there is nothing to do. Raises DiskError where something is that cannot be done."""
        return (
            found.image is not None
            and not found.keys
            and not is_wanted(self.wish.rebase_wish, found.image)
            and not _change.change(self.wish, found.image)
        )
