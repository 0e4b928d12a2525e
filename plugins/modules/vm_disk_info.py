#!/usr/bin/python
# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: vm_disk_info
short_description: Facts of the disks of virtual machines
version_added: 0.1.0
author:
  - kvmops.disk contributors (@kvmops)
description:
  - Returns the disks of all domains of a libvirt connection, or of the named ones, with their formats, sizes and
    backing chains. The domains may be running or off.
  - The format of a disk is the one that the domain's definition says. It is never guessed from the content.
extends_documentation_fragment:
  - kvmops.disk.libvirt
  - kvmops.disk.libvirt.requirements
  - kvmops.disk.attributes
  - kvmops.disk.attributes.info
  - kvmops.disk.attributes.action_group
options:
  names:
    description:
      - Names or UUIDs of the domains. The default is all domains.
    type: list
    elements: str
    aliases: [name]
seealso:
  - module: kvmops.disk.qcow2_image_info
  - module: kvmops.disk.vm_disk_convert
"""

EXAMPLES = r"""
- name: Look at the disks of all domains
  kvmops.disk.vm_disk_info:
  register: result

- name: List the domains with raw disks
  ansible.builtin.debug:
    msg: "{{ result.disks | selectattr('format', 'equalto', 'raw') | map(attribute='domain') | unique }}"
"""

RETURN = r"""
disks:
  description:
    - The disks that the task is about.
    - All disks of the domains, also CD-ROM drives and floppy drives. They come by domain, in the order of its
      definition.
  returned: always
  type: list
  elements: dict
  contains:
    domain:
      description: The name of the domain.
      type: str
    uuid:
      description: The UUID of the domain.
      type: str
    state:
      description: The state of the domain, in the words of C(virsh domstate).
      type: str
    target:
      description: The name of the disk in the definition of the domain, such as V(vda).
      type: str
    bus:
      description: The bus that it is attached to.
      type: str
    device:
      description: The kind of device - V(disk), V(cdrom), V(floppy) or V(lun).
      type: str
    type:
      description: The kind of its source - V(file), V(block), V(volume), V(network), ...
      type: str
    path:
      description:
        - The path of its image.
        - A file or a block device. V(null) for other kinds of source, and for an empty drive.
      type: str
    format:
      description:
        - The format of its image.
        - It is the one that the definition says.
      type: str
    readonly:
      description: Whether the guest may only read it.
      type: bool
    shareable:
      description: Whether several domains may use it at once.
      type: bool
    virtual_size:
      description:
        - The size that the guest sees, in bytes.
        - V(null) if the image cannot be read.
      type: int
    actual_size:
      description:
        - The bytes that its image occupies.
        - The images below it count for themselves.
      type: int
    backing_chain:
      description: The image and those below it, top first. RV(kvmops.disk.qcow2_image#module:image) lists their facts.
      type: list
      elements: dict
    users:
      description: The other domains that use the same file, in which role, and in which format they read it.
      type: list
      elements: dict
    dependents:
      description:
        - The images that read this one, as far as the disks of domains tell, and what M(kvmops.disk.vm_linked_clone)
          noted beside the image. M(kvmops.disk.qcow2_image_info) also searches directories.
        - If the domain runs and can write the image, there is a warning. A domain can be started on an image that
          clones depend on, unless the image is read-only and QEMU runs as another user than root.
      type: list
      elements: str
    job:
      description:
        - Whether a block job runs on it.
        - V(null) if that is unknown, because the domain's QEMU does not answer. RV(disks[].problem) says so then.
      type: bool
    unfinished:
      description:
        - Whether a conversion of it is at work or was interrupted. Also true if the guest was asked to shut down for a
          conversion and may go off late.
        - The next run of M(kvmops.disk.vm_disk_convert) finishes or reverts it, whatever the format is by then.
      type: bool
    problem:
      description: Why the image or its chain is unreadable, or why the domain does not answer. V(null) if all is well.
      type: str
"""

import typing as t
from dataclasses import asdict, dataclass

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils import _dependents, _domain, _image, _record_xml, _usage
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, NoAnswer
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt import Hypervisor
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt_binding import is_missing_domain
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt_domain import Domain
from ansible_collections.kvmops.disk.plugins.module_utils._module import URI_SPEC, run
from ansible_collections.kvmops.disk.plugins.module_utils._parallel import in_parallel
from ansible_collections.kvmops.disk.plugins.module_utils._qemu_img import QemuImg


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
            disk.element.device == "disk" and _record_xml.shutdown_in(self.state.definition) is not None
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
    qemu_img: QemuImg, observed: Observed, disk: _domain.DomainDisk, users: list[_usage.User]
) -> dict[str, t.Any]:
    """One disk as the module returns it."""
    state, element = observed.state, disk.element
    images, problem = _images(qemu_img, disk)
    others = [user for user in _usage.users_of(disk.path, users) if user.uuid != state.uuid] if disk.path else []
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
        "those: shut it down, and make them anew from a base that no domain runs on"
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


def gather(module: AnsibleModule) -> dict[str, t.Any]:
    """One run of the module."""
    names = module.params["names"]
    hypervisor = Hypervisor.connect(module.params["uri"])
    qemu_img = QemuImg.find()
    seen = [found for domain in domains(hypervisor, names) if (found := observe(hypervisor, domain, names is not None))]
    users = _usage.domain_users(hypervisor)
    disks = [(observed, disk) for observed in seen for disk in observed.state.disks]
    described = in_parallel(lambda item: facts(qemu_img, *item, users), disks)
    for (observed, _disk), described_disk in zip(disks, described):
        if observed.state.active and described_disk["dependents"] and not described_disk["readonly"]:
            module.warn(_endangered(described_disk))
    return {"changed": False, "disks": described}


def main() -> None:
    module = AnsibleModule(
        argument_spec={**URI_SPEC, "names": {"type": "list", "elements": "str", "aliases": ["name"]}},
        supports_check_mode=True,
    )
    run(module, gather)


if __name__ == "__main__":
    main()
