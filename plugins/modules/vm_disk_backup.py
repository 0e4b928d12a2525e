#!/usr/bin/python
# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: vm_disk_backup
short_description: Backups of the disks of a virtual machine
version_added: 0.9.0
author:
  - kvmops.disk contributors (@kvmops)
description:
  - Makes a backup of the disks of a domain, all of them at one point in time. The domain may run or be off. A running
    guest continues, and a domain that is off is not started.
  - A backup has a name. If a whole backup of that name is there, the task changes nothing.
  - A backup is a directory, C(DEST_DIR/UUID/BACKUP). It holds a qcow2 image for each disk (C(vda.qcow2)), the
    definition of the domain (C(domain.xml), with its passwords), the file with its UEFI variables (C(nvram)) if it has
    one, and C(backup.json), which says what the backup is, and has the SHA-256 of each file. Only the user of the task
    may read it. The directory C(DEST_DIR/UUID) can be moved and copied as a whole.
  - An incremental backup holds what has changed since an earlier one. Each of its images has the image of that backup
    as its backing file. So C(qemu-img convert) reads the whole disk from it, without this collection.
  - A backup appears under its name when it is whole. Before that, the task checks the metadata of each new image, its
    size, its chain and its hash, and brings all of it to the disk.
  - While the domain runs, libvirt copies the disks (its backup job in push mode) and makes a checkpoint, from which the
    next backup continues. A raw disk, or a qcow2 image of version 2, cannot say what has changed in it. It is copied as
    a whole each time. While the domain is off, C(qemu-img) copies the disks as a whole, and compares the copies with
    them.
  - If the backup fails, the task ends the job, deletes its checkpoint and removes its files. If the module is killed,
    libvirt's job continues without it. The next run for the same backup waits for that job. If the next run is for
    another backup, or if the job has ended by then, it clears all of it away and copies the disks again. A checkpoint
    of a backup that is not whole is never the base of another one.
  - With O(keep), backups that are too old are removed when the new one is whole.
extends_documentation_fragment:
  - kvmops.disk.places
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
  backup:
    description:
      - The name of the backup. It becomes the name of a directory. It has up to 128 characters, which are letters,
        digits, underscores, dots, colons, plus and minus signs. It begins with a letter, a digit or an underscore.
    type: str
    required: true
  dest_dir:
    description:
      - The directory in which the backups of all domains stand. It must be there. The task makes a directory for each
        domain in it, named by its UUID.
      - While the domain runs, its QEMU writes the new images. So QEMU's user must be able to enter the directory. Until
        they are done, the images belong to that user.
    type: path
    required: true
  disks:
    description:
      - The disks to back up, each by its target (such as V(vda)) or by the path of its image.
      - The default is all disks that the guest may write to. CD-ROMs, floppies and read-only disks are left out.
    type: list
    elements: str
  kind:
    description:
      - V(full) copies each disk as a whole.
      - V(incremental) copies what has changed since the newest whole backup that has a checkpoint. The task fails if
        there is none, or if it is not known any more what has changed.
      - V(auto) is V(incremental) where that is possible. Otherwise it is V(full), and RV(reason) says why.
    type: str
    aliases: [mode]
    choices: [auto, full, incremental]
    default: auto
  quiesce:
    description:
      - Whether the guest agent freezes the file systems of a running guest at the point in time of the backup, so that
        they are clean in it. Otherwise they are as after a power failure, which journals are made for. They are thawed
        as soon as the copy has begun.
      - V(auto) asks the agent. If there is none, or if it is silent, the backup is made without it. V(required) makes
        the task fail then. V(never) leaves the agent alone.
      - The agent gets a minute to freeze. For that the task sets the response time-out that libvirt has for the agent
        of the domain, and removes it afterwards (C(virsh guest-agent-timeout)).
      - It has no effect on a domain that is off.
    type: str
    choices: [auto, required, never]
    default: auto
  max_chain:
    description:
      - How many backups may stand on each other, from 1 to 64. With O(kind=auto) the next one is a full one then, and
        begins a new chain. So O(keep) can remove the old chain some day.
    type: int
    default: 64
  keep:
    description:
      - Which backups of the domain in O(dest_dir) stay. The others are removed once the new backup is whole, or at once
        if it is there already. The default is to remove none.
      - A backup stays if one of the rules keeps it, and as long as one that stays needs it. So a chain goes as a whole,
        or from its end. The backup O(backup) itself stays too, and so does the newest one that has a checkpoint. One of
        which a disk is in use, such as by a domain or an overlay in one of libvirt's pools, stays with a warning.
      - A backup that is not whole is left alone, with those that it needs. If the C(backup.json) of one cannot be
        believed, it is unknown what that one needs. Then all stay, and the task warns of that.
      - A directory of a backup in which there is any other file is left alone, with a warning. So is one that cannot be
        removed. Those that such a backup needs stay, too.
    type: dict
    suboptions:
      last:
        description: How many of the newest backups stay.
        type: int
        default: 0
      daily:
        description: Of how many days the newest backup stays. Days without a backup do not count. They are days of UTC.
        type: int
        default: 0
      weekly:
        description: The same of weeks, which begin on Monday.
        type: int
        default: 0
      monthly:
        description: The same of months.
        type: int
        default: 0
  verify:
    description:
      - Whether each new file is read once more, from the disk, and compared with its hash. For a domain that is off,
        this is also whether each copy is compared with the disk.
    type: bool
    default: true
  timeout:
    description:
      - How many seconds libvirt's job may take. Then it is ended, and the task fails.
    type: int
    default: 86400
  trusted:
    description:
      - Whether to follow references to backing files and data files that are in the images but that the definition does
        not name. This matters if the domain is off.
    type: bool
    default: false
notes:
  - Keep the backups of a chain together. An incremental backup is worth nothing without those below it.
  - A domain with checkpoints is refused by the modules of this collection that change its disks. Delete the checkpoints
    first (C(virsh checkpoint-delete)). The next backup is then a full one.
  - When a backup with a checkpoint is whole, the checkpoints of the earlier backups in the same directory are deleted,
    because nothing continues from them. Checkpoints of other programs are never touched.
  - What has changed is known as long as QEMU ends in an orderly way. If it is killed, the next backup is a full one.
  - Domains are refused if they are transient, or have a job of another program. Disks are refused if they are
    encrypted, shareable or transient, or have no image file or block device.
seealso:
  - module: kvmops.disk.vm_disk_backup_info
  - module: kvmops.disk.vm_disk_restore
  - module: kvmops.disk.vm_disk_snapshot
  - module: kvmops.disk.qcow2_convert
"""

EXAMPLES = r"""
- name: Back the machine up each night, as much as has changed
  kvmops.disk.vm_disk_backup:
    name: web
    backup: "{{ ansible_date_time.date }}"
    dest_dir: /backup

- name: Begin a new chain on Sundays
  kvmops.disk.vm_disk_backup:
    name: web
    backup: "{{ ansible_date_time.date }}"
    dest_dir: /backup
    mode: "{{ 'full' if ansible_date_time.weekday == 'Sunday' else 'auto' }}"

- name: Begin a new chain after seven backups, and keep those of a week, a month and half a year
  kvmops.disk.vm_disk_backup:
    name: web
    backup: "{{ ansible_date_time.date }}"
    dest_dir: /backup
    max_chain: 7
    keep: {last: 7, weekly: 4, monthly: 6}

- name: Back up one disk, with clean file systems
  kvmops.disk.vm_disk_backup:
    name: db
    backup: before-upgrade
    dest_dir: /backup
    disks: [vdb]
    quiesce: required
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
    - The names of the backups of the domain in the directory.
  returned: always
  type: list
  elements: dict
backup:
  description:
    - The backup, as RV(kvmops.disk.vm_disk_backup_info#module:backups) has it.
    - In check mode, as far as it is known beforehand. The sizes of its files are not.
  returned: always
  type: dict
reason:
  description: Why O(kind=auto) made, or would make, a full backup. V(null) otherwise.
  returned: always
  type: str
removed:
  description:
    - What was removed, or would be removed in check mode.
    - The names of the backups that O(keep) does not keep, the newest first.
  returned: always
  type: list
  elements: str
problems:
  description: What is wrong with the backup of that name, if that made the task fail.
  returned: failure
  type: list
  elements: str
block_jobs:
  description: The disks on which a block job runs, if that made the task fail.
  returned: failure
  type: list
  elements: str
in_use_by:
  description: The domains that use what the task needs, if that made the task fail. Empty if another program uses it.
  returned: failure
  type: list
  elements: dict
interrupted:
  description: What another module left unfinished on the domain, if that made the task fail.
  returned: failure
  type: dict
required_bytes:
  description: The space that is needed, if less is available.
  returned: failure
  type: int
available_bytes:
  description:
    - The space that is available, if more is needed.
    - If the copy failed, what was left then.
  returned: failure
  type: int
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._task.run import run_module
from ansible_collections.kvmops.disk.plugins.module_utils._task.specs import (
    PLACES_SPEC,
    PROGRESS_SPEC,
    TRUST_SPEC,
    URI_SPEC,
)
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_backup.task import run

_RULES = ("last", "daily", "weekly", "monthly")


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **PLACES_SPEC,
            **URI_SPEC,
            **PROGRESS_SPEC,
            **TRUST_SPEC,
            "name": {"type": "str", "required": True, "aliases": ["domain"]},
            "backup": {"type": "str", "required": True},
            "dest_dir": {"type": "path", "required": True},
            "disks": {"type": "list", "elements": "str"},
            "kind": {"type": "str", "aliases": ["mode"], "choices": ["auto", "full", "incremental"], "default": "auto"},
            "quiesce": {"type": "str", "choices": ["auto", "required", "never"], "default": "auto"},
            "max_chain": {"type": "int", "default": 64},
            "keep": {"type": "dict", "options": {rule: {"type": "int", "default": 0} for rule in _RULES}},
            "verify": {"type": "bool", "default": True},
            "timeout": {"type": "int", "default": 86400},
        },
        supports_check_mode=True,
    )
    run_module(module, run)


if __name__ == "__main__":
    main()
