# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What each worker on a domain's disks holds, and may have to do, whatever its operation is."""

from __future__ import annotations

import typing as t
from contextlib import AbstractContextManager

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._errors import ImageInUse, LibvirtFailed
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disk_changes as _disk_changes

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.acting import ActingDomain
    from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.connection import Hypervisor
    from ansible_collections.kvmops.disk.plugins.module_utils._progress import Phase, Progress
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg
    from ansible_collections.kvmops.disk.plugins.module_utils._recovery.records import Records


@dataclass
class DomainWork:
    """One method for each step, no decisions between them. *qemu_img* keeps the locks of the operation as it works, and
    *warn* tells a person."""

    hypervisor: Hypervisor
    domain: ActingDomain
    qemu_img: QemuImg
    records: Records
    progress: Progress
    warn: t.Callable[[str], None]

    def phase(self, target: str, verb: str, total: int) -> AbstractContextManager[Phase]:
        """The progress of a step on a disk; *total* is in bytes."""
        return self.progress.phase(f"{self.domain.name} {target}", verb, total)

    def require_off(self) -> None:
        """Raises ImageInUse where somebody has started the domain."""
        if self.domain.is_active():
            raise ImageInUse(
                f"{self.domain.name}: was started in the meantime: nothing was changed: run again",
                in_use_by=[],
            )

    def define(self, wanted: str, then: str = "") -> None:
        """Defines the domain as *wanted*. Raises LibvirtFailed where libvirt makes something else of that; *then* says
        what was done about it."""
        self.hypervisor.define(wanted)
        difference = _disk_changes.unexpected_difference(wanted, self.domain.xml(inactive=True))
        if difference:
            lines = " | ".join(difference.splitlines())
            raise LibvirtFailed(f"{self.domain.name}: libvirt made something else of the definition{then}: {lines}")
