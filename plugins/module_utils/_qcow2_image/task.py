# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One image as a task wants it: the walk of the module qcow2_image from its parameters to its result."""

from __future__ import annotations

import os
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._capacity import space as _space
from ansible_collections.kvmops.disk.plugins.module_utils._content import rebase as _rebase
from ansible_collections.kvmops.disk.plugins.module_utils._content import rebase_work as _rebase_work
from ansible_collections.kvmops.disk.plugins.module_utils._errors import ImageInUse, UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._files import file_set as _file_set
from ansible_collections.kvmops.disk.plugins.module_utils._files import staging as _staging
from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation
from ansible_collections.kvmops.disk.plugins.module_utils._image import encryption as _encryption
from ansible_collections.kvmops.disk.plugins.module_utils._image import image as _image
from ansible_collections.kvmops.disk.plugins.module_utils._image import key_slots as _key_slots
from ansible_collections.kvmops.disk.plugins.module_utils._image.creation import bytes_needed
from ansible_collections.kvmops.disk.plugins.module_utils._image.encryption import KeyChanges
from ansible_collections.kvmops.disk.plugins.module_utils._image.key_slots import plan_keys
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_image import survey as _survey
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_image.decision import (
    growth_in_bytes,
    new_size,
    plan_create,
    plan_reconcile,
    require_no_cut,
)
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_image.decision_remove import plan_remove
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_image.wish import ImageWish
from ansible_collections.kvmops.disk.plugins.module_utils._qemu.secrets import Layer
from ansible_collections.kvmops.disk.plugins.module_utils._recovery.settle import recorded
from ansible_collections.kvmops.disk.plugins.module_utils._size import parse_size
from ansible_collections.kvmops.disk.plugins.module_utils._task import arguments as _arguments
from ansible_collections.kvmops.disk.plugins.module_utils._task.arguments import absolute, layout_from
from ansible_collections.kvmops.disk.plugins.module_utils._task.carry_out import carry_out
from ansible_collections.kvmops.disk.plugins.module_utils._task.hypervisor import refresh_pools
from ansible_collections.kvmops.disk.plugins.module_utils._task.image_task import InPlaceTask
from ansible_collections.kvmops.disk.plugins.module_utils._usage import dependents as _dependents
from ansible_collections.kvmops.disk.plugins.module_utils._usage import users as _users
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disks as _disks


class ImageTask(InPlaceTask):
    """The task at hand: looks at the world, decides by the pure functions, and says what became of it."""

    def __init__(self, module: AnsibleModule) -> None:
        super().__init__(module)
        _arguments.require_ratio(module.params["max_overcommit"])

    def wish(self) -> ImageWish:
        params = self.module.params
        size, backing_file = params["size"], params["backing_file"]
        wish = ImageWish(
            path=self.path,
            layout=layout_from(params),
            size=parse_size(size) if size is not None else None,
            backing_file=absolute(backing_file, "backing_file") if backing_file else backing_file,
            backing_format=params["backing_format"],
            shrink=params["shrink"],
            rebase=params["rebase"],
            trusted=params["trusted"],
            encryption=_key_slots.wish_from(params["encryption"]),
        )
        wish.require_valid()
        return wish

    def present(self, wish: ImageWish, operation: Operation | None) -> Plan:
        """The plan for an image that is to be there."""
        image = self._existing(wish.layout.format)
        changes = self._key_changes(wish, image) if image else None
        first = self.settling(image.format if image else None, operation)
        plan = self._change(wish, image, changes, operation) if image else self._creation(wish, operation)
        if image and (first or plan) and not _rebase.is_wanted(wish, image):
            require_no_cut(wish, image, _image.chain(self.qemu_img, image)[1:])
        return recorded(first, plan, self.path, operation)

    def absent(self, operation: Operation | None) -> Plan:
        """The plan for an image that is not to be there."""
        first = self.settling(None, operation)
        plan = plan_remove(self.path)
        if plan:
            self._require_writable("remove it", running_only=self.module.params["force"])
        return recorded(first, plan, self.path, operation, noted=False)

    def result(self, plan: Plan) -> dict[str, t.Any]:
        """What the module returns; the file's attributes are the file modules' business, done here at the end."""
        report = {**plan.full_report(), "image": {}}
        if plan:
            refresh_pools(self.hypervisor(), {os.path.dirname(self.path), os.path.dirname(os.path.realpath(self.path))})
        if self.module.params["state"] == "absent":
            return report
        if not os.path.exists(self.path):
            return {**report, "image": {name: value for name, value in plan.after.items() if name != "state"}}
        self._set_attributes(report)
        image = _image.inspect(self.qemu_img, self.path, self.module.params["format"])
        return {**report, "image": {**image.facts(), **(plan.after if self.module.check_mode else {})}}

    def dress(self, name: str) -> None:
        """Gives a file that is being made its owner, group, mode and attributes."""
        os.chmod(name, 0o666 & ~_umask())
        arguments = self.module.load_file_common_arguments(self.module.params, path=name)
        self.module.set_fs_attributes_if_different(arguments, False)

    def _existing(self, image_format: str) -> _image.Image | None:
        if os.path.islink(self.path) and not os.path.exists(self.path):
            raise UnsafeImage(
                f"{self.path}: is a symbolic link whose target is missing ({os.readlink(self.path)}): remove it, or "
                "make its target first"
            )
        if not os.path.lexists(self.path):
            return None
        _image.require_format(self.path, image_format)
        return _image.inspect(self.qemu_img, self.path, image_format)

    def _creation(self, wish: ImageWish, operation: Operation | None) -> Plan:
        _staging.require_directory(self.path, "path")
        below = _survey.wanted_below(self.qemu_img, wish, "make an overlay of it")
        base = below[0] if below else None
        _space.require_space([(self.path, self._bytes_needed(wish, new_size(wish, base)))])
        self._require_promise(new_size(wish, base), wish.backing_file)
        door, encryption = self.door(operation), wish.encryption
        if encryption is None:
            return plan_create(wish, base, door, _staging.NewFile(self.path), self.dress)
        keys = _encryption.keys_to_add(self.path, encryption, (encryption.secret,), (0,))

        def fit_out(name: str) -> None:
            opener = Layer(name, wish.layout.format, encryption.secret)
            _key_slots.add_keys(door, opener, keys, encryption.iter_time)
            self.dress(name)

        return plan_create(wish, base, door.knowing(encryption.secret), _staging.NewFile(self.path), fit_out)

    def _key_changes(self, wish: ImageWish, image: _image.Image) -> KeyChanges | None:
        """What is to be done to the keys of an encrypted image, which from now on is opened with one of them.

        Raises DiskError where the task has none, or the image is not encrypted as wanted.
        """
        _encryption.require_same_kind(wish.encryption, image)
        if wish.encryption is None:
            return None
        opening = _key_slots.opening(self.qemu_img, image, wish.encryption.secrets)
        changes = _encryption.key_changes(wish.encryption, image, opening)
        self.qemu_img = self.qemu_img.unlocking([Layer(image.path, image.format, changes.opener)])
        return changes

    def _change(
        self, wish: ImageWish, image: _image.Image, changes: KeyChanges | None, operation: Operation | None
    ) -> Plan:
        found = _survey.wanted_rebase(self.qemu_img, wish, image)
        door, keys = self.door(operation), None
        if wish.encryption is not None and changes is not None:
            keys = plan_keys(image, wish.encryption, changes, door)
            images = self._read_by(image, found)
            self.qemu_img = self.qemu_img.unlocking(wish.encryption.layers(images, changes.opener))
            door = door.unlocking(wish.encryption.layers(images))
        rebase = _rebase_work.plan_rebase(found, door, wish.encryption) if found else None
        plan = plan_reconcile(wish, image, door, keys=keys, rebase=rebase)
        if not plan:
            return plan
        self._require_writable("change it", running_only=True)
        needed = growth_in_bytes(wish, image)
        if found:
            self._require_undescribed(found)
            needed += _survey.bytes_to_rebase(self.qemu_img, found, needed)
        _space.require_space([(os.path.realpath(self.path), needed)])
        if wish.size is not None and wish.size > image.virtual_size:
            self._require_promise(max(wish.size, image.actual_size))
        return plan

    def _read_by(self, image: _image.Image, found: _rebase.Rebase | None) -> tuple[_image.Image, ...]:
        """The image and what is opened with it where it is changed."""
        if found is not None:
            return (image, *(found.base if found.rewrites else found.below))
        return _image.chain(self.qemu_img, image) if image.backing_file is not None else (image,)

    def _require_undescribed(self, found: _rebase.Rebase) -> None:
        """Raises ImageInUse where a domain that is off would go on with the old backing files, or on the old disk."""
        users = self.users()
        self.require_no_saved_state(self.path, users)
        for user in _users.users_of(self.path, users):
            xml = self.hypervisor().domain(user.uuid).xml(inactive=True)
            if any(disk.target == user.target and disk.chain is not None for disk in _disks.disks(xml)):
                raise ImageInUse(
                    f"{self.path}: the definition of domain {user.domain} says what disk {user.target} reads "
                    f"(<backingStore>), and would still say so after: {found}: flatten the disk with "
                    "kvmops.disk.vm_disk_flatten, or remove that element, first",
                    path=self.path,
                    in_use_by=[dict(vars(user))],
                )

    def _require_promise(self, size: int, backing_file: str | None = None) -> None:
        """Raises NotEnoughSpace where *size* bytes for the image are more than its file system may promise."""
        ratio = self.module.params["max_overcommit"]
        if ratio is None:
            return
        new = _space.NewImage(self.path, size, backing_file)
        directories = _dependents.directories_to_search(
            [self.path], self.module.params["search_paths"], self.hypervisor()
        )
        _space.require_ratio_for([new], ratio, directories, self.users(), self.qemu_img)

    def _bytes_needed(self, wish: ImageWish, size: int) -> int:
        measured = 0
        if wish.layout.format == "qcow2":
            measured = self.qemu_img.measure_empty(size, "qcow2", wish.layout.options()).required
        header = _encryption.HEADER_BYTES if wish.encryption else 0
        return bytes_needed(wish.layout, size, measured) + header

    def _require_writable(self, to_do: str, *, running_only: bool) -> None:
        """Raises where writing the image, or removing it, would hurt somebody."""
        users = self.users()
        for file in _file_set.files_meant(self.path):
            _users.require_unused(file, [user for user in users if user.running or not running_only], to_do)
        self.require_no_dependents(to_do, users)

    def _set_attributes(self, report: dict[str, t.Any]) -> None:
        """As the file modules do, except on an image that a guest has open: that one libvirt owns for the time."""
        if _users.is_locked(self.path):
            return
        for path in _file_set.files(os.path.realpath(self.path)):
            arguments = self.module.load_file_common_arguments(self.module.params, path=path)
            if self.module.set_fs_attributes_if_different(arguments, False, report["diff"]):
                report["changed"] = True
                report["actions"].append(f"set the owner, mode or attributes of {path}")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def run(module: AnsibleModule) -> dict[str, t.Any]:
    """One run of the module."""
    task = ImageTask(module)
    if module.params["state"] == "present":
        wish = task.wish()
        plan = carry_out(
            lambda operation: task.present(wish, operation),
            "reconcile",
            lambda: [task.path],
            module,
            counted=lambda: [os.path.dirname(os.path.realpath(task.path))],
        )
    else:
        plan = carry_out(task.absent, "remove", lambda: [task.path], module)
    return task.result(plan)
