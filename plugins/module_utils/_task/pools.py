# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""libvirt's storage pools see what came or went in their directories, and stay as they are."""

from __future__ import annotations

import os
import re
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError
from ansible_collections.kvmops.disk.plugins.module_utils._xml import pools as _xml

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.connection import Hypervisor, Pool


def refresh(hypervisors: t.Iterable[Hypervisor], directories: t.Iterable[str], warn: t.Callable[[str], None]) -> None:
    """Refreshes the active pools of *directories*. One that cannot be is no reason to fail: *warn* is told."""
    wanted = {os.path.realpath(directory) for directory in directories}
    for hypervisor in hypervisors:
        try:
            for pool in hypervisor.pools():
                xml = pool.xml()
                path = _xml.path(xml)
                if path and os.path.realpath(path) in wanted and not _xml.is_trial(pool.name):
                    _refresh(hypervisor, pool, xml, warn)
        except DiskError as error:
            warn(f"the storage pools of {hypervisor.uri} do not know yet what came or went, because {error}")


def _refresh(hypervisor: Hypervisor, pool: Pool, xml: str, warn: t.Callable[[str], None]) -> None:
    """Refreshes *pool*, if libvirt can read what is in it.

    libvirt stops a pool whose refresh fails, and cannot start it again for the same reason: domains with volumes in it
    could not start any more. So it reads the directory as another pool first, which nobody misses.
    """
    try:
        if _xml.kind(xml) in _xml.OF_FILES:
            hypervisor.try_pool(_xml.trial(xml))
        pool.refresh()
    except DiskError as error:
        warn(_told(pool, error, active=_is_brought_back(pool)))


def _is_brought_back(pool: Pool) -> bool:
    """Whether *pool* is active, if need be by a new start."""
    try:
        if not pool.is_active():
            pool.start()
    except DiskError:
        return False
    return True


def _told(pool: Pool, error: DiskError, *, active: bool) -> str:
    state = (
        "it stays active, and does not know yet what came or went"
        if active
        else "it is inactive now, and domains with volumes in it cannot start"
    )
    then = f"virsh pool-refresh {pool.name}" if active else f"virsh pool-start {pool.name}"
    reason = re.sub(r"(/\.)+/", "/", str(error))  # without the spelling of the trial
    return (
        f"the storage pool {pool.name} could not be refreshed: {state}: mend what libvirt names, then {then}: {reason}"
    )
