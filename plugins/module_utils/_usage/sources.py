# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which file is meant where a domain's XML names a storage volume, also while libvirt does not know the volume."""

from __future__ import annotations

import os
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.connection import Hypervisor
    from ansible_collections.kvmops.disk.plugins.module_utils._xml.disks import ChainLink, DiskElement

#: The types of pools that have a volume under its name in a directory which their XML names.
_BY_NAME = frozenset({"dir", "fs", "netfs", "vstorage", "logical", "zfs"})
#: Those whose volumes are partitions or whole devices, which their directory may list under other names.
_DEVICES = frozenset({"disk", "iscsi", "scsi", "mpath"})
#: Those that are reached by the network alone: no file of this host is a volume in them.
_ELSEWHERE = frozenset({"rbd", "gluster", "sheepdog", "iscsi-direct"})


@dataclass(frozen=True)
class Source:
    """The *path* of a disk's source; None where it has none, or where *problem* says why that is not known.

    *device*: a source that is not known can only be a block device.
    """

    path: str | None
    problem: str | None = None
    device: bool = False


def source(disk: DiskElement, hypervisor: Hypervisor) -> Source:
    """The source of a disk; that of a storage volume is looked up, be its pool inactive, or not refreshed."""
    if disk.type != "volume" or not disk.pool or not disk.volume:
        return Source(disk.source)
    return _volume(disk.pool, disk.volume, hypervisor)


def source_of_link(link: ChainLink, hypervisor: Hypervisor) -> Source:
    """The source of a backing file that the XML names, in the same way."""
    return Source(link.path) if link.volume is None else _volume(*link.volume, hypervisor)


def _volume(pool: str, volume: str, hypervisor: Hypervisor) -> Source:
    try:
        return Source(hypervisor.volume_path(pool, volume))
    except DiskError as error:
        return _by_definition(pool, volume, hypervisor, str(error))


def _by_definition(pool: str, volume: str, hypervisor: Hypervisor, reason: str) -> Source:
    """The source by what the definition of its *pool* says. *reason*: why libvirt does not know the volume itself."""
    from ansible_collections.kvmops.disk.plugins.module_utils._xml import pools as _pools

    unknown = f"the volume {volume} of the storage pool {pool} cannot be found ({reason})"
    to_do = f"start the pool (virsh pool-start {pool}), or refresh it (virsh pool-refresh {pool})"
    try:
        xml = hypervisor.pool_xml(pool)
    except DiskError:
        return Source(None, f"{unknown}: define and start that pool, or name another source in the domain")
    kind, directory = _pools.kind(xml), _pools.path(xml)
    if kind in _ELSEWHERE:
        return Source(None)
    path = os.path.join(directory, volume) if directory else None
    if path is not None and (kind in _BY_NAME or (kind in _DEVICES and os.path.exists(path))):
        return Source(path)
    return Source(None, f"{unknown}: {to_do}", device=kind in _DEVICES)
