# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One image as a task wants it: the walk of the module qcow2_image from its parameters to its result."""

from __future__ import annotations

import os
import typing as t
from dataclasses import replace

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils import (
    _capacity,
    _dependents,
    _domain_xml,
    _image,
    _rebase,
    _staging,
    _usage,
)
from ansible_collections.kvmops.disk.plugins.module_utils._create import (
    ImageWish,
    bytes_needed,
    new_size,
    plan_create,
    require_usable_base,
)
from ansible_collections.kvmops.disk.plugins.module_utils._errors import ImageInUse, MissingImage, UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._in_place import InPlaceTask
from ansible_collections.kvmops.disk.plugins.module_utils._lock import Operation
from ansible_collections.kvmops.disk.plugins.module_utils._module import (
    absolute,
    carry_out,
    layout_from,
    refresh_pools,
)
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan
from ansible_collections.kvmops.disk.plugins.module_utils._rebasing import plan_rebase
from ansible_collections.kvmops.disk.plugins.module_utils._reconcile import (
    growth_in_bytes,
    plan_reconcile,
    require_no_cut,
)
from ansible_collections.kvmops.disk.plugins.module_utils._recover import recorded
from ansible_collections.kvmops.disk.plugins.module_utils._remove import plan_remove
from ansible_collections.kvmops.disk.plugins.module_utils._size import parse_size


class ImageTask(InPlaceTask):
    """The task at hand: looks at the world, decides by the pure functions, and says what became of it."""

    def __init__(self, module: AnsibleModule) -> None:
        super().__init__(module)
        _capacity.require_ratio(module.params["max_overcommit"])

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
        )
        wish.require_valid()
        return wish

    def present(self, wish: ImageWish, operation: Operation | None) -> Plan:
        """The plan for an image that is to be there."""
        image = self._existing(wish.layout.format)
        first = self.settling(image.format if image else None, operation)
        plan = self._change(wish, image, operation) if image else self._creation(wish, operation)
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
        report = {**plan.report(), "diff": {"before": dict(plan.before), "after": dict(plan.after)}, "image": {}}
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
                f"{self.path}: is a symbolic link to nothing ({os.readlink(self.path)}): "
                "remove it, or make its target first"
            )
        if not os.path.lexists(self.path):
            return None
        _image.require_format(self.path, image_format)
        return _image.inspect(self.qemu_img, self.path, image_format)

    def _creation(self, wish: ImageWish, operation: Operation | None) -> Plan:
        _staging.require_directory(self.path, "path")
        below = self._below(wish, "make an overlay of it")
        base = below[0] if below else None
        _capacity.require_space([(self.path, self._bytes_needed(wish, new_size(wish, base)))])
        self._require_promise(new_size(wish, base), wish.backing_file)
        return plan_create(wish, base, self.door(operation), _staging.NewFile(self.path), self.dress)

    def _change(self, wish: ImageWish, image: _image.Image, operation: Operation | None) -> Plan:
        door = self.door(operation)
        found = self._wanted_rebase(wish, image) if _rebase.is_wanted(wish, image) else None
        plan = plan_reconcile(wish, image, door, plan_rebase(found, door) if found else None)
        if not plan:
            return plan
        self._require_writable("change it", running_only=True)
        needed = growth_in_bytes(wish, image)
        if found:
            self._require_undescribed(found)
            needed += self._bytes_to_rebase(found, needed)
        _capacity.require_space([(os.path.realpath(self.path), needed)])
        if wish.size is not None and wish.size > image.virtual_size:
            self._require_promise(max(wish.size, image.actual_size))
        return plan

    def _below(self, wish: ImageWish, to_do: str) -> tuple[_image.Image, ...]:
        """The wanted backing file and what that reads. Raises DiskError where an overlay on it would not be right."""
        if not wish.backing_file:
            return ()
        _image.require_format(wish.backing_file, t.cast(str, wish.backing_format))
        base = _image.inspect(self.qemu_img, wish.backing_file, wish.backing_format)
        below = _image.chain(self.qemu_img, base)
        for link in below:
            require_usable_base(link)
        self._require_unwritten(base.path, to_do)
        return below

    def _wanted_rebase(self, wish: ImageWish, image: _image.Image) -> _rebase.Rebase:
        """The image between the old backing files and the new ones."""
        base = self._below(wish, f"have {self.path} read it")
        found = _rebase.Rebase(image, base, rewrites=_rebase.rewrites(wish, image))
        if not found.rewrites:
            _rebase.require_vouched(wish, image)
            found = replace(found, below=self._read_now(image))
        _rebase.require_possible(wish, found)
        if not os.path.isfile(self.path):
            raise UnsafeImage(
                f"{self.path}: is a block device, which a new file cannot replace: convert it into a new image "
                "(kvmops.disk.qcow2_convert)",
                path=self.path,
            )
        return found

    def _read_now(self, image: _image.Image) -> tuple[_image.Image, ...]:
        """The images that *image* reads, which nobody writes. Raises MissingImage where one is gone."""
        try:
            below = _image.chain(self.qemu_img, image)[1:]
        except MissingImage as error:
            raise MissingImage(
                f"{error}: asked to give {self.path}, which reads it, another backing file: bring it back, or set "
                "rebase=unsafe where the new one holds the same",
                **error.facts,
            ) from error
        for one in below:
            self._require_unwritten(one.path, f"copy from it into {self.path}")
        return below

    def _require_unwritten(self, path: str, to_do: str) -> None:
        if _usage.is_locked(path, against_readers=True):
            raise ImageInUse(
                f"{path}: is open for writing, asked to {to_do}: what its user writes would change what is read of it: "
                "stop that first",
                path=path,
                in_use_by=[],
            )

    def _bytes_to_rebase(self, found: _rebase.Rebase, growth: int) -> int:
        image = found.image
        if found.rewrites:
            return 0
        measured = 0
        if found.merged:
            options = {"cluster_size": str(image.cluster_size)} if image.format == "qcow2" else {}
            measured = self.qemu_img.measure(self.path, image.format, "qcow2", options).required
        return _rebase.bytes_needed(found, measured) + growth

    def _require_undescribed(self, found: _rebase.Rebase) -> None:
        """Raises ImageInUse where a domain that is off would go on with the old backing files, or on the old disk."""
        users = self.users()
        self.require_no_saved_state(self.path, users)
        for user in _usage.users_of(self.path, users):
            xml = self.hypervisor().domain(user.uuid).xml(inactive=True)
            if any(disk.target == user.target and disk.chain is not None for disk in _domain_xml.disks(xml)):
                raise ImageInUse(
                    f"{self.path}: the definition of domain {user.domain} says what disk {user.target} reads "
                    f"(<backingStore>), and would go on saying so after: {found}: flatten the disk with "
                    "kvmops.disk.vm_disk_flatten, or remove that element, first",
                    path=self.path,
                    in_use_by=[dict(vars(user))],
                )

    def _require_promise(self, size: int, backing_file: str | None = None) -> None:
        """Raises NotEnoughSpace where *size* bytes for the image are more than its file system may promise."""
        ratio = self.module.params["max_overcommit"]
        if ratio is None:
            return
        new = _capacity.NewImage(self.path, size, backing_file)
        directories = _dependents.directories_to_search(
            [self.path], self.module.params["search_paths"], self.hypervisor()
        )
        _capacity.require_ratio_for([new], ratio, directories, self.users(), self.qemu_img)

    def _bytes_needed(self, wish: ImageWish, size: int) -> int:
        measured = 0
        if wish.layout.format == "qcow2":
            measured = self.qemu_img.measure_empty(size, "qcow2", wish.layout.options()).required
        return bytes_needed(wish.layout, size, measured)

    def _require_writable(self, to_do: str, *, running_only: bool) -> None:
        """Raises where writing the image, or removing it, would hurt somebody."""
        users = self.users()
        _usage.require_unused(self.path, [user for user in users if user.running or not running_only], to_do)
        self.require_no_dependents(to_do, users)

    def _set_attributes(self, report: dict[str, t.Any]) -> None:
        """As the file modules do, except on an image that a guest has open: that one libvirt owns for the time."""
        arguments = self.module.load_file_common_arguments(self.module.params, path=os.path.realpath(self.path))
        if _usage.is_locked(self.path):
            return
        if self.module.set_fs_attributes_if_different(arguments, False, report["diff"]):
            report["changed"] = True
            report["actions"].append(f"set the owner, mode or attributes of {self.path}")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def manage(module: AnsibleModule) -> dict[str, t.Any]:
    """One run of the module."""
    task = ImageTask(module)
    if module.params["state"] == "present":
        wish = task.wish()
        plan = carry_out(
            lambda operation: task.present(wish, operation), "reconcile", lambda: [task.path], module.check_mode
        )
    else:
        plan = carry_out(task.absent, "remove", lambda: [task.path], module.check_mode)
    return task.result(plan)
