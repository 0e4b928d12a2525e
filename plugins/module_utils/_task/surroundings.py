# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who else has to do with an image that an image module is about: asked once, and only where it matters."""

from __future__ import annotations

import os
import time
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._capacity import space as _space
from ansible_collections.kvmops.disk.plugins.module_utils._errors import (
    DiskError,
    ImageInUse,
    OperationInFlight,
    UnsafeImage,
)
from ansible_collections.kvmops.disk.plugins.module_utils._files import file_set as _file_set
from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.connection import Hypervisor
from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg
from ansible_collections.kvmops.disk.plugins.module_utils._recovery.leftovers import look_for
from ansible_collections.kvmops.disk.plugins.module_utils._recovery.settle import IN_PLACE, require_whole
from ansible_collections.kvmops.disk.plugins.module_utils._task.arguments import require_directories
from ansible_collections.kvmops.disk.plugins.module_utils._task.hypervisor import hypervisor_if_any, refresh_pools
from ansible_collections.kvmops.disk.plugins.module_utils._usage import dependents as _dependents
from ansible_collections.kvmops.disk.plugins.module_utils._usage import users as _usage_users

_POLL = 0.05


class Surroundings:
    """The domains of the libvirt at *uri*, if one answers there, and the images in *search_paths*."""

    def __init__(self, uri: str, search_paths: t.Sequence[str]) -> None:
        require_directories(search_paths)
        self._uri = uri
        self._search_paths = search_paths
        self._asked = False
        self._hypervisor: Hypervisor | None = None

    def require_not_running(self, path: str, to_do: str, *, but: str | None = None) -> None:
        """Raises ImageInUse where a running domain has the image, except *but* in that part of a disk."""
        found = [user for user in self._users() if user.running and not (but and user.role.startswith(but))]
        for file in _file_set.files_meant(path):
            _usage_users.require_unused(file, found, to_do, locks=False)

    def require_not_suspended_on(self, path: str, to_do: str) -> None:
        """Raises ImageInUse where a domain that was saved would resume on the image (HAZARDS A9)."""
        if self._libvirt is None:
            return
        names = {user.domain for user in _usage_users.users_of(path, self._users()) if not user.running}
        for name in sorted(names):
            if self._is_saved(name):
                raise ImageInUse(
                    f"{path}: the domain {name} has a managed-save image, which resumes on this disk as it is: asked "
                    f"to {to_do}: start the domain and shut it down, or drop the image with virsh managedsave-remove",
                    path=path,
                    in_use_by=[{"domain": name}],
                )

    def require_unused(self, path: str, to_do: str) -> None:
        """Raises ImageInUse where any domain defines the image, or anybody has it open."""
        users = self._users()
        for file in _file_set.files_meant(path):
            _usage_users.require_unused(file, users, to_do)

    def require_no_dependents(self, path: str, to_do: str, otherwise: str) -> None:
        """Raises HasDependents where overlays read the image; *otherwise* is another way out."""
        directories = _dependents.directories_to_search([path], self._search_paths, self._libvirt)
        found = _dependents.Dependents(directories, self._users()).of_files(_file_set.files_meant(path))
        _dependents.require_none(path, found, to_do, otherwise)

    def require_ratio_for(
        self, new: _space.NewImage, ratio: float | None, qemu_img: QemuImg, *, gone: t.Iterable[str] = ()
    ) -> None:
        """Raises NotEnoughSpace where the file system of a *new* image would promise too much (_capacity)."""
        if ratio is not None:
            directories = _dependents.directories_to_search([new.path], self._search_paths, self._libvirt)
            _space.require_ratio_for([new], ratio, directories, self._users(), qemu_img, gone=gone)

    def refresh_pools(self, paths: t.Iterable[str]) -> None:
        """Lets the pools in which *paths* lie see what came or went."""
        refresh_pools(self._libvirt, {os.path.dirname(path) for path in paths})

    def _users(self) -> list[_usage_users.User]:
        """As they are now: they are looked for again each time."""
        return _usage_users.domain_users(self._libvirt) if self._libvirt else []

    def _is_saved(self, name: str) -> bool:
        try:
            return self._libvirt is not None and self._libvirt.domain(name).has_managed_save()
        except DiskError:  # it went meanwhile
            return False

    @property
    def _libvirt(self) -> Hypervisor | None:
        if not self._asked:
            self._asked = True
            self._hypervisor = hypervisor_if_any(self._uri)
        return self._hypervisor


def require_unlocked(path: str, to_do: str, patience: float) -> None:
    """Raises ImageInUse where somebody has the image open; mere readers may take *patience* seconds to end."""
    deadline = time.monotonic() + patience
    files = _file_set.files_meant(path)
    while any(
        _usage_users.is_locked(file) and not _usage_users.is_locked(file, against_readers=True) for file in files
    ):
        if time.monotonic() >= deadline:
            break
        time.sleep(_POLL)
    for file in files:
        _usage_users.require_unused(file, (), to_do)


def require_unwritten(image: Image) -> None:
    """Raises ImageInUse where somebody has the image open for writing, so that what is read of it is no disk."""
    for path in image.files:
        if not _usage_users.is_locked(path, against_readers=True):
            continue
        raise ImageInUse(
            f"{path}: is open for writing, by a running guest or another program: what is read of it would be "
            "inconsistent: stop that first",
            path=path,
            in_use_by=[],
        )


def require_settled(qemu_img: QemuImg, path: str, image_format: str, left: dict[str, t.Any] | None) -> None:
    """Raises where *left*, the record of a run beside the image, is of one that changes it in place.

    That is: where it is at work, or died and left the image corrupt.
    """
    if left is None or left.get("verb") not in IN_PLACE:
        return
    if left.get("alive"):
        if left["verb"] == "unknown":  # it has noted nothing yet, and QEMU's locks know when it begins
            return
        raise OperationInFlight(
            f"{path}: another run works on this image ({left['verb']} since {left.get('started')}): wait for it",
            path=path,
            operation=left,
        )
    found = look_for(path, image_format, left)
    require_whole(found)
    check = qemu_img.check(path, image_format, external_data=found.external_data)
    if check.result == "corrupt" or check.check_errors:
        raise UnsafeImage(
            f"{path}: an interrupted run left {check.corruptions} corruption(s) in the metadata: repair it first "
            "(kvmops.disk.qcow2_check with repair=all)",
            path=path,
            check=dict(vars(check)),
        )
