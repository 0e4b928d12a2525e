# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An image as a task wants it: the walk from parameters to result. What only a change needs is loaded for one."""

from __future__ import annotations

import functools
import os
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._content import rebase as _rebase
from ansible_collections.kvmops.disk.plugins.module_utils._content.rebase import Rebase
from ansible_collections.kvmops.disk.plugins.module_utils._files import file_set as _file_set
from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation
from ansible_collections.kvmops.disk.plugins.module_utils._image import image as _image
from ansible_collections.kvmops.disk.plugins.module_utils._image.encryption import Key, KeyChanges, keys_to_add
from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
from ansible_collections.kvmops.disk.plugins.module_utils._image.key_slots import plan_keys
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_image import decision as _decision
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_image import survey as _survey
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_image.decision import Change
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_image.wish import ImageWish, wish_from
from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg
from ansible_collections.kvmops.disk.plugins.module_utils._recovery.settle import recorded
from ansible_collections.kvmops.disk.plugins.module_utils._task import attributes as _attributes
from ansible_collections.kvmops.disk.plugins.module_utils._task.image_task import InPlaceTask
from ansible_collections.kvmops.disk.plugins.module_utils._task.surroundings import running

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_image.work import Work


class PresentTask(InPlaceTask):
    """The image is to be there as *wish* says."""

    verb = "reconcile"

    def __init__(self, module: AnsibleModule, wish: ImageWish) -> None:
        super().__init__(module, wish.path, limited=False)
        self.wish = wish

    def counted(self) -> t.Iterable[str]:
        return [os.path.dirname(os.path.realpath(self.path))]

    def result(self, plan: Plan) -> dict[str, t.Any]:
        """What the module returns; the file's attributes are the file modules' business, done here at the end."""
        report = plan.full_report()
        if plan:
            self.surroundings.refresh_pools([self.path])
        if not os.path.exists(self.path):
            return {**report, "image": {name: value for name, value in plan.after.items() if name != "state"}}
        _attributes.set_attributes(self.module, _file_set.files(os.path.realpath(self.path)), report)
        image = _image.inspect(self.qemu_img, self.path, self.wish.layout.format)
        return {**report, "image": {**image.facts(), **(plan.after if self.check_mode else {})}}

    def _plan(self, operation: Operation | None) -> Plan:
        found = _survey.look(self.qemu_img, self.wish)
        image, self.qemu_img = found.image, found.qemu_img
        first = self.settling(image.format if image else None, operation)
        plan = self._change(image, found.keys, operation) if image else self._creation(operation)
        if image and (first or plan) and not _rebase.is_wanted(self.wish.rebase_wish, image):
            _decision.require_no_cut(self.wish, image, _image.chain(self.qemu_img, image)[1:])
        return recorded(first, plan, self.path, operation)

    def _creation(self, operation: Operation | None) -> Plan:
        from ansible_collections.kvmops.disk.plugins.module_utils._capacity import space as _space
        from ansible_collections.kvmops.disk.plugins.module_utils._files import staging as _staging
        from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_image import survey_chain as _survey_chain

        wish = self.wish
        _staging.require_directory(self.path, "path")
        below = _survey_chain.wanted_below(self.qemu_img, wish, "make an overlay of it")
        base = below[0] if below else None
        size = _decision.new_size(wish, base)
        _space.require_space([(self.path, _survey_chain.bytes_to_create(self.qemu_img, wish, size))])
        self._require_promise(size, wish.backing_file)
        encryption = wish.encryption
        keys = keys_to_add(self.path, encryption, (encryption.secret,), (0,)) if encryption else ()
        return _decision.plan_create(wish, base, self._work(self.holding(operation), keys))

    def _change(self, image: Image, changes: KeyChanges | None, operation: Operation | None) -> Plan:
        rebase = self._wanted_rebase(image)
        wanted = _decision.change(self.wish, image)
        if not (rebase or changes or wanted):
            return Plan({}, {})
        self._require_whole(image, rebase)
        plan = self._planned(wanted, changes, rebase, operation)
        self.surroundings.require_unused(self.path, "change it", running)
        self.require_no_dependents("change it")
        self._require_room(wanted, rebase)
        return plan

    def _require_whole(self, image: Image, rebase: Rebase | None) -> None:
        """Raises UnsafeImage where something that the image holds, or reads, was cut off."""
        from ansible_collections.kvmops.disk.plugins.module_utils._image.whole import require_whole
        from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_image import survey_chain as _survey_chain

        require_whole(_survey_chain.read_by(self.qemu_img, image, rebase))

    def _wanted_rebase(self, image: Image) -> Rebase | None:
        if not _rebase.is_wanted(self.wish.rebase_wish, image):
            return None
        from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_image import survey_chain as _survey_chain

        return _survey_chain.wanted_rebase(self.qemu_img, self.wish, image)

    def _planned(
        self, wanted: Change, changes: KeyChanges | None, rebase: Rebase | None, operation: Operation | None
    ) -> Plan:
        """The plan for what is to be otherwise. After the keys, the secret of the task opens the image."""
        qemu_img, keys, moved = self.holding(operation), None, None
        encryption = self.wish.encryption
        if encryption is not None and changes is not None:
            from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_image import survey_chain as _survey_chain

            keys = plan_keys(wanted.image, encryption, changes, qemu_img)
            images = _survey_chain.read_by(self.qemu_img, wanted.image, rebase)
            self.qemu_img = self.qemu_img.unlocking(encryption.layers(images, changes.opener))
            qemu_img = qemu_img.unlocking(encryption.layers(images))
        if rebase is not None:
            from ansible_collections.kvmops.disk.plugins.module_utils._content.rebase_work import plan_rebase

            moved = plan_rebase(rebase, qemu_img, encryption)
        return _decision.plan_change(self.wish, wanted, self._work(qemu_img), keys=keys, rebase=moved)

    def _require_room(self, wanted: Change, rebase: Rebase | None) -> None:
        """Raises NotEnoughSpace where the file system cannot take the change, or would promise too much with it."""
        from ansible_collections.kvmops.disk.plugins.module_utils._capacity import space as _space
        from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_image import survey_chain as _survey_chain

        needed = _decision.growth_in_bytes(self.wish, wanted.image)
        if rebase is not None:
            self.surroundings.require_no_saved_state(self.path, str(rebase))
            _decision.require_undescribed(rebase, _survey_chain.described(self.path, self.surroundings))
            needed += _survey_chain.bytes_to_rebase(self.qemu_img, rebase, needed)
        _space.require_space([(os.path.realpath(self.path), needed)])
        if wanted.grows and wanted.size is not None:
            self._require_promise(max(wanted.size, wanted.image.actual_size))

    def _require_promise(self, size: int, backing_file: str | None = None) -> None:
        """Raises NotEnoughSpace where *size* bytes for the image are more than its file system may promise."""
        from ansible_collections.kvmops.disk.plugins.module_utils._capacity.space import NewImage

        new = NewImage(self.path, size, backing_file)
        self.surroundings.require_promises([new], self.wish.max_overcommit, self.qemu_img)

    def _work(self, qemu_img: QemuImg, keys: t.Sequence[Key] = ()) -> Work:
        from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_image.work import Work

        return Work(self.wish, qemu_img, keys, functools.partial(_attributes.dress, self.module))


def run(module: AnsibleModule) -> dict[str, t.Any]:
    """One run of the module with state=present."""
    return PresentTask(module, wish_from(module.params)).walk()
