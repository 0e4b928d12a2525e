#!/usr/bin/python
# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: vm_linked_clone
short_description: Make, or remove, many clones of a virtual machine
version_added: 0.1.0
author:
  - kvmops.disk contributors (@kvmops)
description:
  - Makes sure that clones of a libvirt domain are there, or are not, many of them in one task.
  - A linked clone has overlays over the disks of its source, takes next to no space and is made in a moment. A full
    clone has copies, which are compared with what was copied. A reflink shares the blocks of the source's image until
    one of the two writes them, where the file system can do that.
  - A clone has an identity of its own. That is its name, its UUID (also that which the guest sees in SMBIOS), its
    generation ID, its MAC addresses, its images, its UEFI variables, the sockets, files and logs of its serial
    ports, consoles and channels, and the ports of its displays. Names of network devices on the host, numbers of ports
    of virtual switches and the title are left out, so that libvirt chooses anew. All that was changed is returned.
  - CD-ROM drives, read-only disks and shareable disks are the same for all.
  - A clone that is there already, with the right base, is left alone, but for a C(seed) that it lacks, and for its
    start with O(start=true). Another domain of its name is an error that says what differs.
  - A clone that cannot be made leaves nothing behind. The others are made, and the task then fails with the list of
    those that are missing. Run again, it makes just these.
extends_documentation_fragment:
  - kvmops.disk.libvirt
  - kvmops.disk.libvirt.requirements
  - kvmops.disk.allocation
  - kvmops.disk.overcommit
  - kvmops.disk.progress
  - kvmops.disk.attributes
  - kvmops.disk.attributes.changing
  - kvmops.disk.attributes.action_group
options:
  source:
    description:
      - The name or the UUID of the domain that is cloned. It has to be off, without snapshots, checkpoints and
        managed-save image. With O(state=absent) it need not be there any more.
    type: str
    required: true
  clones:
    description:
      - The clones, which all are made in the same way.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description:
          - The name of the domain. Its images have it, too.
        type: str
        required: true
      mac:
        description:
          - The MAC address of its first network interface. One that is not given is derived from the name and the
            number of the interface (and begins with V(52:54:00)), so that a clone that is made anew has the address
            that it had. The same name has the same address on all hosts.
        type: str
      macs:
        description:
          - The same for several interfaces, in the order of the source's definition.
        type: list
        elements: str
      uuid:
        description:
          - The UUID of the domain. One that is not given is random, and therefore not known in check mode.
        type: str
      memory:
        description:
          - The memory, such as V(2G), where it is to be another than that of the source.
        type: str
      vcpus:
        description:
          - The number of virtual CPUs, where it is to be another.
        type: int
      description:
        description:
          - The description, where it is to be another.
        type: str
      metadata:
        description:
          - XML elements for the metadata of the domain. Each has a namespace, and takes the place of what the source
            has of that namespace.
        type: str
      disk_sizes:
        description:
          - As the O(disk_sizes) of the task, for this clone.
        type: dict
        default: {}
      seed:
        description:
          - The path of a file, such as an ISO with what cloud-init is to read at the first start. The clone gets a
            drive that holds it, which nobody can write. A clone that is there without it gets it, too, and where that
            runs, its guest sees it from its next start on.
          - Another path puts that file into the same drive. Left out, nothing is put in and nothing is taken out.
          - The file has to be there (in check mode it may be missing yet), is read as raw, and is never removed.
        type: path
  state:
    description:
      - V(present) makes the clones that are missing.
      - V(absent) removes the domains, with the images and the UEFI variables that this module made for them. Nothing
        else is removed, and never the base. What a domain has instead of such an image (one that it was converted to,
        say) stays, with a warning. A clone is known by what this module writes into its metadata. One of a clone goes
        with that, where both are in the list. What a killed run left is also looked for in O(disk_dir) and
        O(search_paths), one of which has to name the directory where the source is gone.
    type: str
    choices: [present, absent]
    default: present
  rebase_to:
    description:
      - The name or the UUID of another domain, a newer version of O(source). The linked clones of the list, which have
        to be there and off, get its images as their bases, in place of those of O(source).
      - What their guests see stays the same. What differs between the bases, and a clone does not have in its own
        image, is copied into that, in a new file that is compared with the old one. So a clone does not become the
        newer version, but can do without the older one.
      - That domain has to be off, without snapshots, and its disks must not be larger than those of the clones.
      - Once no clone reads the images of O(source) any more, they are no longer protected.
      - Beside it, only O(source), the names in O(clones), O(protect_base), O(trusted), O(progress) and O(search_paths)
        count.
    type: str
  mode:
    description:
      - V(linked) makes overlays. They depend on the images of the source, which nobody may write to from then on.
      - V(full) makes copies, in the format of the source, with its backing files merged into them. Only these can be
        preallocated.
      - V(reflink) has the file system make copies that share their blocks. See O(fallback).
    type: str
    choices: [linked, full, reflink]
    default: linked
  fallback:
    description:
      - How to make the clones where O(mode=reflink) is not possible, since O(disk_dir) lies on another file system than
        the source, or on one that knows no reflinks. Without it that is an error.
    type: str
    choices: [linked, full]
  disk_dir:
    description:
      - The directory for the images, which exists, and which QEMU's user may pass. By default that of the source's
        first disk.
      - The image is C(NAME.qcow2), or C(NAME-TARGET.qcow2) where the source has several disks.
    type: path
  disk_sizes:
    description:
      - >-
        The sizes of disks, by their targets, such as V({vda: 40G}), where they are to be larger than those of the
        source.
    type: dict
    default: {}
  start:
    description:
      - Whether the clones run. Those that are off are started, whether they are made now or were there already; one
        that is paused is left as it is.
      - One that is made now and does not start is removed again. V(false) starts none, and stops none.
    type: bool
    default: false
  seed_bus:
    description:
      - The bus of a new drive for a C(seed) of O(clones). With V(virtio), for which there are no CD drives, it is a
        read-only disk.
    type: str
    choices: [sata, scsi, ide, usb, virtio]
    default: sata
  protect_base:
    description:
      - With O(mode=linked), whether the images of the source are made read-only (by their mode). The source then does
        not start any more where QEMU is not root. When the last clone has gone, or been made independent, by whichever
        module of this collection, they get their mode back.
      - What depends on them is noted beside them, in C(.NAME.kvmops-base), for all modules of this collection, which
        then leave them alone wherever the clones are. With V(false) too, where that directory can be written to; if it
        cannot, there is a warning then, and with V(true) no clone is made.
    type: bool
    default: true
  unique_serials:
    description:
      - Whether the disks of clones get serial numbers of their own and, where the source has one, world wide names.
        They are derived from the name and the target. By default they are the same as those of the source, so that
        C(/dev/disk/by-id) in its guest is right in the clone.
    type: bool
    default: false
  vtpm:
    description:
      - What to do where the source has an emulated TPM. V(refuse) makes no clones. V(drop) gives them an empty one,
        which holds none of the source's keys. A disk that is sealed by them does not open then.
    type: str
    choices: [refuse, drop]
    default: refuse
  verify:
    description:
      - With O(mode=full), whether each copy is compared with what it was made from.
    type: bool
    default: true
  force:
    description:
      - With O(state=absent), whether clones that run may be removed. Their plug is pulled.
    type: bool
    default: false
  trusted:
    description:
      - Whether to follow references to backing files that are in an image of the source but not in its definition.
        Such a reference can have been planted. The definition names a backing file by C(backingStore), as those of
        clones that this module makes do.
      - And whether to believe an image that claims a disk of more than 64 TiB, or more than 1024 snapshots, and to let
        qemu-img work on it without limits.
    type: bool
    default: false
  search_paths:
    description:
      - Directories in which images are looked for. With O(state=absent), such as have an image of a clone as their
        backing file, beside its own directory and those of libvirt's storage pools. With O(max_overcommit) the images
        in them count.
    type: list
    elements: path
    default: []
notes:
  - What is in the disks is the same in all clones. A host name, keys of an SSH server, a machine ID are the guest's.
    Have them made anew at the first start (C(virt-sysprep), C(cloud-init)) before a machine becomes a source.
  - Host devices, serial ports on TCP ports, leases and command lines for QEMU stay as they are, and only one of the
    domains that have them can run. They are returned as C(shared), with a warning.
  - While a clone is made, hidden files C(.NAME.kvmops) stand beside its images. One that a killed run left makes the
    next run remove what was begun, and make it again.
seealso:
  - module: kvmops.disk.vm_disk_flatten
  - module: kvmops.disk.vm_disk_info
  - module: kvmops.disk.qcow2_image
"""

EXAMPLES = r"""
- name: Make linked clones of the golden machine
  kvmops.disk.vm_linked_clone:
    source: debian12
    clones:
      - name: web
        mac: 52:54:00:12:34:56
      - name: db
        memory: 4G
        vcpus: 4
        disk_sizes: {vda: 40G}
    disk_dir: /var/lib/libvirt/clones
    start: true

- name: Make a clone that finds its seed for cloud-init at its first start
  kvmops.disk.vm_linked_clone:
    source: debian12
    clones:
      - name: build-1
        seed: /var/lib/libvirt/seeds/build-1.iso
    start: true

- name: Provide a classroom with a hundred desktops
  kvmops.disk.vm_linked_clone:
    source: desktop
    clones: "{{ range(1, 101) | map('regex_replace', '^(.*)$', '{name: pc-\\1}') | map('from_yaml') }}"
    max_overcommit: 1.2

- name: Make a copy that needs nothing of the original, in no time where the file system can do that
  kvmops.disk.vm_linked_clone:
    source: build
    clones: [{name: build-2}]
    mode: reflink
    fallback: full

- name: Move the clones of an old version to the images of a new one, so that the old one can go
  kvmops.disk.vm_linked_clone:
    source: desktop-2024
    rebase_to: desktop-2025
    clones: [{name: pc-1}, {name: pc-2}]

- name: Remove clones, whether they run or not
  kvmops.disk.vm_linked_clone:
    source: desktop
    clones: [{name: pc-1}, {name: pc-2}]
    state: absent
    force: true
"""

RETURN = r"""
actions:
  description:
    - What was done, in order. In check mode, what would be done.
    - Clone by clone.
  returned: always
  type: list
  elements: str
  sample:
    - make /images/web.qcow2 of 10 GiB over /images/debian12.qcow2
    - define web as a clone of debian12
diff:
  description:
    - What changes, before and after.
    - The clones. In diff mode also the definition of each new clone, as a unified diff from that of its
      source. Passwords are hidden.
  returned: always
  type: list
  elements: dict
clones:
  description: The clones, in the order of the task. If the task failed, those that are as wanted.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: The name of the domain.
      type: str
    uuid:
      description: Its UUID. V(null) if it is unknown in check mode, or if there was no such domain.
      type: str
    macs:
      description: The MAC addresses of its network interfaces, in their order.
      type: list
      elements: str
    nvram:
      description: The file with its UEFI variables. V(null) if it has none. Left out with O(state=absent).
      type: str
    seed:
      description: The file in the drive for its seed. V(null) if it has none. Left out with O(state=absent).
      type: str
    disks:
      description: Its own disks, without those that it shares with its source.
      type: list
      elements: dict
      contains:
        target:
          description: The name of the disk in the definition of the domain, such as V(vda).
          type: str
        path:
          description: The path of its image.
          type: str
        format:
          description:
            - The format of its image.
            - Left out with O(state=absent).
          type: str
        backing_file:
          description:
            - The image below its image. V(null) if there is none.
            - With O(state=absent), the image that it was made from.
          type: str
    identity:
      description: What the definition has of its own, if the clone was made now. Left out with O(state=absent).
      type: list
      elements: dict
      contains:
        what:
          description: The thing that differs from the source, such as V(interface 0 mac).
          type: str
        before:
          description: What the source has. V(null) for nothing.
          type: str
        after:
          description: What the clone has. V(null) for nothing; libvirt chooses a value if one is needed.
          type: str
    shared:
      description:
        - What it shares with its source although only one running domain can have it. Left out with O(state=absent).
      type: list
      elements: str
    kept:
      description: Images of it that this module did not make, and left in place. Only with O(state=absent).
      type: list
      elements: str
    changed:
      description: Whether this run changed it. It was made, given its seed, started, or removed.
      type: bool
failed_clones:
  description: The clones that are not as wanted, each with its C(name), the reason as C(msg), and further facts such as
    C(differences), C(in_use_by), C(dependents), C(mac), C(path), C(required_bytes) and C(available_bytes).
  returned: failure
  type: list
  elements: dict
in_use_by:
  description: The domains that use what the task needs, if that made the task fail. Empty if another program uses it.
  returned: failure
  type: list
  elements: dict
snapshots:
  description: The names of the snapshots that made the task fail.
  returned: failure
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils import _domain_clone, _domain_rebase, _domain_unclone
from ansible_collections.kvmops.disk.plugins.module_utils._module import (
    ALLOCATION_EXCLUSIVE,
    ALLOCATION_SPEC,
    OVERCOMMIT_SPEC,
    PROGRESS_SPEC,
    SEARCH_SPEC,
    TRUST_SPEC,
    URI_SPEC,
    run,
)

CLONE_SPEC = {
    "name": {"type": "str", "required": True},
    "mac": {"type": "str"},
    "macs": {"type": "list", "elements": "str"},
    "uuid": {"type": "str"},
    "memory": {"type": "str"},
    "vcpus": {"type": "int"},
    "description": {"type": "str"},
    "metadata": {"type": "str"},
    "disk_sizes": {"type": "dict", "default": {}},
    "seed": {"type": "path"},
}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **URI_SPEC,
            **OVERCOMMIT_SPEC,
            **PROGRESS_SPEC,
            **ALLOCATION_SPEC,
            **SEARCH_SPEC,
            **TRUST_SPEC,
            "source": {"type": "str", "required": True},
            "clones": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": CLONE_SPEC,
                "mutually_exclusive": [("mac", "macs")],
            },
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "rebase_to": {"type": "str"},
            "mode": {"type": "str", "choices": ["linked", "full", "reflink"], "default": "linked"},
            "fallback": {"type": "str", "choices": ["linked", "full"]},
            "disk_dir": {"type": "path"},
            "disk_sizes": {"type": "dict", "default": {}},
            "start": {"type": "bool", "default": False},
            "seed_bus": {"type": "str", "choices": ["sata", "scsi", "ide", "usb", "virtio"], "default": "sata"},
            "protect_base": {"type": "bool", "default": True},
            "unique_serials": {"type": "bool", "default": False},
            "vtpm": {"type": "str", "choices": ["refuse", "drop"], "default": "refuse"},
            "verify": {"type": "bool", "default": True},
            "force": {"type": "bool", "default": False},
        },
        mutually_exclusive=ALLOCATION_EXCLUSIVE,
        supports_check_mode=True,
    )
    if module.params["rebase_to"] is not None:
        run(module, _domain_rebase.manage)
    run(module, _domain_unclone.manage if module.params["state"] == "absent" else _domain_clone.manage)


if __name__ == "__main__":
    main()
