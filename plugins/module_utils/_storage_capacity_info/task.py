# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What file systems and pools hold and promise: the walk of storage_capacity_info from its parameters to its result."""

from __future__ import annotations

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._capacity import file_systems as _file_systems
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.connection import Hypervisor
from ansible_collections.kvmops.disk.plugins.module_utils._qemu import door as _door
from ansible_collections.kvmops.disk.plugins.module_utils._storage_capacity_info import result as _result
from ansible_collections.kvmops.disk.plugins.module_utils._storage_capacity_info import survey as _survey
from ansible_collections.kvmops.disk.plugins.module_utils._storage_capacity_info.wish import wish_from
from ansible_collections.kvmops.disk.plugins.module_utils._task.hypervisor import hypervisor_if_any
from ansible_collections.kvmops.disk.plugins.module_utils._usage import dependents as _dependents
from ansible_collections.kvmops.disk.plugins.module_utils._usage import users as _users


def run(module: AnsibleModule) -> _result.Facts:
    """One run of the module."""
    wish = wish_from(module.params)
    connect = Hypervisor.connect if wish.needs_libvirt else hypervisor_if_any
    hypervisor = connect(module.params["uri"])
    users = _users.domain_users(hypervisor) if hypervisor else []
    found = _survey.places(wish, hypervisor, users)
    directories = _dependents.directories_to_search(found.places, found.below, hypervisor)
    systems = _file_systems.file_systems(found.places, directories, users, _door.find())
    facts = [
        *(_result.of_file_system(system, found.pool_names, wish.limit) for system in systems),
        *(_result.of_pool(pool, wish.limit) for pool in found.pools),
    ]
    return {
        "changed": False,
        "filesystems": sorted(facts, key=lambda one: (one["mount"] is None, one["mount"], one["pools"])),
        "failures": [{"path": path, "msg": reason} for path, reason in found.failures],
    }
