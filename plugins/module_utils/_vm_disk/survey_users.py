# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who else has an image that a domain is to get as a disk, and what is wrong with the image."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disks as _disks

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainState
    from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.domain import Domain
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg
    from ansible_collections.kvmops.disk.plugins.module_utils._task.surroundings import Surroundings
    from ansible_collections.kvmops.disk.plugins.module_utils._usage.users import Claim, User
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk.decision import Spot
    from ansible_collections.kvmops.disk.plugins.module_utils._xml.tuning import Tuning


@dataclass(frozen=True)
class Sharing:
    """How a disk shares its image with others, if it does."""

    readonly: bool
    shareable: bool

    def allows(self, other: Sharing) -> bool:
        """Whether both may have the image: both only read it, or both say that they share it."""
        return (self.readonly and other.readonly) or (self.shareable and other.shareable)


def sharing(tuning: Tuning, device: str) -> Sharing:
    """How a disk that is used so shares its image. A cdrom only reads."""
    return Sharing(bool(tuning.readonly) or device == "cdrom", bool(tuning.shareable))


def require_nobody_elses(around: Surroundings, state: DomainState, path: str, own: Sharing) -> None:
    """Raises ImageInUse where another domain, or another program, has the image, and HasDependents where other images
    read it; unless the disk, and theirs, may share it."""
    allowed = {
        (user.uuid, user.target, user.role) for user, domain in around.domains_with(path) if _may(user, domain, own)
    }

    def counts(claim: Claim) -> bool:
        return claim.uuid != state.uuid and (claim.uuid, claim.target, claim.role) not in allowed

    around.require_unused(path, "attach it", counts, locks=not (own.readonly or own.shareable))
    if not own.readonly:
        around.require_no_dependents(path, "attach it", "set readonly=true where the guest only reads it")


def require_sound(qemu_img: QemuImg, path: str, image_format: str, *, trusted: bool, backing_file: str | None) -> None:
    """Raises UnsafeImage where the image, or one that it reads, is cut short, or reads what the task does not name."""
    from ansible_collections.kvmops.disk.plugins.module_utils._image.trust import Trust
    from ansible_collections.kvmops.disk.plugins.module_utils._image.whole import require_whole

    declared = (backing_file,) if backing_file else ()
    require_whole(Trust(trusted, declared).look(qemu_img, path, image_format))


def require_fitting(state: DomainState, spot: Spot, size: int, cache: str | None) -> None:
    """Raises DiskError where QEMU could not open the image in the cache mode of the disk (HAZARDS P7)."""
    if spot.format != "raw":
        return
    from ansible_collections.kvmops.disk.plugins.module_utils._image.alignment import require_openable

    what = f"{state.name}: {spot.target}"
    require_openable(str(spot.path), spot.format, size, cache, what, "give that size, or another cache")


def _may(user: User, domain: Domain, own: Sharing) -> bool:
    """Whether *user* may have the image besides a disk that shares it as *own* says."""
    if user.role == "backing file of":
        return own.readonly
    if user.role != "disk":
        return False
    xmls = [domain.xml(inactive=True), *([domain.xml(inactive=False)] if user.running else [])]
    found = [disk for xml in xmls for disk in _disks.disks(xml) if disk.target == user.target]
    return all(own.allows(Sharing(disk.readonly or disk.device == "cdrom", disk.shareable)) for disk in found)
