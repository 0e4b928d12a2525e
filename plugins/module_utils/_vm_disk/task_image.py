# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The image of a disk, as qcow2_image has it: made, grown, and given to whom QEMU runs as."""

from __future__ import annotations

import os
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan
from ansible_collections.kvmops.disk.plugins.module_utils._provision.present import Provision
from ansible_collections.kvmops.disk.plugins.module_utils._recovery.noting import recorded

if t.TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule
    from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation
    from ansible_collections.kvmops.disk.plugins.module_utils._provision.wish import ImageWish
    from ansible_collections.kvmops.disk.plugins.module_utils._task.surroundings import Surroundings


class DiskImage(Provision):
    """The image of a disk. *around* looks at who else has images; *user* tells as whom
    libvirt runs QEMU: a new image is theirs, unless the task says else."""

    def __init__(
        self,
        module: AnsibleModule,
        wish: ImageWish,
        around: t.Callable[[], Surroundings],
        user: t.Callable[[], tuple[int, int] | None],
    ) -> None:
        super().__init__(module, wish)
        self._around = around
        self._user = user

    @property
    def surroundings(self) -> Surroundings:
        """Those of the whole task."""
        return self._around()

    def provided(self, operation: Operation | None) -> Plan:
        """What has the image as it is wanted, while no guest has it open."""
        return self._plan(operation)

    def settled(self, operation: Operation | None) -> Plan:
        """What forgets a run that died on the image, which a guest has open: QEMU has found it in order."""
        return recorded(self.settling(None, operation), Plan({}, {}), self.path, operation)

    def require_growth(self, size: int) -> None:
        """Raises DiskError where the image must not get *size* bytes while a guest has it open."""
        from ansible_collections.kvmops.disk.plugins.module_utils._capacity.space import NewImage

        self.require_no_dependents("grow it")
        self.surroundings.require_promises([NewImage(self.path, size)], self.wish.max_overcommit, self.qemu_img)

    def require_no_dependents(self, to_do: str) -> None:
        """Raises HasDependents where overlays read what is to be written."""
        self.surroundings.require_no_dependents(self.path, to_do, "leave it as it is")

    def dress(self, path: str) -> None:
        """QEMU's user may open it even where libvirt does not see to that (dynamic_ownership=0)."""
        owner = self._user() if os.geteuid() == 0 else None
        if owner is not None:
            os.chown(path, *owner)
            os.chmod(path, 0o600)
        super().dress(path)

    def result(self, plan: Plan) -> dict[str, t.Any]:
        """What becomes of the image."""
        return plan.full_report()
