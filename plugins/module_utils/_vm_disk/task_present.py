# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A disk that is to be there: made, attached, and used as a task wants it."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import replace
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan, Step
from ansible_collections.kvmops.disk.plugins.module_utils._provision import survey as _image_survey
from ansible_collections.kvmops.disk.plugins.module_utils._provision.change import change
from ansible_collections.kvmops.disk.plugins.module_utils._task import attributes as _attributes
from ansible_collections.kvmops.disk.plugins.module_utils._task.places import guard_paths
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk import decision as _decision
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk import decision_obstacles as _obstacles
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk import decision_present as _decision_present
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk import result as _result
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk import survey as _survey
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk import survey_users as _survey_users
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk.task_disk import Claim, Disk
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk.task_image import DiskImage
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk.wish import IMAGE_OPTIONS, image_params

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainDisk
    from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation
    from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
    from ansible_collections.kvmops.disk.plugins.module_utils._provision.wish import ImageWish
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk.decision import Spot
    from ansible_collections.kvmops.disk.plugins.module_utils._xml.tuning import Tuning

_NOTHING = Plan({}, {})


class PresentDisk(Disk):
    """A disk that a domain is to have."""

    spot: Spot
    _size: int | None = None

    def facts(self, plan: Plan) -> dict[str, t.Any]:
        state, is_forecast = self.state, bool(plan) and self.around.module.check_mode
        if plan and not is_forecast:
            self._observe()
            state = self.state
        found = next((disk for disk in state.disks if disk.target == self.spot.target), None)
        images = self._images(self.spot.path, self.spot.format, self.spot.device)
        pending = _decision_present.pending(state, found) if found is not None else []
        if is_forecast:
            pending = _decision_present.pending_then(state, self.wish, self.spot)
        attached = (state.has(found) if found is not None else False) or (is_forecast and self._comes_now)
        size = self._size if is_forecast else None
        whose = _attributes.whose(self.spot.path if images else None)
        return _result.facts(state.name, self.spot, images, whose=whose, attached=attached, pending=pending, size=size)

    @property
    def _comes_now(self) -> bool:
        return self.wish.live or not self.state.active

    def _plan(self, operation: Operation | None) -> Plan:
        others = self.around.claims_of_others(self.uuid, self)
        self.spot = spot = _decision.locate(self.wish, self.look.seen([claim.target for claim in others]))
        self.paths, self._size = (), None
        tuning = _decision_present.tuning_after(self.state, self.wish, spot)
        _obstacles.require_tunable(self.state, spot, self.look.defined, tuning, self.wish.tuning)
        if spot.found is None:
            plan = self._attachment(spot, tuning, operation)
        else:
            plan = self._change(spot, spot.found, tuning, operation)
        if plan:
            self._require_changeable(spot.found)
            guard_paths(self.paths, self.around.module)
        return plan

    def _attachment(self, spot: Spot, tuning: Tuning, operation: Operation | None) -> Plan:
        controller = _decision_present.missing_controller(spot, self.look.defined)
        others = self.around.claims_of_others(self.uuid, self) if operation is None else []
        if controller in [claim.controller for claim in others]:
            controller = None  # a disk before it brings that
        port = spot.bus == "virtio" or controller is not None
        self.around.claim(self.uuid, self, Claim(spot.target, port, controller))
        self._require_pluggable(spot, operation, port=port)
        image = _NOTHING
        if spot.is_drive:
            self._require_medium(spot, tuning)
        else:
            image = self._known_to_pools(self._new_image(spot, tuning, operation), spot)
        work = self._work(operation, spot.target, spot.path or None)
        return _decision_present.plan_attachment(self.state, self.wish, spot, image, controller, work)

    def _change(self, spot: Spot, found: DomainDisk, tuning: Tuning, operation: Operation | None) -> Plan:
        comes = found.live is None and self.state.active and self.wish.live
        image, growth = _NOTHING, None
        if spot.is_drive:
            if spot.path and spot.path != found.path:
                self._require_medium(spot, tuning)
        elif spot.path:
            if comes:
                self._require_pluggable(spot, operation, port=spot.bus == "virtio")
                self._require_free(spot, tuning)
            image, growth = self._known_image(spot, found, tuning, operation)
        work = self._work(operation, spot.target, found.path)
        plan = _decision_present.plan_change(self.state, self.wish, spot, image, growth, work)
        if spot.path and not spot.is_drive and (comes or image or growth or found.defined is None):
            self.paths = (spot.path,)
        return plan

    def _require_pluggable(self, spot: Spot, operation: Operation | None, *, port: bool) -> None:
        """Raises DiskError where the running machine cannot take the disk; those before it are there by now, where
        *operation* holds the record."""
        if not (self.state.active and self.wish.live):
            return
        _obstacles.require_pluggable(self.state, spot.target, spot.bus, to_do="attach")
        if port:
            others = self.around.claims_of_others(self.uuid, self) if operation is None else []
            taken = sum(claim.port for claim in others)
            _obstacles.require_port(self.state, spot.target, self.look.now, taken)

    def _require_medium(self, spot: Spot, tuning: Tuning) -> None:
        if spot.path:
            _survey.require_medium(spot.path)
            _survey.image(self.around.qemu_img, spot.path, spot.format)
            self._require_free(spot, tuning)

    def _require_free(self, spot: Spot, tuning: Tuning) -> None:
        own = _survey_users.sharing(tuning, spot.device)
        _survey_users.require_nobody_elses(self.around.surroundings, self.state, str(spot.path), own)

    def _new_image(self, spot: Spot, tuning: Tuning, operation: Operation | None) -> Plan:
        """What is done to the image of a disk that the domain does not have: one that is there already belongs to it
        alone, and is what the task says."""
        path = str(spot.path)
        wanted = self._wanted(path, spot.format)
        there = _survey.image(self.around.qemu_img, path, spot.format)
        if there is not None:
            _decision_present.require_matching(there, wanted)
            self._require_free(spot, tuning)
            self._require_sound(spot)
        encrypted = there.encrypted if there is not None else wanted.encryption is not None
        self._require_secret(spot, encrypted=encrypted)
        if there is None or not tuning.readonly:  # what is only read may lie where nothing can be noted
            self.paths = (path,)
        return self._provided(wanted, there, spot, tuning, operation)

    def _known_to_pools(self, image: Plan, spot: Spot) -> Plan:
        """*image*, which libvirt has to find in its pool before a domain can have it by that."""
        if not image or self.wish.volume is None:
            return image
        found = Step("", lambda: self.around.refresh_pools([str(spot.path)]))
        return replace(image, steps=(*image.steps, found))

    def _known_image(
        self, spot: Spot, found: DomainDisk, tuning: Tuning, operation: Operation | None
    ) -> tuple[Plan, tuple[int, int] | None]:
        """What is done to the image of a disk that the domain has, and how it grows below its guest."""
        path = str(spot.path)
        wanted = self._wanted(path, spot.format)
        there = _survey.image(self.around.qemu_img, path, spot.format)
        if there is not None:
            _decision_present.require_matching(there, wanted)
        if found.live is None or there is None:
            return self._provided(wanted, there, spot, tuning, operation), None
        image = self._image(wanted)
        wanted_change = change(wanted, there) if self._says_more else None
        size = wanted_change.size if wanted_change is not None else None
        if size is not None:
            self._size = size
            image.require_growth(size)
        return image.settled(operation), (there.virtual_size, size) if size is not None else None

    def _wanted(self, path: str, image_format: str) -> ImageWish:
        """The image that the task wants. Raises InvalidRequest where there is no such."""
        params = image_params(self.wish, path, image_format, self.around.module.params)
        return _image_survey.wished(self.around.qemu_img, params)

    @property
    def _says_more(self) -> bool:
        """Whether the task says more of the image than where it is and how it is read."""
        return any(self.wish.image[name] is not None for name in IMAGE_OPTIONS)

    def _provided(
        self, wanted: ImageWish, there: Image | None, spot: Spot, tuning: Tuning, operation: Operation | None
    ) -> Plan:
        """What has the image as it is *wanted*, while no guest has it open."""
        image = self._image(wanted)
        plan = image.provided(operation)
        self._size = plan.after.get("virtual_size", there.virtual_size if there is not None else None)
        if self._size is not None:
            _survey_users.require_fitting(self.state, spot, self._size, tuning.cache)
        return plan

    def _image(self, wanted: ImageWish) -> DiskImage:
        around = self.around
        return DiskImage(around.module, wanted, lambda: around.surroundings, around.hypervisor.qemu_user)

    def _require_sound(self, spot: Spot) -> None:
        trusted, below = self.around.module.params["trusted"], self.wish.image["backing_file"]
        _survey_users.require_sound(
            self.around.qemu_img, str(spot.path), spot.format, trusted=trusted, backing_file=below
        )

    def _require_secret(self, spot: Spot, *, encrypted: bool) -> None:
        what, secret = f"{self.state.name}: {spot.target}", self.wish.secret
        _obstacles.require_encryption_known(what, str(spot.path), secret, encrypted=encrypted)
        if secret is not None and self.around.hypervisor.lack("secret", secret):
            raise DiskError(f"{what}: libvirt has no secret {secret}: define it first (virsh secret-define)")
