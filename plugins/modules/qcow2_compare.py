#!/usr/bin/python
# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: qcow2_compare
short_description: Tell whether two disk images are the same to a guest
version_added: 0.1.0
author:
  - kvmops.disk contributors (@kvmops)
description:
  - Compares what a guest would read from two images, whatever their formats and options are.
  - Where one is longer, what it has more must be zeros, unless O(strict=true).
  - Images that are different are an answer, RV(equal), and no failure; see the examples for a task that fails then.
  - Images that a running guest, or another program, writes to are refused.
  - Encrypted images need their secrets, O(encryption) and O(other_encryption).
  - Nothing is changed.
extends_documentation_fragment:
  - kvmops.disk.progress
  - kvmops.disk.image
  - kvmops.disk.encryption.chain
  - kvmops.disk.attributes
  - kvmops.disk.attributes.info
  - kvmops.disk.attributes.action_group
options:
  path:
    description:
      - The absolute path of an image.
    type: path
    required: true
  other:
    description:
      - The absolute path of the image to compare it with.
    type: path
    required: true
  format:
    description:
      - The format of O(path). It is never guessed; an image that is found in another format is an error.
      - V(luks) is a raw disk that is encrypted as a whole.
    type: str
    choices: [raw, qcow2, qcow, qed, vmdk, vdi, vhdx, vpc, parallels, bochs, cloop, dmg, luks]
    default: qcow2
  other_format:
    description:
      - The format of O(other). If it is left out, that is the same as O(format).
    type: str
    choices: [raw, qcow2, qcow, qed, vmdk, vdi, vhdx, vpc, parallels, bochs, cloop, dmg, luks]
  other_encryption:
    description:
      - The secrets that open O(other), and what it reads, as O(encryption) has them. If it is left out, those are
        tried.
    type: dict
    suboptions:
      secret:
        description:
          - A secret that opens O(other).
          - One of O(other_encryption.secret) and O(other_encryption.secret_file) is required.
        type: str
      secret_file:
        description:
          - A file on the target that holds the secret, to its last byte, a line end included.
        type: path
      backing_secret:
        description:
          - The secret that opens the backing files of O(other), where they are encrypted and it is another one.
        type: str
      backing_secret_file:
        description:
          - A file on the target that holds it.
        type: path
  strict:
    description:
      - Whether images of different sizes are different in any case, and those that are allocated in different places,
        too.
    type: bool
    default: false
  trusted:
    description:
      - Whether to follow references to backing files, data files and further extents that are in the images.
      - Such a reference can have been planted by a guest, or by whoever made the image, to learn something about a
        foreign file. Without this it is an error. So is a disk of more than 64 TiB.
      - Set it for your own overlays. Circles of backing files, and chains of more than 64, are refused in any case.
    type: bool
    default: false
seealso:
  - module: kvmops.disk.qcow2_convert
"""

EXAMPLES = r"""
- name: Fail if a copy is not what it was made from
  kvmops.disk.qcow2_compare:
    path: /var/lib/libvirt/images/web.qcow2
    other: /srv/export/web.raw
    other_format: raw
  register: compared
  failed_when: compared.failed or not compared.equal

- name: See whether an encrypted image has the content of one in the clear
  kvmops.disk.qcow2_compare:
    path: /var/lib/libvirt/images/vault.qcow2
    other: /srv/export/vault.raw
    other_format: raw
    encryption:
      secret_file: /etc/keys/vault
  register: vault

- name: See whether a clone differs from the golden image that it reads
  kvmops.disk.qcow2_compare:
    path: /var/lib/libvirt/images/clone.qcow2
    other: /var/lib/libvirt/images/golden.qcow2
    trusted: true
  register: clone
"""

RETURN = r"""
equal:
  description: Whether a guest would read the same from both.
  returned: success
  type: bool
images:
  description: The two images, O(path) first.
  returned: success
  type: list
  elements: dict
  contains:
    path:
      description: Its absolute path.
      type: str
    format:
      description: Its format.
      type: str
    virtual_size:
      description: The size that a guest sees, in bytes.
      type: int
    actual_size:
      description: The bytes that it occupies.
      type: int
    cluster_size:
      description: The size of a cluster in bytes.
      type: int
    compat:
      description: The version of the qcow2 format.
      type: str
    lazy_refcounts:
      description: Whether reference counts are updated lazily.
      type: bool
    refcount_bits:
      description: The width of a reference count.
      type: int
    extended_l2:
      description: Whether it has subclusters.
      type: bool
    compression_type:
      description: How compressed clusters are compressed.
      type: str
    encrypted:
      description: Whether it is encrypted.
      type: bool
    encryption:
      description: How it is encrypted, and in key_slots how many of its slots hold a key; nothing for one in the clear.
      type: dict
    dirty:
      description: Whether it was not closed properly.
      type: bool
    corrupt:
      description: Whether it is marked corrupt.
      type: bool
    backing_file:
      description: The path of its backing file.
      type: str
    backing_format:
      description: The format of its backing file.
      type: str
    data_file:
      description: The path of its external data file, or of its first extent.
      type: str
    extents:
      description: The paths of the files beside a V(vmdk) descriptor that hold the data.
      type: list
      elements: str
    snapshots:
      description: Its internal snapshots, each with id, name, date, vm_state_size and virtual_size.
      type: list
      elements: dict
in_use_by:
  description: The domains that use an image, where that made the task fail.
  returned: failure
  type: list
  elements: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._image.choices import FORMATS, READ_ONLY_FORMATS
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_compare.task import run
from ansible_collections.kvmops.disk.plugins.module_utils._task.run import run_module
from ansible_collections.kvmops.disk.plugins.module_utils._task.specs import IMAGE_SPEC, PROGRESS_SPEC, TRUST_SPEC
from ansible_collections.kvmops.disk.plugins.module_utils._task.specs_encryption import OPENING_SPEC


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **IMAGE_SPEC,
            **OPENING_SPEC,
            "other_encryption": OPENING_SPEC["encryption"],
            **PROGRESS_SPEC,
            **TRUST_SPEC,
            "other": {"type": "path", "required": True},
            "format": {"type": "str", "choices": [*FORMATS, *READ_ONLY_FORMATS, "luks"], "default": "qcow2"},
            "other_format": {"type": "str", "choices": [*FORMATS, *READ_ONLY_FORMATS, "luks"]},
            "strict": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    run_module(module, run)


if __name__ == "__main__":
    main()
