#!/usr/bin/python
# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: vm_disk_flatten
short_description: Make the disks of a virtual machine independent of their backing files
version_added: 0.9.0
author:
  - kvmops.disk contributors (@kvmops)
description:
  - Makes sure that the image of a disk holds all that the guest sees on it, and needs no backing files. With O(base) it
    keeps that backing file and those below. A linked clone becomes a machine of its own. A long chain becomes a short
    one.
  - While the domain runs or is paused, libvirt pulls the content of the backing files into the image (block pull). The
    guest never stops. While the domain is off, a new image is made beside the old one, compared with it, and put in its
    place in one step.
  - The image keeps its path, its format, its layout (cluster size, compat and so on), its owner, mode and labels. If
    the definition of the domain names backing files, it then names those that are left. Nothing else changes in it.
  - The backing files are only read.
  - A running domain is never shut down. To flatten its disks offline, shut it down first.
  - If anything fails, or the module is stopped, the image has its backing files as before. What was pulled into it
    stays there, and makes no difference to the guest. If the module is killed, a block pull continues without it. The
    next run waits for that pull if it does what the task wants. Otherwise it ends the pull, and removes what else was
    left.
  - Offline, overlays that other domains have over the image stay valid, because its content is the same. While one of
    these domains runs, the task is refused.
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
      - Several disks, each as O(disk). They are flattened one after the other. If one fails live, those before it stay
        flattened. Offline, all new images are put in place at the end, or none.
    type: list
    elements: str
  base:
    description:
      - The absolute path of the backing file that is kept, with all that is below it. The images between it and the top
        are merged into the top. With several disks, it has to be in the chain of each.
      - By default the image has no backing file afterwards.
      - A disk without a backing file is left alone, whatever is named here.
    type: path
  method:
    description:
      - V(live) pulls while the domain runs or is paused. V(offline) makes a new image while it is off. V(auto) does
        what fits the state of the domain. The other two make the task fail if they do not fit.
      - A QEMU before 8.2 aborts when it pulls into an image with O(kvmops.disk.qcow2_image#module:extended_l2=true).
        The task fails then, and does not try.
    type: str
    aliases: [mode]
    choices: [auto, offline, live]
    default: auto
  bandwidth:
    description:
      - The most bytes that a block pull may read in a second, such as V(50M). By default there is no limit.
    type: str
  copy_timeout:
    description:
      - How many seconds a block pull may take. Then it is ended and the task fails. The image keeps its backing files.
    type: int
    default: 86400
  verify:
    description:
      - Whether a new image is compared with the old one before it takes its place. For O(method=offline).
    type: bool
    default: true
  trusted:
    description:
      - Whether to follow references to backing files and data files that are in the images but that the domain's
        definition does not name.
      - Such a reference can have been planted to copy another file into the disk. The definition names a backing file
        by C(backingStore). That of a running domain always does.
    type: bool
    default: false
notes:
  - "Which module to use: C(vm_disk_flatten) keeps the image where it is and only removes what is below it, which is the
    least work. M(kvmops.disk.vm_disk_convert) makes a new image, in another format or at another place, which is
    independent, too. With O(kvmops.disk.vm_disk_convert#module:shallow) that one keeps the backing chain."
  - Backing files are kept, since others may use them. M(kvmops.disk.qcow2_image) with C(state=absent) removes one
    unless it is still in use.
  - Only image files of the formats qcow2 and qed are flattened. Disks are refused if they are read-only, shareable,
    transient or encrypted, or hold internal snapshots. Domains are refused if they have snapshots, checkpoints, a
    managed-save image or a block job of another program. Offline, an image with dirty bitmaps is refused, too.
  - Offline, the new image is not preallocated, even if the old one was.
  - QEMU changes the reference to the backing file before it has written all metadata of what it pulled, and libvirt has
    no call for that. So the module tells QEMU to write it at once, through its monitor. The log of the domain says
    C(custom-monitor) then. If the host fails or QEMU is killed just before this moment (or later, if the module was
    killed), the image lacks content. In that case the record in the domain's metadata stays. Run the task again before
    the domain is started. Then the image gets its backing files back and is flattened again.
seealso:
  - module: kvmops.disk.vm_disk_convert
  - module: kvmops.disk.vm_disk_info
  - module: kvmops.disk.qcow2_image
"""

EXAMPLES = r"""
- name: Make a linked clone independent of its template, while it runs
  kvmops.disk.vm_disk_flatten:
    name: web
    disk: vda

- name: Merge what stands between two disks and the golden image, with at most 100 MiB in a second
  kvmops.disk.vm_disk_flatten:
    name: db
    disks: [vda, vdb]
    base: /srv/golden/debian12.qcow2
    bandwidth: 100M

- name: Flatten the disk of a machine that is off, whose definition does not name the backing files
  kvmops.disk.vm_disk_flatten:
    name: mail
    disk: /srv/mail/system.qcow2
    method: offline
    trusted: true
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
    - The backing chains, and the definition of the domain as a unified diff. That is empty if the definition does not
      name backing files. Passwords are hidden.
  returned: always
  type: list
  elements: dict
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
    previous_backing_chain:
      description: The backing chain before. V(null) if nothing changed.
      type: list
      elements: dict
    previous_actual_size:
      description: The bytes that the old image occupied. V(null) if nothing changed.
      type: int
    mode:
      description: How it was changed, V(live) or V(offline). V(null) if nothing changed.
      type: str
    verified:
      description:
        - Whether the new image was compared with the old one.
        - Always false after a block pull.
      type: bool
backing_chain:
  description: The paths of the images of the chain, if O(base) is not a backing file in it.
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
    - If a block job failed, what was left then.
  returned: failure
  type: int
qemu_version:
  description: The version of the domain's QEMU, if that made the task fail.
  returned: failure
  type: str
  sample: "7.2"
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._task.run import run_module
from ansible_collections.kvmops.disk.plugins.module_utils._task.specs import (
    PLACES_SPEC,
    PROGRESS_SPEC,
    TRUST_SPEC,
    URI_SPEC,
)
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten.task import run


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **PLACES_SPEC,
            **URI_SPEC,
            **PROGRESS_SPEC,
            **TRUST_SPEC,
            "name": {"type": "str", "required": True, "aliases": ["domain"]},
            "disk": {"type": "str"},
            "disks": {"type": "list", "elements": "str"},
            "base": {"type": "path"},
            "method": {"type": "str", "aliases": ["mode"], "choices": ["auto", "offline", "live"], "default": "auto"},
            "bandwidth": {"type": "str"},
            "copy_timeout": {"type": "int", "default": 86400},
            "verify": {"type": "bool", "default": True},
        },
        mutually_exclusive=[("disk", "disks")],
        required_one_of=[("disk", "disks")],
        supports_check_mode=True,
    )
    run_module(module, run)


if __name__ == "__main__":
    main()
