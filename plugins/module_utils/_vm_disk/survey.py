# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A look at a disk that a task wants: which image it means, who else has that, and what the guest does with it."""

from __future__ import annotations

import os
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, MissingImage
from ansible_collections.kvmops.disk.plugins.module_utils._image import image as _image
from ansible_collections.kvmops.disk.plugins.module_utils._usage import sources as _sources
from ansible_collections.kvmops.disk.plugins.module_utils._usage import users as _users
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk.decision import Seen
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disks as _disks
from ansible_collections.kvmops.disk.plugins.module_utils._xml import machine as _machine

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainDisk, DomainState
    from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.connection import Hypervisor
    from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.domain import Domain
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk.wish import DiskWish
    from ansible_collections.kvmops.disk.plugins.module_utils._xml.machine import Machine


@dataclass(frozen=True)
class Look:
    """A domain, its machine as it is now, which decides what can come live, and as it is defined; and which of its
    disks has the image of the wish, at *path*."""

    state: DomainState
    now: Machine
    defined: Machine
    path: str | None
    by_source: DomainDisk | None

    def seen(self, claimed: t.Collection[str]) -> Seen:
        """The same for a decision where the disk is; other disks of the task come to the targets *claimed*."""
        return Seen(self.state, self.path, self.by_source, claimed, self.defined.pcie)


def look(hypervisor: Hypervisor, state: DomainState, wish: DiskWish) -> Look:
    """What is to be seen of the domain. Raises DiskError where the volume of the wish cannot be found."""
    path = source_path(hypervisor, wish)
    by_source = None
    if path:
        by_source = next((disk for disk in state.disks if disk.path and _users.is_same_file(disk.path, path)), None)
    return Look(
        state, _machine.machine(state.live or state.definition), _machine.machine(state.definition), path, by_source
    )


def source_path(hypervisor: Hypervisor, wish: DiskWish) -> str | None:
    """The file that the wish names; that of a volume which is still to be made lies in the directory of its pool."""
    if wish.volume is None:
        return wish.path
    pool, volume = wish.volume
    found = _sources.source_of_link(_disks.ChainLink(None, None, volume=wish.volume), hypervisor)
    if found.path is None:
        raise DiskError(
            f"{wish.name}: {pool}/{volume}: "
            + (found.problem or "that pool has no files: name the disk by path, or attach it with virsh")
        )
    return found.path


def image(qemu_img: QemuImg, path: str, image_format: str) -> _image.Image | None:
    """The image that is there; None where nothing is. Raises DiskError where that is no file, or another format."""
    if not os.path.lexists(path):
        return None
    if not os.path.isfile(path):
        raise DiskError(f"{path}: is not a regular file, and only image files are attached: use virsh", path=path)
    _image.require_format(path, image_format)
    return _image.inspect(qemu_img, path, image_format)


def require_medium(path: str) -> None:
    """Raises MissingImage where a drive is to get a medium that is not there."""
    if not os.path.isfile(path):
        raise MissingImage(f"{path}: there is no such file to put into a drive: correct path", path=path)


def snapshots_with(domain: Domain, state: DomainState, target: str) -> list[str]:
    """The snapshots of the domain that have a state of the disk, by their names."""
    if not state.snapshots:
        return []
    return [
        name
        for name, xml in zip(state.snapshots, domain.snapshot_definitions())
        if any(disk.target == target for disk in _disks.snapshot_disks(xml))
    ]


def mounts(domain: Domain, target: str) -> list[str]:
    """Where the guest has mounted what is on the disk, as its agent says.

    Raises DiskError where the agent, which says that it is there, does not tell.
    """
    from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.acting import acting

    try:
        found = acting(domain).guest_file_systems()
    except DiskError as error:
        raise DiskError(
            f"{error}: whether {target} is mounted is not known: unmount it in the guest and set force=true",
            **error.facts,
        ) from error
    return sorted(system.point for system in found if target in system.disks)
