# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One run of vm_linked_clone: which of its three tasks it is."""

from __future__ import annotations

import typing as t

from ansible.module_utils.basic import AnsibleModule


def run(module: AnsibleModule) -> dict[str, t.Any]:
    """Makes clones, removes them, or moves them to another base; what is not asked for is not loaded."""
    if module.params["rebase_to"] is not None:
        from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import task_rebase as _task_rebase

        return _task_rebase.run(module)
    if module.params["state"] == "absent":
        from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import task_absent as _task_absent

        return _task_absent.run(module)
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import task_present as _task_present

    return _task_present.run(module)
