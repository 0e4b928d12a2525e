# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who else has to do with an image: the one answer to that, for every task."""

from __future__ import annotations

import os
import typing as t
from functools import cached_property

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import asdict
from ansible_collections.kvmops.disk.plugins.module_utils._errors import (
    DiskError,
    ImageInUse,
)
from ansible_collections.kvmops.disk.plugins.module_utils._files import file_set as _file_set
from ansible_collections.kvmops.disk.plugins.module_utils._task.hypervisor import hypervisor_if_any, refresh_pools
from ansible_collections.kvmops.disk.plugins.module_utils._usage import dependents as _dependents
from ansible_collections.kvmops.disk.plugins.module_utils._usage import unused as _unused
from ansible_collections.kvmops.disk.plugins.module_utils._usage import users as _users
from ansible_collections.kvmops.disk.plugins.module_utils._usage.counting import anybody

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._capacity.space import NewImage
    from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.connection import Hypervisor
    from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.domain import Domain
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg
    from ansible_collections.kvmops.disk.plugins.module_utils._usage.users import User

#: The way out where a task may say that it gives up the overlays of what it writes.
GIVE_THEM_UP = "set allow_dependents=true to give them up"


class Surroundings:
    """One look at the domains of a libvirt and at the images in *search_paths*, taken when it first matters.

    *hypervisor* is asked for the libvirt then, once; it answers None where there is none. A new look is a new object:
    each decision of a task takes one.
    """

    def __init__(self, hypervisor: t.Callable[[], Hypervisor | None], search_paths: t.Sequence[str] = ()) -> None:
        self._ask = hypervisor
        self._search_paths = search_paths

    @classmethod
    def at(cls, uri: str, search_paths: t.Sequence[str] = ()) -> Surroundings:
        """Those of the libvirt at *uri*, if one answers there."""
        return cls(lambda: hypervisor_if_any(uri), search_paths)

    @cached_property
    def hypervisor(self) -> Hypervisor | None:
        return self._ask()

    @cached_property
    def users(self) -> list[User]:
        """The files that domains use, as far as libvirt can be asked."""
        return _users.domain_users(self.hypervisor) if self.hypervisor else []

    def require_unused(
        self, path: str, to_do: str, by: t.Callable[[User], bool] = anybody, *, locks: bool = True
    ) -> None:
        """Raises ImageInUse where a domain has the image, if *by* says that this one counts, or, with *locks*, somebody
        has it open."""
        found = [user for user in self.users if by(user)]
        for file in _file_set.files_meant(path):
            _unused.require_unused(file, found, to_do, locks=locks)

    def require_no_saved_state(self, path: str, to_do: str) -> None:
        """Raises ImageInUse where a saved domain would resume on the image as it is by then (HAZARDS A9)."""
        for user in _users.users_of(path, self.users):
            if not user.running and self._is_saved(user):
                raise ImageInUse(
                    f"{path}: the domain {user.domain} has a managed-save image, and would resume on another disk than "
                    f"it was saved with: asked to {to_do}: start the domain and shut it down, or drop the image with "
                    "virsh managedsave-remove",
                    path=path,
                    in_use_by=[asdict(user)],
                )

    def domains_with(self, path: str) -> t.Iterator[tuple[User, Domain]]:
        """The domains that have the image at *path*, each with how it does."""
        for user in _users.users_of(path, self.users):
            if self.hypervisor is not None:
                yield user, self.hypervisor.domain(user.uuid)

    def directories(self, paths: t.Iterable[str] = ()) -> list[str]:
        """Where images may lie: beside *paths*, in the directories that the task names, and in libvirt's pools."""
        return _dependents.directories_to_search(paths, self._search_paths, self.hypervisor)

    def readers(self, paths: t.Iterable[str]) -> _dependents.Dependents:
        """Which images read which, of those that may have one of *paths* as their backing file."""
        return _dependents.Dependents(self.directories(paths), self.users)

    def require_no_dependents(self, path: str, to_do: str, otherwise: str = GIVE_THEM_UP) -> None:
        """Raises HasDependents where overlays read the image; *otherwise* is another way out."""
        found = self.readers([path]).of_files(_file_set.files_meant(path))
        _dependents.require_none(path, found, to_do, otherwise)

    def require_promises(
        self,
        new: t.Sequence[NewImage],
        max_overcommit: float | None,
        qemu_img: QemuImg,
        *,
        gone: t.Iterable[str] = (),
    ) -> None:
        """Raises NotEnoughSpace where the file systems of *new* images, or of such as grow, would promise too much.

        Nothing is looked at where *max_overcommit* is None. *gone* are the files that go when the new ones are there.
        """
        if max_overcommit is not None and new:
            from ansible_collections.kvmops.disk.plugins.module_utils._capacity import file_systems as _file_systems

            directories = self.directories(one.path for one in new)
            _file_systems.require_ratio_for(new, max_overcommit, directories, self.users, qemu_img, gone=gone)

    def refresh_pools(self, paths: t.Iterable[str]) -> None:
        """Lets the pools in which *paths* lie, by whatever names, see what came or went."""
        names = (name for path in paths for name in (path, os.path.realpath(path)))
        refresh_pools(self.hypervisor, {os.path.dirname(name) for name in names})

    def _is_saved(self, user: User) -> bool:
        try:
            return self.hypervisor is not None and self.hypervisor.domain(user.uuid).has_managed_save()
        except DiskError:  # it went meanwhile
            return False
