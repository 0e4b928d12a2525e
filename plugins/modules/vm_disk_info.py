#!/usr/bin/python
# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: vm_disk_info
short_description: Facts of the disks of virtual machines
version_added: 0.9.0
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
    discard:
      description:
        - What happens to the blocks that the guest discards. With V(unmap) their space is given back, with V(ignore) it
          is not.
        - V(null) if the machine does not say it, which means the same as V(ignore).
      type: str
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
      description:
        - Why the image or its chain is unreadable, which storage volume cannot be found, or why the domain does not
          answer. V(null) if all is well.
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
    run_module(module, run, only_looks=True)


if __name__ == "__main__":
    main()
