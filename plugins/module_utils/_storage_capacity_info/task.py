# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What file systems and pools hold and promise: the walk of storage_capacity_info from its parameters to its result."""

from __future__ import annotations

import os
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._capacity import space as _space
from ansible_collections.kvmops.disk.plugins.module_utils._capacity.promises import Promise
from ansible_collections.kvmops.disk.plugins.module_utils._capacity.space import FileSystem
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.connection import Hypervisor, Pool
from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg
from ansible_collections.kvmops.disk.plugins.module_utils._storage_capacity_info.wish import Wish
from ansible_collections.kvmops.disk.plugins.module_utils._task import arguments as _arguments
from ansible_collections.kvmops.disk.plugins.module_utils._task.hypervisor import hypervisor_if_any
from ansible_collections.kvmops.disk.plugins.module_utils._usage import dependents as _dependents
from ansible_collections.kvmops.disk.plugins.module_utils._usage import users as _users
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disks as _disks

Facts = dict[str, t.Any]


def run(module: AnsibleModule) -> Facts:
    """One run of the module."""
    params = module.params
    _arguments.require_ratio(params["limit"], "limit")
    everything = params["libvirt"]
    if everything is None:
        everything = not params["paths"] and params["pools"] is None
    wish = Wish()
    for path in params["paths"]:
        wish.add_path(path, recurse=params["recurse"])
    ask = Hypervisor.connect if everything or params["pools"] else hypervisor_if_any
    hypervisor = ask(params["uri"])
    users = _users.domain_users(hypervisor) if hypervisor else []
    if hypervisor:
        for name in params["pools"] or ():
            wish.add_pool(hypervisor.pool(name), named=True)
        for pool in hypervisor.pools() if everything else ():
            if pool.name not in (params["pools"] or ()):
                wish.add_pool(pool, named=False)
    if everything:
        wish.places += sorted(
            {os.path.dirname(os.path.realpath(one.path)) for one in users if os.path.isfile(one.path)}
        )
    directories = _dependents.directories_to_search(wish.places, wish.below, hypervisor)
    systems = _space.file_systems(wish.places, directories, users, QemuImg.find().limiting())
    found = [_file_system(system, wish.pool_names, params["limit"]) for system in systems]
    found += [_pool(pool, params["limit"]) for pool in wish.pools]
    return {
        "changed": False,
        "filesystems": sorted(found, key=lambda one: (one["mount"] is None, one["mount"], one["pools"])),
        "failures": [{"path": path, "msg": reason} for path, reason in wish.failures],
    }


def _file_system(system: FileSystem, pool_names: t.Mapping[str, str], limit: float) -> Facts:
    mount = system.mount
    return {
        "mount": mount.point if mount else system.directories[0],
        "device": mount.device if mount else None,
        "type": mount.type if mount else None,
        "pools": sorted(pool_names[place] for place in system.directories if place in pool_names),
        "size": system.size,
        "used": system.used,
        "available": system.available,
        **_promise(system.promised, system.size, limit),
        "images": [promise.facts() for promise in system.promises],
    }


def _pool(pool: Pool, limit: float) -> Facts:
    """A pool whose volumes are no files: each promises its disk, or what it takes, where that is more."""
    xml = pool.xml()
    size, used, available = pool.sizes()
    promises = [
        Promise(volume.path, (0, 0), volume.capacity, volume.allocation, _disks.volume_format(volume.xml))
        for volume in sorted(pool.volumes(), key=lambda one: one.path)
    ]
    return {
        "mount": None,
        "device": _disks.pool_path(xml),
        "type": _disks.pool_type(xml),
        "pools": [pool.name],
        "size": size,
        "used": used,
        "available": available,
        **_promise(sum(promise.promised for promise in promises), size, limit),
        "images": [promise.facts() for promise in promises],
    }


def _promise(promised: int, size: int, limit: float) -> Facts:
    return {
        "promised": promised,
        "ratio": round(promised / size, 4) if size else 0.0,
        "limit": limit,
        "over_limit": promised > int(size * limit),
    }
