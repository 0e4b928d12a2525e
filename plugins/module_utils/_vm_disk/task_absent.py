# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A disk that is not to be there any more: let go by the guest, taken out of the definition, its image removed."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._files import beside as _beside
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan
from ansible_collections.kvmops.disk.plugins.module_utils._provision.plan_remove import plan_remove
from ansible_collections.kvmops.disk.plugins.module_utils._provision.standing import standing
from ansible_collections.kvmops.disk.plugins.module_utils._recovery.noting import recorded
from ansible_collections.kvmops.disk.plugins.module_utils._recovery.settle import IN_PLACE, interrupted
from ansible_collections.kvmops.disk.plugins.module_utils._task import attributes as _attributes
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
    from ansible_collections.kvmops.disk.plugins.module_utils._plan import Step
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
        whose = _attributes.whose(spot.path if images else None)
        return _result.facts(self.state.name, spot, images, whose=whose, attached=attached, pending=pending)

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
        noted = path is not None and not self._is_only_read(found)
        first = self._settling(str(path), found, operation) if noted else ()
        self.paths = (str(path),) if noted and (plan or first) else ()
        if self.paths:
            guard_paths(self.paths, self.around.module)
            return recorded(first, plan, str(path), operation, noted=False)
        return plan

    def _is_only_read(self, found: DomainDisk | None) -> bool:
        """Whether the image may lie where nothing can be noted beside it."""
        if found is None:
            return self.wish.device == "cdrom"
        return found.element.device != "disk" or found.element.readonly

    def _settling(self, path: str, found: DomainDisk | None, operation: Operation | None) -> tuple[Step, ...]:
        """What a run that died on the image left. What may have changed it is checked, unless a guest has it open, or
        it goes; where nobody says its format, that is left to whoever uses it next."""
        if not _beside.has_traces(path) and (operation is None or operation.left_behind(path) is None):
            return ()
        unchecked = self.wish.remove_image or (found is not None and found.live is not None)
        image_format = None if unchecked else found.format if found is not None else self.wish.format
        left = operation.left_behind(path) if operation is not None else _beside.look(path)
        if image_format is None and not unchecked and (left or {}).get("verb") in IN_PLACE:
            return ()
        return interrupted(path, image_format, operation, holding(self.around.qemu_img, operation))

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
