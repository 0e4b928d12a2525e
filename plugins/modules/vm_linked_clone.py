#!/usr/bin/python
# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: vm_linked_clone
short_description: Make, or remove, many clones of a virtual machine
version_added: 0.9.0
author:
  - kvmops.disk contributors (@kvmops)
description:
  - Makes sure that clones of a libvirt domain exist, or do not exist, many of them in one task.
  - A linked clone has overlays over the disks of its source. It takes next to no space and is made in a moment. A full
    clone has copies, which are compared with their originals. A reflink shares the blocks of the source's image until
    one of the two writes them, on a file system that can do that.
  - A clone has an identity of its own. This is its name, its UUID (also the one that the guest sees in SMBIOS), its
    generation ID, its MAC addresses, its images and its UEFI variables. It also has its own sockets, files and logs of
    serial ports, consoles and channels, and its own ports of displays. The title, the names of network devices on the
    host and the numbers of virtual switch ports are removed, so that libvirt chooses new ones. All that was changed is
    returned.
  - CD-ROM drives, read-only disks and shareable disks are the same for all.
  - An existing clone with the right base is left alone, except that it gets a C(seed) that it lacks, and is started
    with O(start=true). Another domain of its name is an error that says what differs.
  - If a clone cannot be made, everything of it is removed again. The others are made. Then the task fails with a list
    of those that are missing. The next run makes just these.
extends_documentation_fragment:
  - kvmops.disk.places
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
        managed-save image. With O(state=absent) it may be missing.
    type: str
    required: true
  clones:
    description:
      - The clones. All of them are made in the same way.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description:
          - The name of the domain. Its images are named after it.
        type: str
        required: true
      mac:
        description:
          - The MAC address of its first network interface. By default it is derived from the name and the number of the
            interface (and begins with V(52:54:00)). So a clone that is made again gets the same address. The same name
            has the same address on all hosts.
        type: str
      macs:
        description:
          - The MAC addresses of several interfaces, in the order of the source's definition.
        type: list
        elements: str
      uuid:
        description:
          - The UUID of the domain. By default it is random, and so unknown in check mode.
        type: str
      memory:
        description:
          - The memory, such as V(2G). The default is that of the source.
        type: str
      vcpus:
        description:
          - The number of virtual CPUs. The default is that of the source.
        type: int
      description:
        description:
          - The description. The default is that of the source.
        type: str
      metadata:
        description:
          - XML elements for the metadata of the domain. Each has a namespace, and replaces what the source has of that
            namespace.
        type: str
      disk_sizes:
        description:
          - Like the O(disk_sizes) of the task, for this clone.
        type: dict
        default: {}
      seed:
        description:
          - The path of a file that the guest reads at its first start, such as an ISO for cloud-init. The clone gets a
            drive of its own that holds it read-only. An existing clone without it gets it as well. If that one runs,
            its guest sees the file from its next start on.
          - Another path puts that file into the same drive. If this is left out, the drive stays as it is.
          - The file has to exist (in check mode it may still be missing). It is read as raw, and is never removed.
        type: path
  state:
    description:
      - V(present) makes the clones that are missing.
      - V(absent) removes the domains, with the images and the UEFI variables that this module made for them. Everything
        else stays, in particular the base. If a domain has another image instead (one that it was converted to, for
        example), that image stays, with a warning. This module recognizes a clone by what it writes into the metadata
        of the domain. A clone of a clone can be removed together with it, if both are in the list. What a killed run
        left is also searched for in O(disk_dir) and O(search_paths). If the source is gone, one of them has to name the
        directory.
    type: str
    choices: [present, absent]
    default: present
  rebase_to:
    description:
      - The name or the UUID of another domain, a newer version of O(source). The linked clones of the list get its
        images as their bases, in place of those of O(source). They have to exist and to be off.
      - What their guests see stays the same. What differs between the bases, and is not in the clone's own image, is
        copied into a new file that is compared with the old one. So a clone keeps its old content, but no longer needs
        the older version.
      - That domain has to be off and without snapshots. Its disks may have at most the size of those of the clones.
      - When the last clone has left the images of O(source), they are no longer protected.
      - With this option, only O(source), the names in O(clones), O(protect_base), O(trusted), O(progress) and
        O(search_paths) count.
    type: str
  kind:
    description:
      - V(linked) makes overlays. They depend on the images of the source, which must stay as they are from then on.
      - V(full) makes copies in the format of the source, with its backing files merged into them. Only these can be
        preallocated.
      - V(reflink) lets the file system make copies that share their blocks. See O(fallback).
    type: str
    aliases: [mode]
    choices: [linked, full, reflink]
    default: linked
  fallback:
    description:
      - How to make the clones if O(kind=reflink) is impossible, because O(disk_dir) lies on another file system than
        the source, or on one without reflinks. By default that is an error.
    type: str
    choices: [linked, full]
  disk_dir:
    description:
      - The directory for the images. It has to exist, and QEMU's user has to be able to enter it. The default is that
        of the source's first disk.
      - The image is C(NAME.qcow2), or C(NAME-TARGET.qcow2) if the source has several disks.
    type: path
  disk_sizes:
    description:
      - >-
        The sizes of disks that are to be larger than those of the source, by their targets, such as V({vda: 40G}).
    type: dict
    default: {}
  start:
    description:
      - Whether the clones run. Those that are off are started, new ones and existing ones. A paused clone is left as it
        is.
      - A new clone that fails to start is removed again. With V(false) clones are left running or off as they are.
    type: bool
    default: false
  seed_bus:
    description:
      - The bus of a new drive for a C(seed) of O(clones). On V(virtio), which has no CD-ROM drives, it is a read-only
        disk.
    type: str
    choices: [sata, scsi, ide, usb, virtio]
    default: sata
  protect_base:
    description:
      - With O(kind=linked), whether the images of the source are made read-only (by their mode). Then the source cannot
        start any more, unless QEMU runs as root. When the last clone is removed or made independent, by any module of
        this collection, they get their mode back.
      - The images that depend on them are noted beside them, in C(.NAME.kvmops-base). All modules of this collection
        read that note and leave the images alone, wherever the clones are. The note is also written with V(false), if
        the directory is writable. If it is not writable, there is a warning with V(false), and an error with V(true).
    type: bool
    default: true
  unique_serials:
    description:
      - Whether the disks of clones get serial numbers of their own and, if the source has one, world wide names.
        They are derived from the name and the target. By default they are the same as those of the source, so that
        what a guest finds in C(/dev/disk/by-id) stays the same.
    type: bool
    default: false
  vtpm:
    description:
      - What to do if the source has an emulated TPM. V(refuse) makes no clones. V(drop) gives them an empty one,
        without the keys of the source. A disk that is sealed by those keys does not open then.
    type: str
    choices: [refuse, drop]
    default: refuse
  verify:
    description:
      - With O(kind=full), whether each copy is compared with its original.
    type: bool
    default: true
  force:
    description:
      - With O(state=absent), whether running clones may be removed. Their plug is pulled.
    type: bool
    default: false
  trusted:
    description:
      - Whether to follow references to backing files that are in an image of the source but that its definition does
        not name. Such a reference can have been planted. The definition names a backing file by C(backingStore), as
        those of clones that this module makes do.
      - It also means to believe an image that claims a disk of more than 64 TiB, or more than 1024 snapshots, and to
        let qemu-img work on it without limits.
    type: bool
    default: false
  search_paths:
    description:
      - More directories to search for images. With O(state=absent), these are images that have an image of a clone as
        their backing file. The task always searches that image's own directory, and those of libvirt's storage pools.
        With O(max_overcommit) the images in all of them count.
    type: list
    elements: path
    default: []
notes:
  - The content of the disks is the same in all clones. Host name, SSH host keys and machine ID are up to the guest.
    Before a machine becomes a source, see to it that they are made at the first start (C(virt-sysprep),
    C(cloud-init)).
  - What is outside of the domain and not made for it alone stays as it is. These are host devices, serial ports on TCP
    ports or devices, character devices and random number generators that connect to a server, leases, C(shmem),
    directories and virtiofs sockets of C(filesystem), input devices, forwarded ports, and command lines for QEMU. Only
    one of the domains that have them can run, or both write the same. They are returned as C(shared), with a warning.
  - While a clone is made, hidden files C(.NAME.kvmops) stand beside its images. If a run is killed, the next run
    removes what it began, and makes the clone again.
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

- name: Make a copy that is independent of the original, as a reflink if possible
  kvmops.disk.vm_linked_clone:
    source: build
    clones: [{name: build-2}]
    kind: reflink
    fallback: full

- name: Move the clones of an old version to the images of a new one, so that the old one can go
  kvmops.disk.vm_linked_clone:
    source: desktop-2024
    rebase_to: desktop-2025
    clones: [{name: pc-1}, {name: pc-2}]

- name: Remove clones, also running ones
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
        - What it shares with its source although only one running domain can have it, or write it. Left out with
          O(state=absent).
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
from ansible_collections.kvmops.disk.plugins.module_utils._task.run import run_module
from ansible_collections.kvmops.disk.plugins.module_utils._task.specs import (
    ALLOCATION_EXCLUSIVE,
    ALLOCATION_SPEC,
    OVERCOMMIT_SPEC,
    PLACES_SPEC,
    PROGRESS_SPEC,
    SEARCH_SPEC,
    TRUST_SPEC,
    URI_SPEC,
)
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.task import run

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
            **PLACES_SPEC,
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
            "kind": {"type": "str", "aliases": ["mode"], "choices": ["linked", "full", "reflink"], "default": "linked"},
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
    run_module(module, run)


if __name__ == "__main__":
    main()
