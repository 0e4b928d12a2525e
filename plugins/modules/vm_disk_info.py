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
    backing chains, whether the domains run or not.
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
      - Names or UUIDs of the domains; all domains if left out.
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
  description: The disks, cdroms and floppies included, by domain and in the order of its definition.
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
      description: The name of the disk inside the domain's definition, such as V(vda).
      type: str
    bus:
      description: The bus that it is attached to.
      type: str
    device:
      description: What it is - V(disk), V(cdrom), V(floppy) or V(lun).
      type: str
    type:
      description: The kind of its source - V(file), V(block), V(volume), V(network), ...
      type: str
    path:
      description: The file or block device; null for other kinds and for an empty drive.
      type: str
    format:
      description: The format that the definition says.
      type: str
    readonly:
      description: Whether the guest may only read it.
      type: bool
    shareable:
      description: Whether several domains may use it at once.
      type: bool
    virtual_size:
      description: The size that the guest sees, in bytes; null where the image cannot be looked at.
      type: int
    actual_size:
      description: The bytes that the image occupies, without the images below it.
      type: int
    backing_chain:
      description: The image and those below it, top first; see M(kvmops.disk.qcow2_image) for what is known of each.
      type: list
      elements: dict
    users:
      description: The other domains that use the same file, as what, and in which format they read it.
      type: list
      elements: dict
    dependents:
      description:
        - The images that read this one, as far as the disks of domains, and what M(kvmops.disk.vm_linked_clone) noted
          beside it, tell. M(kvmops.disk.qcow2_image_info) also searches directories.
        - Where the domain runs and can write it, there is a warning. Nothing else prevents that a machine is started on
          an image that clones depend on, unless the image is read-only and QEMU does not run as root.
      type: list
      elements: str
    job:
      description:
        - Whether a block job runs on it; null where that is not known, as the domain's QEMU does not answer.
          The RV(disks[].problem) is that then.
      type: bool
    unfinished:
      description:
        - Whether it is being converted, or was when that was interrupted, or the guest was asked to shut down for that
          and may go off late.
          The next run of M(kvmops.disk.vm_disk_convert) then finishes or reverts it, whatever the format is by now.
      type: bool
    problem:
      description: Why the image, or its chain, cannot be looked at, or the domain not be asked; null where it can.
      type: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._task.run import run_module
from ansible_collections.kvmops.disk.plugins.module_utils._task.specs import URI_SPEC
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_info.task import run


def main() -> None:
    module = AnsibleModule(
        argument_spec={**URI_SPEC, "names": {"type": "list", "elements": "str", "aliases": ["name"]}},
        supports_check_mode=True,
    )
    run_module(module, run)


if __name__ == "__main__":
    main()
