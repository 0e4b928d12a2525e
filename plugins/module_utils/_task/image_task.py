# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A task on one image that may be written where it is: who else uses it, what a dead run left, the record meanwhile."""

from __future__ import annotations

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._errors import ImageInUse, Interrupted, QemuImgFailed
from ansible_collections.kvmops.disk.plugins.module_utils._files import file_set as _file_set
from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation
from ansible_collections.kvmops.disk.plugins.module_utils._image import encryption as _encryption
from ansible_collections.kvmops.disk.plugins.module_utils._image import key_slots as _key_slots
from ansible_collections.kvmops.disk.plugins.module_utils._image.encryption import Openers
from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Step
from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg
from ansible_collections.kvmops.disk.plugins.module_utils._recovery.settle import interrupted
from ansible_collections.kvmops.disk.plugins.module_utils._task.arguments import absolute, require_directories
from ansible_collections.kvmops.disk.plugins.module_utils._task.hypervisor import hypervisor_if_any
from ansible_collections.kvmops.disk.plugins.module_utils._usage import dependents as _dependents
from ansible_collections.kvmops.disk.plugins.module_utils._usage import users as _users


class InPlaceTask:
    """What the tasks of image modules share: the parameters path, uri and, where there are any, search_paths."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.path = absolute(module.params["path"], "path")
        self.qemu_img = QemuImg.find()
        self.openers: Openers | None = None
        self._hypervisor: t.Any = None
        self._asked_libvirt = False
        require_directories(module.params.get("search_paths", ()))

    def settling(
        self, image_format: str | None, operation: Operation | None, *, finishing: str | None = None
    ) -> tuple[Step, ...]:
        """What is to be done first where a run died on the image."""
        return interrupted(self.path, image_format, operation, self.door(operation), finishing=finishing)

    def unlock(self, *images: Image) -> None:
        """Has *images*, one and what it reads, opened with the secrets of the task from now on, where it gives any.

        Raises DiskError where those do not open them.
        """
        if self.openers is not None:
            self.qemu_img = _key_slots.unlocked(self.qemu_img, images, self.openers)

    def require_secret(self, to_do: str, *images: Image) -> None:
        """Raises DiskError where one of *images* is encrypted, and the task gives no secret."""
        _encryption.require_secret(images, self.openers, to_do)

    def kept(self, operation: Operation | None, do: t.Callable[[], None]) -> t.Callable[[], None]:
        """*do*, after whose failure the records stay, so that the next run verifies what was left of the images."""

        def try_it() -> None:
            try:
                do()
            except (QemuImgFailed, Interrupted):
                if operation is not None:
                    for path in operation.paths:
                        operation.keep(path)
                raise

        return try_it

    def require_no_dependents(self, to_do: str, users: t.Iterable[_users.User]) -> None:
        """Raises HasDependents where overlays read what is to be written, unless the task gives them up."""
        if not self.module.params["allow_dependents"]:
            otherwise = "set allow_dependents=true to give them up"
            found = self.readers([self.path], users).of_files(_file_set.files_meant(self.path))
            _dependents.require_none(self.path, found, to_do, otherwise)

    def readers(self, paths: t.Iterable[str], users: t.Iterable[_users.User]) -> _dependents.Dependents:
        """Which images read which, of those that may have one of *paths* as backing file."""
        search_paths = self.module.params["search_paths"]
        return _dependents.Dependents(_dependents.directories_to_search(paths, search_paths, self.hypervisor()), users)

    def require_no_saved_state(self, path: str, users: t.Iterable[_users.User]) -> None:
        """A saved domain resumes in the midst of work on the disk as it was when it was saved (HAZARDS A9)."""
        for user in _users.users_of(path, users):
            if self.hypervisor().domain(user.uuid).has_managed_save():
                raise ImageInUse(
                    f"{path}: domain {user.domain} has a saved state (managed save), and would resume on another "
                    "disk than it was saved with: start it and shut it down, or remove the saved state, first",
                    path=path,
                    in_use_by=[dict(vars(user))],
                )

    def users(self) -> list[_users.User]:
        """The files that domains use, as far as libvirt can be asked."""
        hypervisor = self.hypervisor()
        return _users.domain_users(hypervisor) if hypervisor else []

    def hypervisor(self) -> t.Any:
        """The hypervisor, asked for once; None where there is no libvirt."""
        if not self._asked_libvirt:
            self._asked_libvirt = True
            self._hypervisor = hypervisor_if_any(self.module.params["uri"])
        return self._hypervisor

    def door(self, operation: Operation | None) -> QemuImg:
        """The way to qemu-img, which keeps the locks of *operation* for as long as it writes."""
        return self.qemu_img.holding(*operation.descriptors) if operation else self.qemu_img
