#!/usr/bin/python
# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: vm_disk_snapshot
short_description: External snapshots of the disks of a virtual machine
version_added: 0.9.0
author:
  - kvmops.disk contributors (@kvmops)
description:
  - Takes a snapshot of the disks of a domain, all of them at one point in time, merges it back, or reverts the domain
    to it. The domain may run or be off.
  - The image of each disk stays as it was at the snapshot, and the guest continues with a new qcow2 image over it, the
    overlay. The overlay of C(web.qcow2) for a snapshot C(nightly) is C(web.nightly.qcow2) beside it. It gets the owner,
    mode and labels of the image below it. A file that stands there already is never overwritten.
  - To remove a snapshot, the task merges its overlays into the images below them. While the domain runs, libvirt does
    that by block commit, and the guest does not notice. While the domain is off, C(qemu-img commit) does it. Then the
    overlays are removed, and libvirt forgets the snapshot. A snapshot in the middle of others is removed in the same
    way. When the disk has its original image again, the definition is the same as before the snapshot.
  - Only O(state=reverted) stops a domain, and starts it again. The other states leave a running domain running, and a
    domain that is off stays off.
  - With O(keep) the oldest snapshots beyond a number are removed, too.
  - libvirt knows the snapshots (C(virsh snapshot-list)). This module also removes those that other tools took.
  - If the module is killed, a block commit continues without it. The next run on the domain finishes the removal first,
    whatever it is asked to do, and waits for a block commit that still runs. Half a merge cannot be undone, because the
    image below the overlay has changed. The guest reads the right content at any moment. If a merge fails or is
    stopped, the next run finishes it in the same way.
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
  snapshot:
    description:
      - The name of the snapshot. It becomes a part of the names of overlays. So it must not contain a slash or begin
        with a dot.
      - Optional if O(keep) is given. Then the task only removes what is too old.
    type: str
  state:
    description:
      - V(present) makes sure that there is a snapshot of this name. An existing one is left as it is. It is an error if
        that one has other O(disks), is inside of images, or holds the memory of the guest.
      - V(absent) makes sure that there is none, by merging it back.
      - V(reverted) reverts the disks, and the definition of the domain, to the snapshot. What the guest wrote since is
        lost. This needs libvirt 9.10 or newer. With an older one the task fails, and says what to do by hand. libvirt
        puts the disks on new overlays of its own, which RV(disks) lists. A running domain is stopped, as if its plug
        was pulled, and started again. A domain that is off stays off.
      - With V(reverted) nothing changes if the domain is off, and its overlays over the images of the snapshot are
        empty. Changes of the definition do not count. What a running guest has written is unknown, so a running domain
        is reverted each time.
    type: str
    choices: [present, absent, reverted]
    default: present
  disks:
    description:
      - The disks of a new snapshot, each by its target (such as V(vda)) or by the path of its image.
      - The default is all disks that the guest may write to. CD-ROMs, floppies, read-only disks, and disks that
        libvirt's XML leaves out of snapshots (C(snapshot='no') or C(snapshot='manual')) are left out. A disk that is
        named here is in the snapshot in any case.
      - If a snapshot of the name exists, its disks are only compared if this option is given.
    type: list
    elements: str
  quiesce:
    description:
      - Whether the guest agent freezes the file systems of a running guest while the snapshot is taken, so that they
        are clean in it. Otherwise they are as after a power failure, which journals are made for.
      - V(auto) asks the agent. If it is silent or fails to freeze, the snapshot is taken without it, and a warning says
        what the agent did. RV(quiesced) says which it was. V(required) makes the task fail then. V(never) leaves the
        agent alone.
      - The agent gets a minute to freeze. For that the task sets the response time-out that libvirt has for the agent
        of the domain, and removes it afterwards (C(virsh guest-agent-timeout)).
      - It has no effect on a domain that is off.
    type: str
    choices: [auto, required, never]
    default: auto
  keep:
    description:
      - How many external snapshots whose names begin with O(prefix) may stay. The oldest beyond these are removed. A
        new one counts. The snapshot that the task names with O(state=present) is never removed.
    type: int
  prefix:
    description:
      - Which snapshots O(keep) is about. The default is all external ones.
    type: str
  bandwidth:
    description:
      - The most bytes that a block commit may write in a second, such as V(50M). By default there is no limit.
    type: str
  timeout:
    description:
      - How many seconds the merge of one overlay may take while the domain runs. Then it is ended, and the task fails.
        The next run finishes it.
    type: int
    default: 86400
  search_paths:
    description:
      - More directories to search for overlays that read the images of the snapshot, such as linked clones. The task
        always searches the directories of the images, those of libvirt's storage pools, and the disks of all domains.
    type: list
    elements: path
    default: []
  trusted:
    description:
      - Whether to follow references to backing files and data files that are in the images but that neither the
        definition nor a snapshot names. This matters if the domain is off and a snapshot is removed.
    type: bool
    default: false
notes:
  - A snapshot is not a backup, because the overlay needs the image below it. A chain of many overlays makes a disk
    slower.
  - Domains are refused if they are transient, or have a managed-save image, checkpoints, or a block job of another
    program. Disks are refused if they are shareable, transient or encrypted, or have no image file. A removal is
    refused if other images, such as linked clones, read an image that it would write or remove.
  - Other modules of this collection refuse to convert or flatten the disks of a domain that has snapshots.
  - "Which module to use: M(kvmops.disk.qcow2_snapshot) has snapshots inside of a qcow2 image, which belongs to a domain
    that is off, or to none. They need no other file, a revert to them is always possible, and each is of one image."
seealso:
  - module: kvmops.disk.qcow2_snapshot
  - module: kvmops.disk.vm_disk_info
  - module: kvmops.disk.vm_disk_flatten
"""

EXAMPLES = r"""
- name: Take a snapshot of all disks before an upgrade, with clean file systems
  kvmops.disk.vm_disk_snapshot:
    name: web
    snapshot: before-upgrade
    quiesce: required

- name: The upgrade went well, so merge the snapshot back, with at most 100 MiB in a second
  kvmops.disk.vm_disk_snapshot:
    name: web
    snapshot: before-upgrade
    state: absent
    bandwidth: 100M

- name: The upgrade failed, so revert to the snapshot (libvirt 9.10 or newer)
  kvmops.disk.vm_disk_snapshot:
    name: web
    snapshot: before-upgrade
    state: reverted

- name: Take a snapshot each night, and keep those of a week
  kvmops.disk.vm_disk_snapshot:
    name: db
    snapshot: "nightly-{{ ansible_date_time.date }}"
    disks: [vda, vdb]
    keep: 7
    prefix: nightly-
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
    - The snapshots, the images of the disks, and the definition of the domain as a unified diff. Passwords are hidden.
      With O(state=reverted) the new definition is unknown in check mode.
  returned: always
  type: list
  elements: dict
snapshots:
  description:
    - The snapshots afterwards. In check mode, as they would be.
    - All snapshots of the domain.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: The name.
      type: str
    date:
      description: When it was taken, in ISO 8601. V(null) for a snapshot that would be taken in check mode.
      type: str
    state:
      description:
        - The state of the domain when it was taken. C(disk-snapshot) if the domain ran, C(shutoff) if it was off. A
          snapshot with memory has another state.
      type: str
    parent:
      description: The snapshot that it was taken after. V(null) for a first one.
      type: str
    current:
      description: Whether it is the snapshot that the domain continues from.
      type: bool
    external:
      description: Whether it holds only disks, in files of their own.
      type: bool
    disks:
      description: Its disks that have an overlay.
      type: list
      elements: dict
      contains:
        target:
          description: The name of the disk in the definition of the domain, such as V(vda).
          type: str
        overlay:
          description: The image that the guest continued with.
          type: str
        format:
          description:
            - The format of its image.
            - This is the format of the overlay.
          type: str
        backing_file:
          description:
            - The image below its image. V(null) if there is none.
            - This is the image that the snapshot has kept as it was.
          type: str
        backing_format:
          description: The format of the image below.
          type: str
removed:
  description:
    - What was removed, or would be removed in check mode.
    - The names of snapshots, which were merged back.
  returned: always
  type: list
  elements: str
orphans:
  description:
    - Overlays that are left of snapshots, and that the domain does not run on, such as after C(virsh snapshot-revert)
      to an internal snapshot. A warning names them, too.
    - They read the images below, so that nothing can be merged into these. To remove one, remove its snapshot with
      O(state=absent), and then the file with M(kvmops.disk.qcow2_image).
  returned: always
  type: list
  elements: dict
  contains:
    path:
      description: The path of the overlay.
      type: str
    snapshot:
      description: The snapshot that it is of.
      type: str
    target:
      description: The name of the disk in the definition of the domain, such as V(vda).
      type: str
quiesced:
  description:
    - Whether the file systems of the guest were frozen while the snapshot was taken.
    - V(null) if no snapshot was taken, or the domain is off.
  returned: always
  type: bool
disks:
  description:
    - The disks that the task is about.
    - These are the disks of its snapshots, as they are afterwards. Each has the facts domain, target, path, format,
      virtual_size, actual_size and backing_chain of RV(kvmops.disk.vm_disk_info#module:disks), and those below. The
      sizes are V(null) for an image that would be made. The chain ends at an image that is missing.
  returned: always
  type: list
  elements: dict
  contains:
    backing_file:
      description: The image below its image. V(null) if there is none.
      type: str
    backing_format:
      description: The format of the image below.
      type: str
snapshot_disks:
  description: The disks of the existing snapshot, if it has other disks than the task asks for.
  returned: failure
  type: list
  elements: str
missing:
  description: What the domain needs for its start and is not there, in words, if that made the task fail.
  returned: failure
  type: list
  elements: str
block_jobs:
  description: The disks on which a block job runs, if that made the task fail.
  returned: failure
  type: list
  elements: str
dependents:
  description: The images that read what was to be written or removed, if that made the task fail.
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
libvirt_version:
  description: The version of libvirt, major and minor, if it is too old to revert to a snapshot.
  returned: failure
  type: list
  elements: int
required_bytes:
  description: The space that is needed, if less is available.
  returned: failure
  type: int
available_bytes:
  description:
    - The space that is available, if more is needed.
    - If a block job failed, what was left then.
  returned: failure
  type: int
next_size:
  description: The next size that a raw image can have in the cache mode of the disk, if its size made the task fail.
  returned: failure
  type: int
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._task.run import run_module
from ansible_collections.kvmops.disk.plugins.module_utils._task.specs import (
    PLACES_SPEC,
    PROGRESS_SPEC,
    SEARCH_SPEC,
    SNAPSHOT_SPEC,
    TRUST_SPEC,
    URI_SPEC,
)
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot.task import run


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **PLACES_SPEC,
            **URI_SPEC,
            **PROGRESS_SPEC,
            **SEARCH_SPEC,
            **SNAPSHOT_SPEC,
            **TRUST_SPEC,
            "name": {"type": "str", "required": True, "aliases": ["domain"]},
            "disks": {"type": "list", "elements": "str"},
            "quiesce": {"type": "str", "choices": ["auto", "required", "never"], "default": "auto"},
            "bandwidth": {"type": "str"},
            "timeout": {"type": "int", "default": 86400},
        },
        supports_check_mode=True,
    )
    run_module(module, run)


if __name__ == "__main__":
    main()
