# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is seen of domains and of the images of their disks."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._domain import domain as _domain
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, NoAnswer
from ansible_collections.kvmops.disk.plugins.module_utils._image import image as _image
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.binding import is_missing_domain
from ansible_collections.kvmops.disk.plugins.module_utils._xml import records as _records

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.connection import Hypervisor
    from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.domain import Domain
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg


def domains(hypervisor: Hypervisor, names: list[str] | None) -> list[Domain]:
    """The domains asked for, each once; all of them by name where nobody says which."""
    if names is None:
        return sorted(hypervisor.domains(), key=lambda domain: domain.name)
    return list({domain.uuid: domain for domain in map(hypervisor.domain, names)}.values())


@dataclass(frozen=True)
class Observed:
    """A domain, and its disks with block jobs, or why its QEMU does not say which those are."""

    state: _domain.DomainState
    jobs: t.Sequence[str] = ()
    silence: str | None = None

    def is_unfinished(self, disk: _domain.DomainDisk) -> bool:
        """Whether a run is at work on the disk, or died there, or gave up waiting for the guest to shut down."""
        recorded = self.state.record.disks if self.state.record else ()
        return disk.target in [one.target for one in recorded] or (
            disk.element.device == "disk" and _records.shutdown_in(self.state.definition) is not None
        )

    def has_job(self, disk: _domain.DomainDisk) -> bool | None:
        """Whether a block job runs on the disk; None where nobody knows."""
        known = disk.target in self.jobs or bool(disk.live and disk.live.mirror)
        return known or (None if self.silence and disk.live else False)


def observe(hypervisor: Hypervisor, domain: Domain, named: bool) -> Observed | None:
    """What is seen of a domain; None where one that nobody named is gone meanwhile."""
    try:
        state = _domain.observe(hypervisor, domain, ask=False)
        try:
            return Observed(state, _domain.block_jobs(domain, state))
        except NoAnswer as error:
            return Observed(state, silence=str(error))
    except DiskError as error:
        if named or not is_missing_domain(error):
            raise
        return None


@dataclass(frozen=True)
class SeenImages:
    """The images of a disk, top first, and the *problem* that they are not all there for."""

    images: tuple[_image.Image, ...] = ()
    problem: str | None = None


def images(qemu_img: QemuImg, disk: _domain.DomainDisk) -> SeenImages:
    """The images of a disk; none where it has no file."""
    if disk.path is None:
        return SeenImages(problem=disk.problem)
    found: tuple[_image.Image, ...] = ()
    try:
        found = (_image.inspect(qemu_img, disk.path, disk.format),)
        return SeenImages(_image.chain(qemu_img, found[0]))
    except DiskError as error:
        return SeenImages(found, str(error))
