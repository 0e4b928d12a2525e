#!/usr/bin/python
# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: vm_disk_convert
short_description: Convert the disks of a virtual machine, and the machine with them
version_added: 0.9.0
author:
  - kvmops.disk contributors (@kvmops)
description:
  - Makes sure that disks of a libvirt domain are in a format, and at a place.
  - If the guest runs or is paused, its disks are converted live. QEMU copies the disk into a new image and keeps both
    the same until the guest switches to the new one. The guest never stops.
  - Offline, a running domain is shut down, the images are converted and compared with their sources, the domain is
    redefined with the new ones and started again.
  - In the definition, only the driver type and the source of the disks change, and the C(backingStore) of a disk that
    had backing files. With O(shallow=false) a converted disk is independent of them.
  - If anything fails, or the module is stopped, everything is as before, and a domain that ran runs. If it fails after
    the guest has switched to the new images, the guest stays there, and the next run finishes the rest.
  - If the module is killed in a live conversion, the copy continues below the guest, which runs on its old disk. The
    next run with the same parameters resumes that copy. A run that wants another place, format, layout or backing file
    ends the copy and removes its image.
  - If the module is killed offline, the next run finishes or reverts what was in flight, and starts a domain that was
    left off.
  - A running domain is only shut down if all is there that its definition needs for the next start, and if its guest
    would get back all devices that it has. A warning names devices that it would have in addition. If the start still
    fails, the message begins with C(the domain is off).
  - The sources are kept unless O(keep_source=false). A block device as a source is only read, and never removed. It
    needs O(dest) or O(dest_dir).
  - The task refuses a transient domain, and a domain that has a managed-save image, snapshots or checkpoints, or is
    being migrated, saved, dumped or backed up. It refuses to work beside a block job of another program, and never
    touches that job. It refuses CD-ROMs and floppies, and disks that are read-only, shareable or transient, or whose
    source is neither an image file nor a block device or is in use by another domain. It refuses a disk that only the
    definition of a running domain has, an encrypted or corrupt image, and a guest that runs on another image than the
    definition names. It also refuses a destination that exists, a directory that is missing, and a file system with too
    little space. All of this is found before anything changes.
extends_documentation_fragment:
  - kvmops.disk.places
  - kvmops.disk.allocation
  - kvmops.disk.libvirt
  - kvmops.disk.libvirt.requirements
  - kvmops.disk.align_size
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
      - The path may also be that of the source before an earlier conversion.
    type: str
  disks:
    description:
      - Several disks, each as O(disk). They are converted in one go. Offline, the domain is redefined once, with all of
        them. Live, they are copied one after the other, and the guest switches to the new images when all of them are
        copied.
    type: list
    elements: str
  format:
    description:
      - The format that the disks are to have.
      - Live, only V(raw), V(qcow2) and V(qed) are made, and V(raw) only without O(preallocation=full).
      - QEMU 9.1 to 10.0 makes a V(raw) image without holes live, unless the disk has C(discard=unmap). Then the task
        needs space for the whole disk, and a warning says so. O(kvmops.disk.vm_disk_reclaim#module:disk) gives the
        space back while the domain is off.
    type: str
    choices: [raw, qcow2, qcow, qed, vmdk, vdi, vpc]
    default: qcow2
  dest:
    description:
      - The absolute path of the new image, if the task converts one disk.
      - If both this and O(dest_dir) are left out, the new image stands beside the old one, under its name with the
        suffix of the new format. A disk that has the format already is then left alone, wherever it is.
      - If the old image has that name itself, or another disk gets it, the new one gets a number, such as
        C(web.1.qcow2) for a raw disk that is called C(web.qcow2).
    type: path
  dest_dir:
    description:
      - The directory of the new images. Their names are made from those of the sources.
    type: path
  method:
    description:
      - V(auto) converts live if the guest runs or is paused, and offline if the domain is off.
      - V(offline) shuts a running domain down for the time of the conversion.
      - V(live) never does that, and fails if the domain is off.
      - What cannot be done live is refused with V(auto), too. Only V(offline) shuts a domain down.
    type: str
    aliases: [mode]
    choices: [auto, offline, live]
    default: auto
  block_device:
    description:
      - Whether O(dest) is a block device, such as a logical volume. All that is on it is lost.
      - This is only possible while the domain runs. A raw disk must be as long as its device. A qcow2 image must fit on
        it.
      - The device must not be mounted or part of another one. It is never removed.
    type: bool
    default: false
  shallow:
    description:
      - Whether the new image keeps the backing file of the old one, and only what the old one itself holds is copied.
        Otherwise the whole disk is copied.
      - This needs a O(format) whose images can have backing files, such as V(qcow2).
      - It only matters for a disk that is converted. A disk that has the format and the place is left as it is.
    type: bool
    default: false
  bandwidth:
    description:
      - The most bytes that a live conversion copies in a second; a size such as V(50M). By default there is no limit.
      - It should be well above what the guest writes. Otherwise the copy never ends.
      - If the task resumes the copy of an interrupted run, this limit (or none) replaces the one that the copy had.
      - It has no effect offline.
    type: str
  copy_timeout:
    description:
      - How many seconds a live conversion may take, for each disk, until the new image is the same as the old one. Then
        the copy is ended and the task fails. The guest runs on its old disk.
      - The same happens if the copy makes no progress for 300 seconds.
      - It has no effect offline.
    type: int
    default: 86400
  shutdown:
    description:
      - What may be done to a running domain for an offline conversion. V(graceful) asks the guest to shut down and
        waits for it. V(force) pulls the plug. V(never) makes the task fail.
      - It has no effect live, because the domain keeps running.
    type: str
    choices: [graceful, force, never]
    default: graceful
  shutdown_timeout:
    description:
      - How many seconds the guest has to shut down. It is asked again every few seconds, since a guest that is booting
        does not hear it at first. If it takes longer, the task fails and the domain runs on.
      - The guest may still go off later. So the request is noted in the domain's metadata, and the next run of this
        module on the domain starts it again, whatever its parameters are. After an hour the note is out of date.
      - It has no effect live.
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
      - If one of them lies on a file system that is not known to tell holes truly, all that they hold is read for that,
        see O(kvmops.disk.qcow2_convert#module:verify).
      - Offline only. A live copy cannot be compared with a disk that changes. QEMU keeps both the same until the guest
        switches to the new one. After that, libvirt's live and inactive definitions are checked.
    type: bool
    default: true
  keep_source:
    description:
      - Whether the old images are kept. Otherwise they are removed after the domain runs from the new ones. If it is
        off, they are removed after its new definition has been verified.
      - If other images have an old image as their backing file, the task fails before it changes anything.
      - If the source is a symbolic link, the file that it leads to is removed, and then the link.
      - A block device is never removed, and so the task fails.
    type: bool
    default: true
  keep_bitmaps:
    description:
      - What becomes of the persistent dirty bitmaps of the old images, by which incremental backups are made.
      - V(auto) keeps them where the new image can have them, which are V(qcow2) images that are made offline, and warns
        with their names where it cannot. A live copy does not take them along. A bitmap that a program has left open
        says nothing, and is never copied.
      - V(required) fails before anything is changed if one would be lost. V(yes) means the same.
      - V(no) leaves them behind without a warning.
    type: str
    choices: [auto, required, 'no', 'yes']
    default: auto
  compress:
    description:
      - Whether the new images are compressed. What the guest writes later is stored uncompressed.
      - Offline only. A live conversion refuses it.
    type: bool
    default: false
  compression_type:
    description:
      - How they are compressed.
    type: str
    choices: [zlib, zstd]
  search_paths:
    description:
      - More directories to search for images that have a source as their backing file. The task always searches the
        source's own directory, and those of libvirt's storage pools. This matters with O(keep_source=false), and with
        O(max_overcommit), which counts the images in these directories.
    type: list
    elements: path
    default: []
  trusted:
    description:
      - Whether to follow references to backing files and data files that are in the images but that the domain's
        definition does not name.
      - Such a reference can have been planted to copy another file into the disk. The definition names a backing file
        by C(backingStore). That of a running domain always does.
      - If the definition names other backing files than the images do, or says that there are none, the task always
        fails, because the guest sees what the definition says.
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

- name: Move the disk of a running machine to another file system, with limited speed
  kvmops.disk.vm_disk_convert:
    name: db
    disk: vdb
    dest: /srv/fast/db-data.qcow2
    method: live
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
    method: offline
    keep_source: false

- name: Compress a disk, and give the guest ten minutes to shut down
  kvmops.disk.vm_disk_convert:
    name: archive
    disk: vda
    method: offline
    compress: true
    shutdown_timeout: 600

- name: Turn a VMware disk into raw, but only if the machine is off
  kvmops.disk.vm_disk_convert:
    name: imported
    disk: /srv/import/disk.vmdk
    format: raw
    method: offline
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
missing:
  description: What the domain needs for its start and is not there, in words, if that made the task fail.
  returned: failure
  type: list
  elements: str
live_only:
  description: The devices that only the running domain has, in words, if that made the task fail.
  returned: failure
  type: list
  elements: str
bitmaps:
  description: The names of the dirty bitmaps that made the task fail.
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
operation:
  description: The other run that is at work on the disk, with its process, if that made the task fail.
  returned: failure
  type: dict
state:
  description: The state of the domain, if that made the task fail.
  returned: failure
  type: str
next_size:
  description: The next size that a raw image can have in the cache mode of the disk, if its size made the task fail.
  returned: failure
  type: int
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._image.choices import KEEP_WORDS
from ansible_collections.kvmops.disk.plugins.module_utils._task.run import run_module
from ansible_collections.kvmops.disk.plugins.module_utils._task.specs import (
    ALIGN_SPEC,
    ALLOCATION_EXCLUSIVE,
    ALLOCATION_SPEC,
    OVERCOMMIT_SPEC,
    PLACES_SPEC,
    PROGRESS_SPEC,
    SEARCH_SPEC,
    TRUST_SPEC,
    URI_SPEC,
)
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert.task import run
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert.wish import DISK_FORMATS


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **PLACES_SPEC,
            **URI_SPEC,
            **ALLOCATION_SPEC,
            **ALIGN_SPEC,
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
            "method": {"type": "str", "aliases": ["mode"], "choices": ["auto", "offline", "live"], "default": "auto"},
            "shallow": {"type": "bool", "default": False},
            "block_device": {"type": "bool", "default": False},
            "bandwidth": {"type": "str"},
            "copy_timeout": {"type": "int", "default": 86400},
            "shutdown": {"type": "str", "choices": ["graceful", "force", "never"], "default": "graceful"},
            "shutdown_timeout": {"type": "int", "default": 120},
            "restart": {"type": "bool", "default": True},
            "verify": {"type": "bool", "default": True},
            "keep_source": {"type": "bool", "default": True},
            "keep_bitmaps": {"type": "str", "choices": list(KEEP_WORDS), "default": "auto"},
            "compress": {"type": "bool", "default": False},
            "compression_type": {"type": "str", "choices": ["zlib", "zstd"]},
        },
        mutually_exclusive=[*ALLOCATION_EXCLUSIVE, ("disk", "disks"), ("dest", "dest_dir")],
        required_one_of=[("disk", "disks")],
        supports_check_mode=True,
    )
    run_module(module, run)


if __name__ == "__main__":
    main()
