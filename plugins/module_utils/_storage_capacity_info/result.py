# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What storage_capacity_info returns of a file system, or of a pool that is none."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._capacity.promises import Promise
from ansible_collections.kvmops.disk.plugins.module_utils._xml import pools as _pools

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._capacity.file_systems import FileSystem
    from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.connection import Pool

Facts = dict[str, t.Any]


def of_file_system(system: FileSystem, pool_names: t.Mapping[str, str], limit: float) -> Facts:
    """A file system, with the images on it; *pool_names* are those of pools that are directories, by these."""
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


def of_pool(pool: Pool, limit: float) -> Facts:
    """A pool whose volumes are no files: each promises its disk, or what it takes, where that is more."""
    xml = pool.xml()
    sizes = pool.sizes()
    size, used, available = sizes if sizes[0] else (None, None, None)  # some kinds of pools do not tell
    promises = [
        Promise(volume.path, (0, 0), volume.capacity, volume.allocation, _pools.volume_format(volume.xml))
        for volume in sorted(pool.volumes(), key=lambda one: one.path)
    ]
    return {
        "mount": None,
        "device": _pools.path(xml),
        "type": _pools.kind(xml),
        "pools": [pool.name],
        "size": size,
        "used": used,
        "available": available,
        **_promise(sum(promise.promised for promise in promises), size, limit),
        "images": [promise.facts() for promise in promises],
    }


def _promise(promised: int, size: int | None, limit: float) -> Facts:
    """*size* is None where nobody knows it: then nobody knows what is too much, either."""
    return {
        "promised": promised,
        "ratio": round(promised / size, 4) if size else None,
        "limit": limit,
        "over_limit": promised > int(size * limit) if size else None,
    }
