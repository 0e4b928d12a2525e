#!/usr/bin/python
# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: vm_disk_restore
short_description: Disks made of a backup
version_added: 0.9.0
author:
  - kvmops.disk contributors (@kvmops)
description:
  - Makes images of the disks of a backup that M(kvmops.disk.vm_disk_backup) has made, full or incremental, in a
    directory. Each image is whole. It needs neither the backup nor those below it.
  - An image appears under its name when it is whole, on the disk, and, with O(verify), compared. It belongs to the user
    of the task alone.
  - Whatever stands in the directory of the backups may have been put there by any user. No link is followed, and no
    reference in an image. A backup that is not whole is refused, and the message says why.
  - No domain is changed. To have a domain run on a restored disk, shut it down, and name the image in its definition.
extends_documentation_fragment:
  - kvmops.disk.places
  - kvmops.disk.image
  - kvmops.disk.progress
  - kvmops.disk.attributes
  - kvmops.disk.attributes.changing
  - kvmops.disk.attributes.action_group
options:
  src_dir:
    description:
      - The directory in which the backups of all domains stand.
    type: path
    required: true
  domain:
    description:
      - The domain whose backup it is, by its UUID, or by the name that it had when it was backed up.
    type: str
    required: true
  backup:
    description:
      - The name of the backup.
    type: str
    required: true
  dest_dir:
    description:
      - The directory in which the images are made. It must be there. The image of V(vda) is C(vda.qcow2) or C(vda.raw).
      - An image that stands there already is compared. If it has the content of the backup, nothing changes. If it has
        another, the task fails, and the image is left alone.
    type: path
    required: true
  disks:
    description:
      - The targets of the disks to restore, such as V(vda). The default is all that the backup has.
    type: list
    elements: str
  format:
    description:
      - The format of the images.
    type: str
    choices: [qcow2, raw]
    default: qcow2
  verify:
    description:
      - Whether all files of the backup, and of those below it, are read and compared with their hashes first, and each
        new image is compared with the backup.
    type: bool
    default: true
seealso:
  - module: kvmops.disk.vm_disk_backup
  - module: kvmops.disk.vm_disk_backup_info
"""

EXAMPLES = r"""
- name: Make the disks of last Saturday
  kvmops.disk.vm_disk_restore:
    src_dir: /backup
    domain: web
    backup: "2026-11-28"
    dest_dir: /srv/restored

- name: Make one disk, as a raw image
  kvmops.disk.vm_disk_restore:
    src_dir: /backup
    domain: web
    backup: "2026-11-28"
    disks: [vdb]
    dest_dir: /srv/restored
    format: raw
"""

RETURN = r"""
actions:
  description: What was done, in order. In check mode, what would be done.
  returned: always
  type: list
  elements: str
diff:
  description:
    - What changes, before and after.
    - The images that are there.
  returned: always
  type: list
  elements: dict
backup:
  description:
    - The backup, as RV(kvmops.disk.vm_disk_backup_info#module:backups) has it.
  returned: always
  type: dict
disks:
  description:
    - The disks that the task is about.
    - These are those of the backup that are restored.
  returned: always
  type: list
  elements: dict
  contains:
    target:
      description: The name of the disk in the definition of the domain, such as V(vda).
      type: str
    path:
      description:
        - The path of its image.
        - This is the restored image.
      type: str
    format:
      description: The format of its image.
      type: str
    virtual_size:
      description: The size that the guest sees, in bytes.
      type: int
    actual_size:
      description:
        - The bytes that its image occupies.
        - V(null) for an image that would be made in check mode.
      type: int
backups:
  description: The names of the backups that there are of the domain, if the wanted one is missing.
  returned: failure
  type: list
  elements: str
problems:
  description: What is wrong with the backup of that name, if that made the task fail.
  returned: failure
  type: list
  elements: str
required_bytes:
  description: The space that is needed, if less is available.
  returned: failure
  type: int
available_bytes:
  description: The space that is available, if more is needed.
  returned: failure
  type: int
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._task.run import run_module
from ansible_collections.kvmops.disk.plugins.module_utils._task.specs import (
    ASKED_URI_SPEC,
    PLACES_SPEC,
    PROGRESS_SPEC,
)
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_restore.task import run


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **ASKED_URI_SPEC,
            **PLACES_SPEC,
            **PROGRESS_SPEC,
            "src_dir": {"type": "path", "required": True},
            "domain": {"type": "str", "required": True},
            "backup": {"type": "str", "required": True},
            "dest_dir": {"type": "path", "required": True},
            "disks": {"type": "list", "elements": "str"},
            "format": {"type": "str", "choices": ["qcow2", "raw"], "default": "qcow2"},
            "verify": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    run_module(module, run)


if __name__ == "__main__":
    main()
