# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which file is meant where a domain's XML names a storage volume."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.connection import Hypervisor
    from ansible_collections.kvmops.disk.plugins.module_utils._xml.disks import DiskElement


def source_path(disk: DiskElement, hypervisor: Hypervisor) -> str | None:
    """The path of a disk's source, a storage volume's looked up; None where it has none, or its pool is away."""
    if disk.type == "volume" and disk.pool and disk.volume:
        try:
            return hypervisor.volume_path(disk.pool, disk.volume)
        except DiskError:
            return None
    return disk.source
