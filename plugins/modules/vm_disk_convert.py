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
  - Makes sure that disks of a libvirt domain are in a format, and at a place.
  - Below a guest that runs or is paused this is done live. QEMU copies the disk into a new image and keeps both the
    same until the guest goes on with the new one. The guest never stops.
  - Off line, a domain that runs is shut down, the images are converted and compared with their sources, the domain is
    redefined with the new ones and started again.
  - In the definition, the driver type and the source of the disks change and nothing else does, but for the
    C(backingStore) of a disk that had backing files. With O(shallow=false) a converted disk is independent of them.
  - When anything fails, or the task is told to end, everything is as before and a domain that ran runs. A failure after
    the guest has gone on with the new images leaves it there; the next run finishes the rest.
  - When the module is killed in a live conversion, the copy goes on below the guest, which runs on its old disk. The
    next run with the same wish goes on with that copy. One that wants another place, format, layout or backing file
    ends it and removes its image.
    When it is killed off line, the next run finishes or reverts what was in flight, and starts a domain that was left
    off.
  - The sources are kept unless O(keep_source=false).
  - It is refused, before anything changes, for a transient domain, one that has a managed-save image, snapshots or
    checkpoints, or is being migrated, saved, dumped or backed up; where a block job of somebody else runs, which is
    never touched; for a cdrom, a floppy, a read-only, shareable or transient disk, one whose source is no image file,
    or is in use by another domain; for an encrypted or corrupt image; for a guest that runs on another image than the
    definition names; where the destination exists, its directory does not, or there is not enough space.
extends_documentation_fragment:
  - kvmops.disk.allocation
  - kvmops.disk.libvirt
  - kvmops.disk.libvirt.requirements
  - kvmops.disk.overcommit
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
      - Several disks, each as O(disk). They are converted in one go. Off line the domain is redefined once, with all of
        them. Live, they are copied one after the other, and the guest goes on with the new ones when all of them are
        copied.
    type: list
    elements: str
  format:
    description:
      - The format that the disks are to have.
      - Live, only V(raw), V(qcow2) and V(qed) are made, and for V(raw) not O(preallocation=full).
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
      - V(auto) converts live below a guest that runs or is paused, and off line when the domain is off.
      - V(offline) shuts a domain that runs down for the time of the conversion.
      - V(live) never does that, and fails if the domain is off.
      - What cannot be done live is refused with V(auto), too. A domain is shut down only with V(offline).
    type: str
    choices: [auto, offline, live]
    default: auto
  block_device:
    description:
      - Whether O(dest) is a block device, such as a logical volume. All that is on it is lost.
      - Only while the domain runs. A raw disk must be as long as its device; a qcow2 image must find room on it.
      - The device must not be mounted or part of another one. It is never removed.
    type: bool
    default: false
  shallow:
    description:
      - Whether the new image has the backing file that the old one has, and only what the old one holds itself is
        copied. Otherwise all of the disk is.
      - Needs a O(format) whose images can have backing files, such as V(qcow2).
      - Matters only for a disk that is converted. One that has the format, and the place, is left as it is.
    type: bool
    default: false
  bandwidth:
    description:
      - How much a live conversion copies in a second at most; a size such as V(50M). Left out, there is no limit.
      - It should be well above what the guest writes, or the copy never gets to the end.
      - A copy of an interrupted run goes on with this limit, or with none, whatever it had.
      - It does not matter off line.
    type: str
  copy_timeout:
    description:
      - How many seconds a live conversion may take, for each disk, until the new image is the same as the old one.
        After that the copy is ended and the task fails; the guest runs on its old disk.
      - The same happens when nothing moves for 300 seconds.
      - It does not matter off line.
    type: int
    default: 86400
  shutdown:
    description:
      - What may be done to a running domain off line. V(graceful) asks the guest to shut down and waits for it.
        V(force) pulls the plug. V(never) makes the task fail.
      - It does not matter live, where the domain is not shut down.
    type: str
    choices: [graceful, force, never]
    default: graceful
  shutdown_timeout:
    description:
      - How many seconds the guest has to shut down. If it does not, the task fails and the domain runs on.
      - It has been asked to, all the same, and may still go off. So that is noted in the domain's metadata, and the
        next run of this module on the domain, whatever it is asked, starts it again, as this one would have. After an
        hour nobody expects it to go off any more.
      - It does not matter live.
    type: int
    default: 120
  restart:
    description:
      - Whether a domain that was shut down for the conversion is started again. A domain that was off stays off.
    type: bool
    default: true
  verify:
    description:
      - Whether the new images are compared with their sources before they are used.
      - Off line only. A live copy cannot be compared with a disk that changes meanwhile. QEMU keeps both the same until
        the guest goes on with the new one, and after that libvirt's live and inactive definition are checked.
    type: bool
    default: true
  keep_source:
    description:
      - Whether the old images are kept. Otherwise they are removed after the domain runs from the new ones, or,
        if it is off, after its new definition has been verified.
      - An old image that other images have as their backing file is not removed; the task fails before it changes
        anything.
      - Where the source is a symbolic link, what it links to is removed, and then the link.
    type: bool
    default: true
  compress:
    description:
      - Whether the new images are compressed. What the guest writes later is not.
      - Off line only. With a live conversion it is refused.
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
        and those of libvirt's storage pools. Matters with O(keep_source=false), and with O(max_overcommit), for which
        the images in them count.
    type: list
    elements: path
    default: []
  trusted:
    description:
      - Whether to follow references to backing and data files that are in the images but not in the domain's
        definition.
      - Such a reference can have been planted to copy a foreign file into the disk. The definition names a backing file
        by C(backingStore); that of a running domain always does.
      - Where the definition names other backing files than the images do, or says that there are none, the task fails
        even so, since the guest sees what the definition says.
    type: bool
    default: false
seealso:
  - module: kvmops.disk.vm_disk_info
  - module: kvmops.disk.qcow2_image
  - ref: ansible_collections.kvmops.disk.docsite.guide_convert
    description: Converting the disks of machines, step by step.
  - ref: ansible_collections.kvmops.disk.docsite.guide_running_machines
    description: What is done to disks while their guests run.
"""

EXAMPLES = r"""
- name: Turn the raw disk of a machine into qcow2, without stopping it if it runs
  kvmops.disk.vm_disk_convert:
    name: web
    disk: vda

- name: Move the disk of a running machine to another file system, not at full speed
  kvmops.disk.vm_disk_convert:
    name: db
    disk: vdb
    dest: /srv/fast/db-data.qcow2
    mode: live
    bandwidth: 80M
    keep_source: false

- name: Move the disk of a linked clone, which keeps its backing file
  kvmops.disk.vm_disk_convert:
    name: clone7
    disk: vda
    dest_dir: /srv/fast
    shallow: true

- name: Turn two disks into qcow2 while the machine is off, compare them, and remove the old ones
  kvmops.disk.vm_disk_convert:
    name: db
    disks: [vda, vdb]
    dest_dir: /srv/fast
    mode: offline
    keep_source: false

- name: Compress a disk, and give the guest ten minutes to shut down
  kvmops.disk.vm_disk_convert:
    name: archive
    disk: vda
    mode: offline
    compress: true
    shutdown_timeout: 600

- name: Turn a VMware disk into raw, without ever touching a running machine
  kvmops.disk.vm_disk_convert:
    name: imported
    disk: /srv/import/disk.vmdk
    format: raw
    mode: offline
    shutdown: never
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
    - The disks, and the definition of the domain as a unified diff. Passwords are hidden.
  returned: always
  type: list
  elements: dict
disks:
  description:
    - The disks that the task is about.
    - They come in the order of the task, as they are afterwards. Each has the facts domain, target, path, format,
      virtual_size, actual_size and backing_chain of RV(kvmops.disk.vm_disk_info#module:disks), and those below. In
      check mode C(actual_size) is that of the source.
  returned: always
  type: list
  elements: dict
  contains:
    previous_path:
      description: The path of the old image. V(null) if nothing changed.
      type: str
    previous_format:
      description: The format of the old image. V(null) if nothing changed.
      type: str
    previous_actual_size:
      description: The bytes that the old image occupied. V(null) if nothing changed.
      type: int
    mode:
      description: How it was changed, V(live) or V(offline). V(null) if nothing changed.
      type: str
    verified:
      description:
        - Whether the new image was compared with the old one.
        - Always false after a live conversion, see O(verify).
      type: bool
    downtime_seconds:
      description:
        - How long the domain was off, from the request to shut down to its start.
        - V(null) if it was not shut down and started again, as in a live conversion.
      type: float
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
    - If a block job failed, what was left then.
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
operation:
  description: The other run that is at work on the disk, with its process, if that made the task fail.
  returned: failure
  type: dict
state:
  description: The state of the domain, if that made the task fail.
  returned: failure
  type: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._convert import DISK_FORMATS
from ansible_collections.kvmops.disk.plugins.module_utils._domain_conversion import convert
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


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **URI_SPEC,
            **ALLOCATION_SPEC,
            **OVERCOMMIT_SPEC,
            **PROGRESS_SPEC,
            **SEARCH_SPEC,
            **TRUST_SPEC,
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
        },
        mutually_exclusive=[*ALLOCATION_EXCLUSIVE, ("disk", "disks"), ("dest", "dest_dir")],
        required_one_of=[("disk", "disks")],
        supports_check_mode=True,
    )
    run(module, convert)


if __name__ == "__main__":
    main()
