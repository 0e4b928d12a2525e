#!/usr/bin/python
# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: vm_disk_convert
short_description: Convert the disks of a virtual machine, and the machine with them
version_added: 0.1.0
author:
  - kvmops.disk contributors (@kvmops)
description:
  - Makes sure that disks of a libvirt domain are in a format, and at a place. Where they are not, the domain is shut
    down, the images are converted and compared with their sources, the domain is redefined with the new ones and
    started again.
  - In the definition, the driver type and the source of the disks change and nothing else does.
  - A disk with backing files becomes independent of them.
  - When anything fails, or the task is told to end, everything is as before and a domain that ran runs again. When
    the module is killed, the next run finishes or reverts what was in flight and starts a domain that was left off.
  - The sources are kept unless O(keep_source=false).
extends_documentation_fragment:
  - kvmops.disk.allocation
  - kvmops.disk.libvirt
  - kvmops.disk.libvirt.requirements
  - kvmops.disk.progress
  - kvmops.disk.attributes
  - kvmops.disk.attributes.changing
  - kvmops.disk.attributes.action_group
options:
  name:
    description:
      - The name or the UUID of the domain.
    type: str
    required: true
    aliases: [domain]
  disk:
    description:
      - The disk, by its target (such as V(vda)) or by the path of its source.
      - A path may be that of the source before an earlier conversion.
    type: str
  disks:
    description:
      - Several disks, each as O(disk). They are converted in one go, with one redefinition.
    type: list
    elements: str
  format:
    description:
      - The format that the disks are to have.
    type: str
    choices: [raw, qcow2, qcow, qed, vmdk, vdi, vpc]
    default: qcow2
  dest:
    description:
      - The absolute path of the new image; for one disk only.
      - If neither this nor O(dest_dir) is given, the new image stands beside the old one, under its name with the
        suffix of the new format, and a disk that has the format already is left alone wherever it is.
    type: path
  dest_dir:
    description:
      - The directory of the new images; their names are made from those of the sources.
    type: path
  mode:
    description:
      - V(offline) converts while the domain is off. V(auto) chooses the way; at present it is always V(offline).
    type: str
    choices: [auto, offline]
    default: auto
  shutdown:
    description:
      - What may be done to a running domain. V(graceful) asks the guest to shut down and waits for it.
        V(force) pulls the plug. V(never) makes the task fail.
    type: str
    choices: [graceful, force, never]
    default: graceful
  shutdown_timeout:
    description:
      - How many seconds the guest has to shut down. If it does not, the task fails and the domain runs on.
    type: int
    default: 120
  restart:
    description:
      - Whether a domain that ran is started again. A domain that was off stays off.
    type: bool
    default: true
  verify:
    description:
      - Whether the new images are compared with their sources before they are used.
    type: bool
    default: true
  keep_source:
    description:
      - Whether the old images are kept. Otherwise they are removed after the domain runs from the new ones, or,
        if it is off, after its new definition has been verified.
      - An old image that other images have as their backing file is not removed; the task fails before it changes
        anything.
    type: bool
    default: true
  compress:
    description:
      - Whether the new images are compressed. What the guest writes later is not.
    type: bool
    default: false
  compression_type:
    description:
      - How they are compressed.
    type: str
    choices: [zlib, zstd]
  search_paths:
    description:
      - Directories in which images are looked for that have a source as their backing file, beside its own directory
        and those of libvirt's storage pools. Matters with O(keep_source=false).
    type: list
    elements: path
    default: []
  trusted:
    description:
      - Whether to follow references to backing and data files that are in the images but not in the domain's
        definition.
      - Such a reference can have been planted to copy a foreign file into the disk. The definition names a backing file
        by C(backingStore); that of a running domain always does.
    type: bool
    default: false
seealso:
  - module: kvmops.disk.vm_disk_info
  - module: kvmops.disk.qcow2_image
"""

EXAMPLES = r"""
- name: Turn the raw disk of a machine into qcow2
  kvmops.disk.vm_disk_convert:
    name: web
    disk: vda

- name: Turn two disks into qcow2 on another file system, and remove the old ones
  kvmops.disk.vm_disk_convert:
    name: db
    disks: [vda, vdb]
    dest_dir: /srv/fast
    keep_source: false

- name: Reserve the space of the new image, and give the guest ten minutes to shut down
  kvmops.disk.vm_disk_convert:
    name: mail
    disk: vda
    allocation: lazy_zeroed_thick
    shutdown_timeout: 600

- name: Turn a VMware disk into raw, without ever touching a running machine
  kvmops.disk.vm_disk_convert:
    name: imported
    disk: /srv/import/disk.vmdk
    format: raw
    shutdown: never
"""

RETURN = r"""
actions:
  description: What was done, or would be done in check mode, in order.
  returned: always
  type: list
  elements: str
diff:
  description: The disks before and after, and the change of the domain's definition as a unified diff. Passwords are
    hidden.
  returned: always
  type: list
  elements: dict
disks:
  description: The disks that the task means, in its order.
  returned: always
  type: list
  elements: dict
  contains:
    domain:
      description: The name of the domain.
      type: str
    target:
      description: The name of the disk inside the domain's definition.
      type: str
    path:
      description: Its image, afterwards.
      type: str
    format:
      description: The format of the image, afterwards.
      type: str
    virtual_size:
      description: The size that the guest sees, in bytes.
      type: int
    actual_size:
      description: The bytes that the image occupies. In check mode those of the source.
      type: int
    backing_chain:
      description: The image and those below it, top first.
      type: list
      elements: dict
    previous_path:
      description: The image before; null if nothing changed.
      type: str
    previous_format:
      description: The format before; null if nothing changed.
      type: str
    previous_actual_size:
      description: The bytes that the old image occupied; null if nothing changed.
      type: int
    mode:
      description: How it was converted; null if nothing changed.
      type: str
    verified:
      description: Whether the new image was compared with its source.
      type: bool
    downtime_seconds:
      description: How long the domain was off, from the request to shut down to its start; null if it did not go off
        and on.
      type: float
in_use_by:
  description: The domains that use an image, where that made the task fail.
  returned: failure
  type: list
  elements: dict
dependents:
  description: The images that have a source as their backing file, where that made the task fail.
  returned: failure
  type: list
  elements: str
required_bytes:
  description: The space that the new images need, where there is less.
  returned: failure
  type: int
available_bytes:
  description: The space that there is.
  returned: failure
  type: int
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._convert import DISK_FORMATS
from ansible_collections.kvmops.disk.plugins.module_utils._domain_conversion import convert
from ansible_collections.kvmops.disk.plugins.module_utils._module import (
    ALLOCATION_EXCLUSIVE,
    ALLOCATION_SPEC,
    PROGRESS_SPEC,
    URI_SPEC,
    run,
)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **URI_SPEC,
            **ALLOCATION_SPEC,
            **PROGRESS_SPEC,
            "name": {"type": "str", "required": True, "aliases": ["domain"]},
            "disk": {"type": "str"},
            "disks": {"type": "list", "elements": "str"},
            "format": {"type": "str", "choices": list(DISK_FORMATS), "default": "qcow2"},
            "dest": {"type": "path"},
            "dest_dir": {"type": "path"},
            "mode": {"type": "str", "choices": ["auto", "offline", "live"], "default": "auto"},
            "shallow": {"type": "bool", "default": False},
            "block_device": {"type": "bool", "default": False},
            "bandwidth": {"type": "str"},
            "copy_timeout": {"type": "int", "default": 86400},
            "shutdown": {"type": "str", "choices": ["graceful", "force", "never"], "default": "graceful"},
            "shutdown_timeout": {"type": "int", "default": 120},
            "restart": {"type": "bool", "default": True},
            "verify": {"type": "bool", "default": True},
            "keep_source": {"type": "bool", "default": True},
            "compress": {"type": "bool", "default": False},
            "compression_type": {"type": "str", "choices": ["zlib", "zstd"]},
            "search_paths": {"type": "list", "elements": "path", "default": []},
            "trusted": {"type": "bool", "default": False},
        },
        mutually_exclusive=[*ALLOCATION_EXCLUSIVE, ("disk", "disks"), ("dest", "dest_dir")],
        required_one_of=[("disk", "disks")],
        supports_check_mode=True,
    )
    run(module, convert)


if __name__ == "__main__":
    main()
