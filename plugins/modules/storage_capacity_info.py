#!/usr/bin/python
# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: storage_capacity_info
short_description: What file systems and storage pools hold, and what they have promised to virtual machines
version_added: 0.9.0
author:
  - kvmops.disk contributors (@kvmops)
description:
  - Thin images are promises. For each file system or pool, this module returns its size, what is used, and what all
    images on it may come to occupy. It also says whether that is more than a limit.
  - All files in O(paths), in the directories of libvirt's storage pools, and beside the disks of domains are counted.
    The files that domains name as disks, as backing files or in snapshots are counted as well. Each counts once,
    whatever hard links, symbolic links, paths and domains lead to it.
  - An image that can still grow promises the size of its disk, or what it occupies, if that is more (with internal
    snapshots, for example).
  - An image that others have as their backing file is no longer written. So it promises what it occupies, like the
    images in the middle of a chain. Only the top of each chain promises the size of its disk. A backing file that a
    running domain also has as its own disk promises the size of that disk.
  - An image whose data lie in a file of their own (an external data file, extents) promises what it occupies. That file
    promises its length.
  - On some file systems (btrfs, xfs and others) files can share extents. Extents count once if all files that share
    them only promise what they occupy. A file that can still grow may part from the others at any time. So it counts as
    if it shared nothing.
  - A file that no domain and no image names counts only if it can be an image. It has the header of one, or
    is as long as a number of whole sectors of 512 bytes, as raw images are. Notes and lists beside images do not count.
  - A file that is not a readable image counts as its length, or as what it occupies, if that is more.
  - Only the headers of images are read. A file is never opened just because an image points to it. A backing file that
    is found in no other way is counted by its blocks. The format of a disk is the one that its domain says. A backing
    file is raw if its overlay says so. Otherwise the first bytes of an image tell its format.
extends_documentation_fragment:
  - kvmops.disk.attributes
  - kvmops.disk.attributes.info
  - kvmops.disk.attributes.action_group
options:
  paths:
    description:
      - Absolute paths of directories or files. Each means the file system that it lies on.
      - All files in a directory, or beside a file, are counted, also those whose names begin with a dot.
    type: list
    elements: path
    default: []
    aliases: [path]
  pools:
    description:
      - Names of active storage pools. A pool of files in a directory means the file system of that directory.
      - For another pool, such as a volume group, libvirt tells the sizes. Each volume promises its capacity, or what it
        takes, if that is more.
    type: list
    elements: str
    aliases: [pool]
  libvirt:
    description:
      - Whether to include all active pools, and all file systems with disks of domains.
      - By default this is true if both O(paths) and O(pools) are left out.
    type: bool
  recurse:
    description:
      - Whether the files in all directories below O(paths) are counted as well, if they are on the same file system.
      - Symbolic links to directories are left out.
    type: bool
    default: false
  limit:
    description:
      - How many times its own size a file system should promise at most.
    type: float
    default: 1.2
  uri:
    description:
      - The libvirt connection whose pools and domains are asked for images. For O(pools), and for what libvirt knows,
        it is V(qemu:///system) if it is left out.
      - If it does not answer, and the task asks only for O(paths), only the files in them are counted, with a warning.
      - If it is left out, or is V(qemu:///system) or V(qemu:///session), the other libvirts of this host are asked too.
        Any other URI is asked alone.
    type: str
requirements:
  - python >= 3.9
  - qemu-img >= 6.2
  - libvirt-python and lxml, for O(pools) and for what libvirt knows
seealso:
  - module: kvmops.disk.qcow2_image
    description: Its O(kvmops.disk.qcow2_image#module:max_overcommit) refuses images that would promise too much.
  - module: kvmops.disk.qcow2_image_info
  - module: kvmops.disk.vm_disk_info
  - ref: ansible_collections.kvmops.disk.docsite.guide_capacity
    description: What is counted and how, with figures, and what to do about a file system that promises too much.
"""

EXAMPLES = r"""
- name: Look at everything that libvirt has on this host
  kvmops.disk.storage_capacity_info:
  register: storage

- name: Fail if a file system has promised more than 120 % of its size
  ansible.builtin.assert:
    that: not item.over_limit
    fail_msg: "{{ item.mount }} has {{ item.size | human_readable }}, promised are {{ item.promised | human_readable }}"
  loop: "{{ storage.filesystems }}"
  loop_control:
    label: "{{ item.mount or item.pools[0] }}"

- name: Look at one pool, and at a directory that libvirt does not know
  kvmops.disk.storage_capacity_info:
    pools: [default]
    paths: [/srv/templates]
    recurse: true
    limit: 1.5
"""

RETURN = r"""
filesystems:
  description: Each file system once, by its mount point, and after them the pools that are not directories.
  returned: always
  type: list
  elements: dict
  contains:
    mount:
      description: The mount point. V(null) for a pool that is not a directory.
      type: str
    device:
      description: What is mounted there. For a pool, where its volumes are.
      type: str
    type:
      description: The type of the file system, such as V(ext4). For a pool V(logical), V(rbd), ...
      type: str
    pools:
      description: The names of the storage pools on it that the task looked at.
      type: list
      elements: str
    size:
      description: Its size in bytes. V(null) if it does not tell, as V(ramfs) does not.
      type: int
    used:
      description: The bytes that are used, by all files. V(null) if the size is unknown.
      type: int
    available:
      description: The bytes that QEMU, as an unprivileged user, may still write. V(null) if the size is unknown.
      type: int
    promised:
      description: The bytes that the images on it may come to occupy.
      type: int
    ratio:
      description: What is promised, as a multiple of the size. V(null) if the size is unknown.
      type: float
    limit:
      description: The limit, as O(limit) says.
      type: float
    over_limit:
      description: Whether more is promised than the limit. V(null) if the size is unknown.
      type: bool
    images:
      description: What has been counted, by path.
      type: list
      elements: dict
      contains:
        path:
          description: Its absolute path.
          type: str
        format:
          description:
            - Its format.
            - V(null) if it was left unopened or is unreadable.
          type: str
        virtual_size:
          description:
            - The size of its disk in bytes, as a guest sees it.
            - V(null) if it was not opened.
          type: int
        actual_size:
          description:
            - The bytes that it occupies.
            - Bytes that it shares with other files are included.
          type: int
        shared_size:
          description: How many of these bytes it shares with other files. V(null) if the file system cannot tell.
          type: int
        promised:
          description: What it adds to RV(filesystems[].promised), in bytes.
          type: int
        grows:
          description: Whether it can still grow.
          type: bool
        backing_file:
          description: The path of its backing file.
          type: str
        dependents:
          description:
            - The images that read it.
            - Those that were found, as their backing file.
          type: list
          elements: str
        domains:
          description: The domains that use it, as a disk, as a backing file, or in a snapshot.
          type: list
          elements: str
        missing:
          description: The files that it needs, as backing file or data file, and that are missing.
          type: list
          elements: str
        writable:
          description: Whether its mode has a write permission. That of a base should have none.
          type: bool
        problem:
          description: Why it cannot be read, or which file it needs is missing. V(null) if all is well.
          type: str
failures:
  description:
    - What could not be looked at, each with path and msg.
    - These are directories below O(paths), with O(recurse=true).
  returned: always
  type: list
  elements: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._storage_capacity_info.task import run
from ansible_collections.kvmops.disk.plugins.module_utils._task.run import run_module
from ansible_collections.kvmops.disk.plugins.module_utils._task.specs import ASKED_URI_SPEC


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **ASKED_URI_SPEC,
            "paths": {"type": "list", "elements": "path", "default": [], "aliases": ["path"]},
            "pools": {"type": "list", "elements": "str", "aliases": ["pool"]},
            "libvirt": {"type": "bool"},
            "recurse": {"type": "bool", "default": False},
            "limit": {"type": "float", "default": 1.2},
        },
        supports_check_mode=True,
    )
    run_module(module, run, only_looks=True)


if __name__ == "__main__":
    main()
