#!/usr/bin/python
# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: qcow2_bitmap
short_description: Dirty bitmaps of qcow2 images
version_added: 0.9.0
author:
  - kvmops.disk contributors (@kvmops)
description:
  - Adds, enables, disables, clears, merges and removes dirty bitmaps of a qcow2 image.
  - A dirty bitmap records which parts of a disk were written, for incremental backups. It records from the moment when
    it is made, and as long as it is enabled.
  - Only qcow2 images of compat 1.1 have them.
  - An image that is in use is refused. For the bitmaps of a running machine, use libvirt's checkpoints.
  - The task opens the image itself, and the one that bitmaps are merged from. It needs no backing file. The content of
    the disk stays the same.
  - A change of an encrypted image needs its secret, O(encryption). If all is as wanted already, the secret is optional,
    because bitmaps are stored unencrypted.
  - Images that keep their data in another file are refused.
extends_documentation_fragment:
  - kvmops.disk.places
  - kvmops.disk.image
  - kvmops.disk.image.path
  - kvmops.disk.encryption
  - kvmops.disk.attributes
  - kvmops.disk.attributes.changing
  - kvmops.disk.attributes.action_group
options:
  bitmap:
    description:
      - The name of the bitmap, from 1 to 1023 bytes, without control characters.
    type: str
    required: true
  state:
    description:
      - V(present) makes sure that there is a bitmap of that name. A new one is enabled and empty. An existing one stays
        as it is.
      - V(absent) makes sure that there is none.
      - V(enabled) makes it record what is written from now on. V(disabled) makes it stay as it is.
      - V(cleared) makes sure that the bitmap is empty. The task reads that from the image, so an empty bitmap is left
        alone.
      - V(merged) makes sure that all that is set in the bitmaps O(merge_from) is also set in this one. The task reads
        that from the image, and changes the bitmap only if something is missing. The other bitmaps stay as they are.
        They may have another granularity.
      - All states but V(present) and V(absent) need an existing bitmap.
    type: str
    choices: [present, absent, enabled, disabled, cleared, merged]
    default: present
  granularity:
    description:
      - The bytes that a bit of a new bitmap stands for; a power of two from V(512) to V(2G), such as V(64K).
      - By default that is the cluster size, but at least V(4K) and at most V(64K). It is fixed when the bitmap is made.
    type: str
  merge_from:
    description:
      - The names of the bitmaps that are merged into this one, with O(state=merged).
    type: list
    elements: str
  merge_from_path:
    description:
      - The absolute path of the qcow2 image that has the bitmaps O(merge_from), for example an overlay that is to be
        merged. Its disk must have the same size. The default is O(path).
    type: path
  merge_from_encryption:
    description:
      - The secret that opens O(merge_from_path), if that is encrypted.
    type: dict
    suboptions:
      secret:
        description:
          - The secret. One of O(merge_from_encryption.secret) and O(merge_from_encryption.secret_file) is required.
        type: str
      secret_file:
        description:
          - A file on the target that holds the secret. Every byte counts, also a line end.
        type: path
notes:
  - A program that opens an image to write it has its bitmaps in memory, and marks them as in use. After a crash of a
    machine, a power failure or C(kill -9) of C(qemu-img), the mark stays, and V(in-use) is among
    RV(bitmaps[].flags). Such a bitmap is no longer valid, and can only be removed. The content of the disk is safe.
  - While the task changes the image, a hidden file C(.NAME.kvmops) stands beside it. If a run is killed, its
    C(qemu-img) still finishes what it began. The next run of any module that writes the image checks the image first.
  - A program that writes to an image without knowing bitmaps makes all of them invalid. QEMU drops such bitmaps, and
    this module leaves them out as well.
seealso:
  - module: kvmops.disk.qcow2_commit
  - module: kvmops.disk.qcow2_convert
"""

EXAMPLES = r"""
- name: Record what is written from now on
  kvmops.disk.qcow2_bitmap:
    path: /var/lib/libvirt/images/web.qcow2
    bitmap: backup-monday
    granularity: 64K

- name: Start again after a full backup
  kvmops.disk.qcow2_bitmap:
    path: /var/lib/libvirt/images/web.qcow2
    bitmap: backup-monday
    state: cleared

- name: Collect all that was written since Monday in one bitmap
  kvmops.disk.qcow2_bitmap:
    path: /var/lib/libvirt/images/web.qcow2
    bitmap: backup-monday
    state: merged
    merge_from: [backup-tuesday, backup-wednesday]

- name: Keep what an overlay recorded, before the overlay is merged
  kvmops.disk.qcow2_bitmap:
    path: /var/lib/libvirt/images/web.qcow2
    bitmap: backup-monday
    state: merged
    merge_from: [backup-monday]
    merge_from_path: /var/lib/libvirt/images/web-test.qcow2

- name: Remove it
  kvmops.disk.qcow2_bitmap:
    path: /var/lib/libvirt/images/web.qcow2
    bitmap: backup-monday
    state: absent
"""

RETURN = r"""
actions:
  description: What was done, in order. In check mode, what would be done.
  returned: always
  type: list
  elements: str
  sample: ["add bitmap backup-monday of /var/lib/libvirt/images/web.qcow2"]
diff:
  description:
    - What changes, before and after.
    - The facts of the bitmap.
  returned: always
  type: dict
bitmaps:
  description: The bitmaps of the image afterwards. In check mode, as they would be.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: The name.
      type: str
    granularity:
      description: The bytes that a bit stands for.
      type: int
    flags:
      description: V(auto) if it is enabled, V(in-use) if it is no longer valid.
      type: list
      elements: str
    dirty_bytes:
      description:
        - The bytes of the disk that are set in it, in whole granules.
        - V(null) if that is unknown, for a bitmap that is in use, or in check mode after a merge.
      type: int
image:
  description:
    - The image afterwards. In check mode, as it would be.
    - RV(kvmops.disk.qcow2_image#module:image) lists its facts.
  returned: always
  type: dict
in_use_by:
  description: The domains that use what the task needs, if that made the task fail. Empty if another program uses it.
  returned: failure
  type: list
  elements: dict
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
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_bitmap.decision import STATES
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_bitmap.task import run
from ansible_collections.kvmops.disk.plugins.module_utils._task.run import run_module
from ansible_collections.kvmops.disk.plugins.module_utils._task.specs import IMAGE_SPEC
from ansible_collections.kvmops.disk.plugins.module_utils._task.specs_encryption import SECRET_SPEC


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **IMAGE_SPEC,
            **SECRET_SPEC,
            "merge_from_encryption": SECRET_SPEC["encryption"],
            "bitmap": {"type": "str", "required": True},
            "state": {"type": "str", "choices": list(STATES), "default": "present"},
            "granularity": {"type": "str"},
            "merge_from": {"type": "list", "elements": "str"},
            "merge_from_path": {"type": "path"},
        },
        supports_check_mode=True,
    )
    run_module(module, run)


if __name__ == "__main__":
    main()
