# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What file systems and pools hold and promise: the walk of storage_capacity_info from its parameters to its result."""

from __future__ import annotations

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._capacity import file_systems as _file_systems
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.connection import Hypervisor
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.places import SYSTEM
from ansible_collections.kvmops.disk.plugins.module_utils._qemu import door as _door
from ansible_collections.kvmops.disk.plugins.module_utils._storage_capacity_info import result as _result
from ansible_collections.kvmops.disk.plugins.module_utils._storage_capacity_info import survey as _survey
from ansible_collections.kvmops.disk.plugins.module_utils._storage_capacity_info.wish import CapacityWish, wish_from
from ansible_collections.kvmops.disk.plugins.module_utils._task.surroundings import Surroundings
from ansible_collections.kvmops.disk.plugins.module_utils._usage import dependents as _dependents


def run(module: AnsibleModule) -> _result.Facts:
    """One run of the module."""
    wish = wish_from(module.params)
    around = _surroundings(module, wish)
    found = _survey.places(wish, around.libvirts.own, around.users)
    directories = _dependents.directories_to_search(found.places, found.below, around.libvirts.own)
    systems = _file_systems.file_systems(found.places, directories, around.users, _door.find())
    facts = [
        *(_result.of_file_system(system, found.pool_names, wish.limit) for system in systems),
        *(_result.of_pool(pool, wish.limit) for pool in found.pools),
    ]
    return {
        "changed": False,
        "filesystems": sorted(facts, key=lambda one: (one["mount"] is None, one["mount"], one["pools"])),
        "failures": [{"path": path, "msg": reason} for path, reason in found.failures],
    }


def _surroundings(module: AnsibleModule, wish: CapacityWish) -> Surroundings:
    """The libvirts of this host; one of them has to answer where the task asks for what libvirt alone knows."""
    uri = module.params["uri"]
    if wish.needs_libvirt:
        return Surroundings.of(Hypervisor.connect(uri or SYSTEM), warn=module.warn)
    return Surroundings.at(uri, warn=module.warn)
