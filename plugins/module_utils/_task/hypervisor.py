# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The hypervisor of a task, where there is one."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.connection import Hypervisor


def hypervisor_if_any(uri: str) -> Hypervisor | None:
    """The hypervisor at *uri*, for an image module that asks who uses an image; None where there is no libvirt.

    Such a module works on hosts without libvirt; QEMU's own locks protect a running guest's image there.
    """
    from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.connection import Hypervisor
    from ansible_collections.kvmops.disk.plugins.module_utils._xml.document import require_lxml

    try:
        require_lxml()
        return Hypervisor.connect(uri)
    except DiskError:
        return None


def refresh_pools(hypervisor: Hypervisor | None, directories: t.Iterable[str]) -> None:
    """Lets the pools of *directories* see what came or went. A pool that cannot be refreshed is no reason to fail."""
    if hypervisor is None:
        return
    from ansible_collections.kvmops.disk.plugins.module_utils._xml.disks import pool_path

    wanted = set(directories)
    try:
        for pool in hypervisor.pools():
            if pool_path(pool.xml()) in wanted:
                pool.refresh()
    except DiskError:
        return
