# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One run of vm_disk_info: the disks of domains, as they are."""

from __future__ import annotations

import typing as t
from dataclasses import asdict, dataclass

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._domain import domain as _domain
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, NoAnswer
from ansible_collections.kvmops.disk.plugins.module_utils._image import image as _image
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.binding import is_missing_domain
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.connection import Hypervisor
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.domain import Domain
from ansible_collections.kvmops.disk.plugins.module_utils._parallel import in_parallel
from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg
from ansible_collections.kvmops.disk.plugins.module_utils._usage import dependents as _dependents
from ansible_collections.kvmops.disk.plugins.module_utils._usage import users as _users
from ansible_collections.kvmops.disk.plugins.module_utils._xml import records as _records


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


def facts(
    qemu_img: QemuImg, observed: Observed, disk: _domain.DomainDisk, users: list[_users.User]
) -> dict[str, t.Any]:
    """One disk as the module returns it."""
    state, element = observed.state, disk.element
    images, problem = _images(qemu_img, disk)
    others = [user for user in _users.users_of(disk.path, users) if user.uuid != state.uuid] if disk.path else []
    overlays = _dependents.known(disk.path, users) if disk.path else []
    return {
        "domain": state.name,
        "uuid": state.uuid,
        "state": state.state,
        "target": disk.target,
        "bus": element.bus,
        "device": element.device,
        "type": element.type,
        "path": disk.path,
        "format": disk.format,
        "readonly": element.readonly or element.device == "cdrom",
        "shareable": element.shareable,
        "virtual_size": images[0].virtual_size if images else None,
        "actual_size": images[0].actual_size if images else None,
        "backing_chain": [image.facts() for image in images],
        "users": [asdict(user) for user in others],
        "dependents": overlays,
        "job": observed.has_job(disk),
        "unfinished": observed.is_unfinished(disk),
        "problem": problem or (observed.silence if disk.live else None),
    }


def _endangered(disk: dict[str, t.Any]) -> str:
    """What to say of a disk that a guest writes while clones read its image, which nothing prevents (HAZARDS G18)."""
    return (
        f"{disk['domain']} is {disk['state']} on {disk['path']} ({disk['target']}), which {len(disk['dependents'])} "
        f"image(s) read as their backing file ({', '.join(disk['dependents'][:5])}): what its guest writes destroys "
        "those: shut it down, and make them again from a base that no domain runs on"
    )


def _images(qemu_img: QemuImg, disk: _domain.DomainDisk) -> tuple[tuple[_image.Image, ...], str | None]:
    """The images of a disk, top first, and why they are not all there."""
    if disk.path is None:
        return (), None
    found: tuple[_image.Image, ...] = ()
    try:
        found = (_image.inspect(qemu_img, disk.path, disk.format),)
        return _image.chain(qemu_img, found[0]), None
    except DiskError as error:
        return found, str(error)


def run(module: AnsibleModule) -> dict[str, t.Any]:
    """One run of the module."""
    names = module.params["names"]
    hypervisor = Hypervisor.connect(module.params["uri"])
    qemu_img = QemuImg.find()
    seen = [found for domain in domains(hypervisor, names) if (found := observe(hypervisor, domain, names is not None))]
    users = _users.domain_users(hypervisor)
    disks = [(observed, disk) for observed in seen for disk in observed.state.disks]
    described = in_parallel(lambda item: facts(qemu_img, *item, users), disks)
    for (observed, _disk), described_disk in zip(disks, described):
        if observed.state.active and described_disk["dependents"] and not described_disk["readonly"]:
            module.warn(_endangered(described_disk))
    return {"changed": False, "disks": described}
