# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""No image: the walk from the parameters to the result."""

from __future__ import annotations

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._files import file_set as _file_set
from ansible_collections.kvmops.disk.plugins.module_utils._provision import standing as _standing
from ansible_collections.kvmops.disk.plugins.module_utils._provision.plan_remove import plan_remove
from ansible_collections.kvmops.disk.plugins.module_utils._provision.wish import RemovalWish, removal_from
from ansible_collections.kvmops.disk.plugins.module_utils._recovery.noting import recorded
from ansible_collections.kvmops.disk.plugins.module_utils._task.image_task import InPlaceTask
from ansible_collections.kvmops.disk.plugins.module_utils._usage.counting import anybody, running

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation
    from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan


class AbsentTask(InPlaceTask):
    """The image is not to be there."""

    verb = "remove"

    def __init__(self, module: AnsibleModule, wish: RemovalWish) -> None:
        super().__init__(module, wish.path)
        self.wish = wish

    def result(self, plan: Plan) -> dict[str, t.Any]:
        if plan:
            self.surroundings.refresh_pools([self.path])
        return {**plan.full_report(), "image": {}}

    def _plan(self, operation: Operation | None) -> Plan:
        first = self.settling(None, operation)
        plan = plan_remove(self.path, _standing.standing(self.path), lambda: _file_set.remove(self.path))
        if plan:
            self.surroundings.require_unused(self.path, "remove it", running if self.wish.force else anybody)
            self.require_no_dependents("remove it")
        return recorded(first, plan, self.path, operation, noted=False)


def run(module: AnsibleModule) -> dict[str, t.Any]:
    """One run of the module with state=absent."""
    return AbsentTask(module, removal_from(module.params)).walk()
