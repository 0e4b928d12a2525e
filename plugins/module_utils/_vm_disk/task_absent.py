# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A disk that is not to be there any more: let go by the guest, taken out of the definition, its image removed."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan
from ansible_collections.kvmops.disk.plugins.module_utils._provision.plan_remove import plan_remove
from ansible_collections.kvmops.disk.plugins.module_utils._provision.standing import standing
from ansible_collections.kvmops.disk.plugins.module_utils._recovery.noting import recorded
from ansible_collections.kvmops.disk.plugins.module_utils._recovery.settle import interrupted
from ansible_collections.kvmops.disk.plugins.module_utils._task.places import guard_paths
from ansible_collections.kvmops.disk.plugins.module_utils._task.task import holding
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk import decision as _decision
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk import decision_absent as _decision_absent
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk import decision_obstacles as _obstacles
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk import decision_present as _decision_present
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk import result as _result
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk import survey as _survey
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk.decision import Spot
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk.task_disk import Disk

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainDisk
    from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation
    from ansible_collections.kvmops.disk.plugins.module_utils._usage.users import Claim


class AbsentDisk(Disk):
    """A disk that a domain is to have no more."""

    found: DomainDisk | None = None

    def facts(self, plan: Plan) -> dict[str, t.Any]:
        before = self.found
        if plan and not self.around.module.check_mode:
            self._observe()
        spot = self._spot(before)
        found = next((disk for disk in self.state.disks if disk.target == spot.target), None)
        is_forecast = bool(plan) and self.around.module.check_mode
        attached = found is not None and self.state.has(found) and not (is_forecast and self.wish.live)
        pending = _decision_present.pending(self.state, found) if found is not None and attached else []
        if is_forecast and attached and self.state.active:
            pending = ["detached"]
        kept = before is not None and not (is_forecast and self.wish.remove_image)
        images = self._images(spot.path, spot.format, spot.device) if kept else ()
        return _result.facts(self.state.name, spot, images, attached=attached, pending=pending)

    def _spot(self, found: DomainDisk | None) -> Spot:
        """What is known of the disk, which may be gone for long."""
        if found is None:
            return Spot(
                self.wish.disk or "", "", self.wish.device or "disk", self.look.path, self.wish.format or "qcow2"
            )
        return Spot(found.target, found.element.bus or "", found.element.device, found.path, found.format, found)

    def _plan(self, operation: Operation | None) -> Plan:
        wish = self.wish
        found = _decision.leaving(wish, self.look.seen(()))
        if found is not None and found.defined is None and not wish.live:
            found = None  # it goes with the machine anyway
        self.found = found
        path = found.path if found is not None else self.look.path
        if found is not None:
            self._require_leavable(found)
        removal = self._removal(str(path), found) if wish.remove_image and path else Plan({}, {})
        plan = _decision_absent.plan_detachment(
            self.state, found, wish, removal, self._work(operation, found.target if found else "", path)
        )
        is_drive = found is not None and found.element.device != "disk"
        readonly = found is not None and found.element.readonly
        self.paths = (path,) if path and plan and not is_drive and not readonly else ()
        if plan:
            guard_paths(self.paths, self.around.module)
        if not self.paths:
            return plan
        qemu_img = holding(self.around.qemu_img, operation)
        first = interrupted(str(path), None, operation, qemu_img) if operation is not None else ()
        return recorded(first, plan, str(path), operation, noted=False)

    def _require_leavable(self, found: DomainDisk) -> None:
        """Raises DiskError where something still needs the disk."""
        state, wish = self.state, self.wish
        snapshots = _survey.snapshots_with(self.domain, state, found.target)
        _obstacles.require_leavable(state, found, wish, snapshots)
        self._require_changeable(found)
        mounted: list[str] = []
        asked = wish.live and found.live is not None and found.element.device == "disk" and not wish.force
        if asked and self.look.now.agent:
            mounted = _survey.mounts(self.domain, found.target)
        _obstacles.require_unneeded(state, found, self.look.defined, mounted, wish)

    def _removal(self, path: str, found: DomainDisk | None) -> Plan:
        """What removes the image, which nothing else has, as qcow2_image does."""
        from ansible_collections.kvmops.disk.plugins.module_utils._files import file_set as _file_set
        from ansible_collections.kvmops.disk.plugins.module_utils._usage import unused as _unused

        def is_other(claim: Claim) -> bool:
            own = found is not None and (claim.uuid, claim.target) == (self.state.uuid, found.target)
            return not own

        def remove() -> None:
            _unused.require_unused(path, (), "remove it")
            _file_set.remove(path)

        plan = plan_remove(path, standing(path), remove)
        if plan:
            around = self.around.surroundings
            around.require_unused(path, "remove it", is_other, locks=found is None or found.live is None)
            around.require_no_dependents(path, "remove it", "set remove_image=false to keep it")
        return plan
