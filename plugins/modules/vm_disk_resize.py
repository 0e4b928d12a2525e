#!/usr/bin/python
# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: vm_disk_resize
short_description: Grow, or shrink, a disk of a virtual machine
version_added: 0.9.0
author:
  - kvmops.disk contributors (@kvmops)
description:
  - Makes sure that a disk of a libvirt domain has a size. A domain that runs or is paused continues while its disk
    grows, and its guest sees the new size at once. If the domain is off, C(qemu-img) resizes the image.
  - A disk is never shrunk while its domain is on. While the domain is off, it is shrunk only with O(shrink=true).
  - Only the disk grows. What is in it (the partition, the file system) belongs to the guest; see the notes.
  - The definition of the domain stays the same. The new size stays when the domain is stopped and started again.
  - The task refuses images that other domains name, or that other images have as their backing file. It also refuses
    disks that are read-only, shareable or transient, or have a block job.
  - A disk can grow although the domain has snapshots. A snapshot keeps the size that the disk had, and a revert to it
    brings that size back. Shrinking is refused if the domain has snapshots or checkpoints. A qcow2 image of compat 0.10
    that holds internal snapshots cannot be resized at all.
extends_documentation_fragment:
  - kvmops.disk.places
  - kvmops.disk.libvirt
  - kvmops.disk.libvirt.requirements
  - kvmops.disk.align_size
  - kvmops.disk.overcommit
  - kvmops.disk.attributes
  - kvmops.disk.attributes.changing
  - kvmops.disk.attributes.action_group
attributes:
  idempotent:
    support: partial
    details:
      - A growth (O(size) with a plus) without O(from_size) grows the disk every time. With O(from_size), and for a size
        without a plus, the second run changes nothing.
options:
  name:
    description:
      - The name or the UUID of the domain.
    type: str
    required: true
    aliases: [domain]
  disk:
    description:
      - The disk, by its target (such as V(vda)) or by the path of its source, which is the top of its backing chain.
    type: str
    required: true
  size:
    description:
      - The size that the disk is to have; bytes, or a number with V(K), V(M), V(G), V(T), V(P) or V(E)
        (powers of 1024; V(10G) and V(10GiB) are the same). It has to be a multiple of 512 bytes.
      - With a plus before it (V(+10G)), how much the disk is to grow. Without O(from_size) it grows B(each time) that
        the task runs, and check mode tells the new size. A task that may run twice gives O(from_size), or the size
        itself.
      - Put a growth in bytes in quotes (V('"+1073741824"')), because YAML drops the plus of such a number.
    type: str
    required: true
  from_size:
    description:
      - The size that the disk has before it grows by O(size). If the disk has the sum of both, it has grown already,
        and is left alone. If it has another size, the task fails and tells that size.
    type: str
  shrink:
    description:
      - Allows O(size) to be less than what the disk has, while its domain is off.
      - What lies beyond the new end is lost. Shrink the file system and the partition inside first.
    type: bool
    default: false
  preallocation:
    description:
      - How much of the added space is allocated at once, if the domain is off. V(off) allocates on first write.
        V(metadata) prepares the tables of a qcow2 image, but not its data. V(falloc) reserves all blocks without
        writing them. V(full) writes zeros to all of them.
      - For V(raw) images V(metadata) is not available. V(qed) images only know V(off).
      - An image does not record how it was allocated. If both this and O(allocation) are left out, the task looks at
        the image. An image that occupies all that its disk has was reserved (or written to its end), so what is added
        is reserved too, as with V(falloc). A qcow2 image that is as long as its disk but has holes has its tables
        prepared, so it grows as with V(metadata). All others, overlays, and images with internal snapshots grow as with
        V(off).
      - What is added while the domain is on is never reserved. So anything but V(off) is refused then, and a reserved
        image grows with a warning.
    type: str
    choices: ['off', metadata, falloc, full]
  allocation:
    description:
      - The same choice as O(preallocation) in VMware's words.
      - V(thin) is O(preallocation=off), V(lazy_zeroed_thick) is O(preallocation=falloc),
        V(eager_zeroed_thick) is O(preallocation=full).
    type: str
    choices: [thin, lazy_zeroed_thick, eager_zeroed_thick]
  allow_dependents:
    description:
      - Allows to resize an image that other images have as their backing file. These images can be destroyed by it.
    type: bool
    default: false
  search_paths:
    description:
      - More directories to search for images that have this one as their backing file. The task always searches its own
        directory, and those of libvirt's storage pools. With O(max_overcommit) the images in all of them count.
    type: list
    elements: path
    default: []
  trusted:
    description:
      - Whether to follow references to backing files that are in the image but that the domain's definition does not
        name. C(qemu-img) opens them to resize an overlay while the domain is off.
      - Such a reference can have been planted. The definition names a backing file by C(backingStore). If the domain is
        on, this option has no effect, because libvirt grows the disk then.
      - If the definition names other backing files than the images do, or says that there are none, the task always
        fails, because the guest sees what the definition says.
    type: bool
    default: false
notes:
  - After a disk has grown, the guest has to make use of it. On Linux with a partition table that is
    C(growpart /dev/vda 1), then C(resize2fs /dev/vda1) (ext4), C(xfs_growfs /) (XFS), or C(pvresize /dev/vda1) and
    C(lvextend --resizefs) (LVM). A GPT keeps a copy at the end of the disk. C(growpart) and
    C(sgdisk --move-second-header) move it.
  - A guest sees the new size of a virtio disk at once. Linux may have to be told about SCSI disks
    (C(echo 1 > /sys/class/block/sda/device/rescan)). The new size of IDE and SATA disks is seen at the next start.
  - Before a disk is shrunk, do the same in the opposite order, inside the guest. Only the guest knows which part of the
    disk is in use.
  - Block devices, network disks, and images in other formats than raw, qcow2 and qed are refused. Resize a block
    device itself and tell the guest with C(virsh blockresize). Convert an image with M(kvmops.disk.vm_disk_convert).
  - While the task changes the image, a hidden file C(.NAME.kvmops) stands beside it. If a run is killed, the next run
    finds that file and verifies the image before it does anything else.
  - If growing fails, or the module is stopped while C(qemu-img) works, the growth is undone.
seealso:
  - module: kvmops.disk.qcow2_image
  - module: kvmops.disk.vm_disk_convert
  - module: kvmops.disk.vm_disk_info
"""

EXAMPLES = r"""
- name: Give a machine a disk of 40 GiB, running or off
  kvmops.disk.vm_disk_resize:
    name: web
    disk: vda
    size: 40G

- name: Grow a disk by 10 GiB, once
  kvmops.disk.vm_disk_resize:
    name: db
    disk: vdb
    size: +10G
    from_size: 30G

- name: Grow a disk, unless the images on its file system would then promise more than 120 % of it
  kvmops.disk.vm_disk_resize:
    name: web
    disk: /var/lib/libvirt/images/web.qcow2
    size: 60G
    max_overcommit: 1.2

- name: Grow the disk of a machine that is off, and reserve the space
  kvmops.disk.vm_disk_resize:
    name: mail
    disk: vda
    size: 200G
    allocation: lazy_zeroed_thick

- name: Shrink a disk whose file system was shrunk before, while the machine is off
  kvmops.disk.vm_disk_resize:
    name: old
    disk: vda
    size: 20G
    shrink: true

- name: Grow the disk of a machine
  kvmops.disk.vm_disk_resize:
    name: web
    disk: vda
    size: 40G

- name: Grow the partition in its guest
  ansible.builtin.command:
    argv: [growpart, /dev/vda, "1"]
  delegate_to: web
  register: growpart
  changed_when: growpart.rc == 0
  failed_when: growpart.rc > 1

- name: Grow the file system in its guest
  ansible.builtin.command:
    argv: [resize2fs, /dev/vda1]
  delegate_to: web
  when: growpart is changed
  changed_when: true
"""

RETURN = r"""
actions:
  description: What was done, in order. In check mode, what would be done.
  returned: always
  type: list
  elements: str
  sample: ["grow vda of web from 30 GiB to 40 GiB while it runs (/var/lib/libvirt/images/web.qcow2)"]
diff:
  description:
    - What changes, before and after.
    - The size, by the target of the disk.
  returned: always
  type: dict
disks:
  description:
    - The disks that the task is about.
    - The list has one element, the disk afterwards. It has the facts domain, target, path, format, virtual_size,
      actual_size and backing_chain of RV(kvmops.disk.vm_disk_info#module:disks), and those below. In check mode
      C(virtual_size) is the new size, and C(actual_size) is that before the change.
  returned: always
  type: list
  elements: dict
  contains:
    previous_size:
      description: The size before, in bytes. V(null) if nothing changed.
      type: int
    mode:
      description: How it was changed, V(live) or V(offline). V(null) if nothing changed.
      type: str
virtual_size:
  description: The size that the disk has, in bytes, if it does not fit what the task asks for.
  returned: failure
  type: int
in_use_by:
  description: The domains that use what the task needs, if that made the task fail. Empty if another program uses it.
  returned: failure
  type: list
  elements: dict
dependents:
  description: The images that read what was to be written or removed, if that made the task fail.
  returned: failure
  type: list
  elements: str
block_jobs:
  description: The disks on which a block job runs, if that made the task fail.
  returned: failure
  type: list
  elements: str
snapshots:
  description: The names of the snapshots that made the task fail.
  returned: failure
  type: list
  elements: str
required_bytes:
  description:
    - The space that is needed, if less is available.
    - If O(max_overcommit) made the task fail, the size of the disks that the task wants to be promised.
  returned: failure
  type: int
available_bytes:
  description:
    - The space that is available, if more is needed.
    - If O(max_overcommit) made the task fail, what the file system may still promise to the task.
  returned: failure
  type: int
promised_bytes:
  description: What the file system has promised to the images on it so far, if O(max_overcommit) made the task fail.
  returned: failure
  type: int
filesystem_bytes:
  description: The size of the file system, if O(max_overcommit) made the task fail.
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
    ALIGN_SPEC,
    ALLOCATION_EXCLUSIVE,
    ALLOCATION_SPEC,
    DEPENDENTS_SPEC,
    OVERCOMMIT_SPEC,
    PLACES_SPEC,
    TRUST_SPEC,
    URI_SPEC,
)
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_resize.task import run


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **PLACES_SPEC,
            **URI_SPEC,
            **DEPENDENTS_SPEC,
            **ALIGN_SPEC,
            **OVERCOMMIT_SPEC,
            **TRUST_SPEC,
            "preallocation": ALLOCATION_SPEC["preallocation"],
            "allocation": ALLOCATION_SPEC["allocation"],
            "name": {"type": "str", "required": True, "aliases": ["domain"]},
            "disk": {"type": "str", "required": True},
            "size": {"type": "str", "required": True},
            "from_size": {"type": "str"},
            "shrink": {"type": "bool", "default": False},
        },
        mutually_exclusive=ALLOCATION_EXCLUSIVE,
        supports_check_mode=True,
    )
    run_module(module, run)


if __name__ == "__main__":
    main()
