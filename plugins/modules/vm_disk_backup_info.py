#!/usr/bin/python
# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: vm_disk_backup_info
short_description: Facts of the backups in a directory
version_added: 0.9.0
author:
  - kvmops.disk contributors (@kvmops)
description:
  - Returns the backups that M(kvmops.disk.vm_disk_backup) has made in a directory, and which of them are whole. A
    backup is whole if its files have the right names, lengths and headers, and if all backups that it needs are whole.
  - Neither libvirt nor QEMU is needed. So it runs on any host that mounts the directory.
  - Whatever stands in the directory may have been put there by any user. No link is followed, and no file outside of a
    backup is opened. A backup with such a thing in it is not whole, and RV(backups[].problems) names it.
extends_documentation_fragment:
  - kvmops.disk.attributes
  - kvmops.disk.attributes.info
  - kvmops.disk.attributes.action_group
options:
  dest_dir:
    description:
      - The directory in which the backups of all domains stand.
    type: path
    required: true
  domains:
    description:
      - The domains whose backups are returned, each by its UUID, or by the name that it had when it was backed up. The
        default is all domains.
    type: list
    elements: str
  uri:
    description:
      - libvirt is not asked. The parameter is there so that a default for all modules of the collection, in
        C(module_defaults), fits this one.
    type: str
  verify:
    description:
      - Whether to read all files, and compare them with their hashes. This takes as long as the disk needs for that.
    type: bool
    default: false
notes:
  - This module never changes anything.
  - The hashes tell of damage. A user who can change a file can change its hash, too.
seealso:
  - module: kvmops.disk.vm_disk_backup
  - module: kvmops.disk.vm_disk_restore
"""

EXAMPLES = r"""
- name: Look at all backups
  kvmops.disk.vm_disk_backup_info:
    dest_dir: /backup
  register: result

- name: Fail if one is not whole
  ansible.builtin.assert:
    that: result.backups | rejectattr('whole') | length == 0

- name: Read the backups of one machine, and show the last one that is whole
  kvmops.disk.vm_disk_backup_info:
    dest_dir: /backup
    domains: [web]
    verify: true
  register: verified

- name: Show its name
  ansible.builtin.debug:
    msg: "{{ (verified.backups | selectattr('whole') | last).name }}"
"""

RETURN = r"""
backups:
  description:
    - The backups, by domain, the oldest first. What cannot be read comes first.
    - What only C(backup.json) says is V(null) if that is not believed.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: The name.
      type: str
    path:
      description: The directory of the backup.
      type: str
    uuid:
      description: The UUID of the domain.
      type: str
    domain:
      description: The name of the domain.
      type: str
    whole:
      description: Whether it can be restored, as far as was looked.
      type: bool
    problems:
      description: What is wrong with it. Empty if it is whole.
      type: list
      elements: str
    kind:
      description: C(full), or C(incremental) if it needs another backup.
      type: str
    parent:
      description: The backup that it needs. V(null) for a full one.
      type: str
    checkpoint:
      description:
        - The checkpoint of the domain that was made with it, and that the next backup continues from. V(null) if there
          is none.
      type: str
    taken:
      description: Its point in time, in ISO 8601.
      type: str
    online:
      description: Whether the domain ran.
      type: bool
    quiesced:
      description: Whether the file systems of the guest were frozen. V(null) if the domain was off.
      type: bool
    bytes:
      description: The bytes of its files, without those of the backups that it needs.
      type: int
    disks:
      description: Its disks.
      type: list
      elements: dict
      contains:
        target:
          description: The name of the disk in the definition of the domain, such as V(vda).
          type: str
        path:
          description:
            - The path of its image.
            - This is the image in the backup, which is qcow2.
          type: str
        kind:
          description: C(full), or C(incremental) if it needs the same disk of the parent.
          type: str
        format:
          description:
            - The format of its image.
            - This is that of the image that the domain had.
          type: str
        virtual_size:
          description: The size that the guest sees, in bytes.
          type: int
        tracked:
          description: Whether the checkpoint knows what changes in it. If not, it is copied as a whole each time.
          type: bool
        bytes:
          description: The bytes of its file.
          type: int
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._task.run import run_module
from ansible_collections.kvmops.disk.plugins.module_utils._task.specs import ASKED_URI_SPEC
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_backup_info.task import run


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **ASKED_URI_SPEC,
            "dest_dir": {"type": "path", "required": True},
            "domains": {"type": "list", "elements": "str"},
            "verify": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    run_module(module, run, only_looks=True)


if __name__ == "__main__":
    main()
