#!/usr/bin/python
# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: vm_disk_reclaim
short_description: Give back the space that disks of a virtual machine occupy and do not need
version_added: 0.9.0
author:
  - kvmops.disk contributors (@kvmops)
description:
  - A thin image grows when its guest writes. It does not shrink when the guest deletes. This module gives that space
    back to the file system of the image.
  - While the domain runs, its guest agent trims the file systems of the guest (C(fstrim)), and QEMU frees the blocks in
    the image. The guest never stops. The disk needs C(discard=unmap), which is looked at first, because a trim without
    it reports success and frees nothing.
  - While the domain is off, the image is rewritten beside the old one, without what reads as zeros. The new image is
    compared with the old one and takes its place in one step, under the same name.
  - Nothing is done if less comes back than O(min_gain). So the second run changes nothing.
  - The image keeps its path, its format, its layout (cluster size, compat and so on), its backing file, its dirty
    bitmaps, its owner, mode and labels. The definition of the domain stays as it is. The guest sees the same content.
  - If anything fails, or the module is stopped or killed, the old image or the new one stands in its place. Both hold
    the same. The next run removes what was left beside it.
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
  disk:
    description:
      - The disk, by its target (such as V(vda)) or by the path of its image, which is the top of its backing chain.
    type: str
  disks:
    description:
      - Several disks, each as O(disk). While the domain runs, one trim is for all of them. While it is off, all new
        images are put in place at the end, or none.
    type: list
    elements: str
  min_gain:
    description:
      - The least gain that is worth the work. This is a size, such as V(1G), or a percentage of what the image
        occupies, such as V(10%). V(0) takes whatever comes back.
      - The gain is foretold. It is never less than that, and mostly more. The figures come from the tables of the
        image and, if these do not promise enough, from reading all that it holds. While the domain runs, the guest
        agent tells how full the file systems are. Space of the disk that is in no mounted file system counts as
        needed.
      - If the agent does not tell that, the trim is done in any case. The task has changed something if space came
        back. In check mode it then says that something changes.
    type: str
    default: 10%
  thick:
    description:
      - Whether to give back the space of an image that occupies as much as its disk has. Otherwise it is left alone.
      - It is unknown whether such space was reserved, or whether a thin image has grown to its full size. With this
        option, an image that was reserved is thin afterwards.
    type: bool
    default: false
  agent_timeout:
    description:
      - How many seconds the guest agent has for an answer, the trim included. Then the task fails. The guest may still
        continue the trim.
      - An agent that does not answer at all is given up after a few seconds.
      - It has no effect if the domain is off.
    type: int
    default: 600
  search_paths:
    description:
      - More directories to search for images that have the image as their backing file. The task always searches the
        image's own directory, and those of libvirt's storage pools. It is refused if there are any, because a guest on
        one of them would have the old image open.
      - It has no effect if the domain runs.
    type: list
    elements: path
    default: []
  trusted:
    description:
      - Whether to follow references to backing files and data files that are in the images but that the domain's
        definition does not name.
      - Such a reference can have been planted to copy another file into the disk. The definition names a backing file
        by C(backingStore). That of a running domain always does.
    type: bool
    default: false
notes:
  - What a guest deletes stays in the image, until the guest trims its file systems or overwrites the blocks with zeros.
    While the domain is off, only what reads as zeros comes back. So reclaim a machine while it runs, if you can.
  - The agent trims all file systems that the guest has mounted, also those of other disks. Those whose disks have
    C(discard=unmap) give space back as well.
  - C(discard=unmap) is set with C(kvmops.disk.vm_disk) (O(name), O(disk) and C(discard)). A machine has it after a
    restart.
  - "Only image files are reclaimed. While the domain is off, these are of the formats raw and qcow2. Disks are refused
    if they are read-only, shareable or transient, or hold internal snapshots. While the domain is off, encrypted disks
    are refused as well, and so are domains with snapshots or a managed-save image."
  - A compressed image is written uncompressed, and so only if it occupies less even then. A new image is not
    preallocated, even if the old one was.
  - While the domain is off, the file system needs room for the new image beside the old one.
  - In a guest with LVM or encryption, these layers have to pass discards on (C(issue_discards), C(discard) in
    C(crypttab)). A warning says if a trim gave nothing back.
seealso:
  - module: kvmops.disk.qcow2_image_info
  - module: kvmops.disk.vm_disk_info
  - module: kvmops.disk.storage_capacity_info
  - ref: ansible_collections.kvmops.disk.docsite.guide_capacity
    description: What file systems have promised, and how to win space back.
"""

EXAMPLES = r"""
- name: Give back what a machine has deleted, whether it runs or is off
  kvmops.disk.vm_disk_reclaim:
    name: web
    disk: vda

- name: Give back the space of two disks of a machine, if each of them has 1 GiB or more to give
  kvmops.disk.vm_disk_reclaim:
    name: db
    disks: [vda, vdb]
    min_gain: 1G

- name: Find out what the disk of a machine would give back, and change nothing
  kvmops.disk.vm_disk_reclaim:
    name: mail
    disk: vda
  check_mode: true
  register: reclaim

- name: Show it
  ansible.builtin.debug:
    msg: "{{ reclaim.disks[0].foretold }} bytes or more of {{ reclaim.disks[0].before }}"

- name: Make the disk thin that was reserved when the machine was made
  kvmops.disk.vm_disk_reclaim:
    name: archive
    disk: vda
    thick: true
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
    - What each image occupies, and what it occupies afterwards at most.
  returned: always
  type: dict
disks:
  description:
    - The disks that the task is about.
    - They come in the order of the task, as they are afterwards. Each has the facts domain, target, path, format,
      virtual_size, actual_size and backing_chain of RV(kvmops.disk.vm_disk_info#module:disks), and those below. In
      check mode C(actual_size) is that before the change.
  returned: always
  type: list
  elements: dict
  contains:
    before:
      description: The bytes that the image occupied.
      type: int
    after:
      description: The bytes that it occupies now. V(null) in check mode if something would be done.
      type: int
    gained:
      description:
        - The bytes that came back. In check mode those that come back at least.
        - V(null) in check mode if that is unknown.
      type: int
    foretold:
      description: The bytes that were to come back at least. V(null) if that was unknown, or did not matter.
      type: int
    mode:
      description: How it was changed, V(live) or V(offline). V(null) if nothing changed.
      type: str
    verified:
      description:
        - Whether the new image was compared with the old one.
        - Always false after a trim.
      type: bool
    left_alone:
      description:
        - Why nothing was done. V(thick) if the image occupies as much as its disk has, see O(thick). V(min_gain) if too
          little would come back, see O(min_gain).
        - V(null) if something was done.
      type: str
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
    PLACES_SPEC,
    PROGRESS_SPEC,
    SEARCH_SPEC,
    TRUST_SPEC,
    URI_SPEC,
)
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_reclaim.task import run


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **PLACES_SPEC,
            **URI_SPEC,
            **PROGRESS_SPEC,
            **SEARCH_SPEC,
            **TRUST_SPEC,
            "name": {"type": "str", "required": True, "aliases": ["domain"]},
            "disk": {"type": "str"},
            "disks": {"type": "list", "elements": "str"},
            "min_gain": {"type": "str", "default": "10%"},
            "thick": {"type": "bool", "default": False},
            "agent_timeout": {"type": "int", "default": 600},
        },
        mutually_exclusive=[("disk", "disks")],
        required_one_of=[("disk", "disks")],
        supports_check_mode=True,
    )
    run_module(module, run)


if __name__ == "__main__":
    main()
