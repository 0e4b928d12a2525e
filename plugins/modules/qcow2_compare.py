#!/usr/bin/python
# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: qcow2_compare
short_description: Tell whether two disk images are the same to a guest
version_added: 0.9.0
author:
  - kvmops.disk contributors (@kvmops)
description:
  - Compares what a guest would read from two images, whatever their formats and options are.
  - If one image is longer, its rest must be zeros, unless O(strict=true).
  - If the images differ, the task succeeds and RV(equal) is false. The examples show a task that fails then.
  - On a file system that is not known to tell holes truly, all that the images hold is read, see
    O(kvmops.disk.qcow2_convert#module:verify).
  - Images that a running guest or another program writes to are refused.
  - Encrypted images need their secrets, O(encryption) and O(other_encryption).
  - Nothing is changed.
extends_documentation_fragment:
  - kvmops.disk.places
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
      - The format of O(path). It is never guessed. An image of another format is an error.
      - V(luks) is a raw disk that is encrypted as a whole.
    type: str
    choices: [raw, qcow2, qcow, qed, vmdk, vdi, vhdx, vpc, parallels, bochs, cloop, dmg, luks]
    default: qcow2
  other_format:
    description:
      - The format of O(other). The default is O(format).
    type: str
    choices: [raw, qcow2, qcow, qed, vmdk, vdi, vhdx, vpc, parallels, bochs, cloop, dmg, luks]
  other_encryption:
    description:
      - The secrets that open O(other), and what it reads, in the form of O(encryption). By default the secrets of
        O(encryption) are tried.
    type: dict
    suboptions:
      secret:
        description:
          - A secret that opens O(other).
          - One of O(other_encryption.secret) and O(other_encryption.secret_file) is required.
        type: str
      secret_file:
        description:
          - A file on the target that holds the secret. Every byte counts, also a line end.
        type: path
      backing_secret:
        description:
          - The secret that opens the backing files of O(other), if they are encrypted with another one.
        type: str
      backing_secret_file:
        description:
          - A file on the target that holds that secret.
        type: path
  strict:
    description:
      - Whether images of different sizes always differ, and images that are allocated in different places as well.
    type: bool
    default: false
  trusted:
    description:
      - Whether to follow references to backing files, data files and further extents that are in the images.
      - A guest, or the author of an image, can have planted such a reference to learn something about another file.
        Without this option it is an error. So is a disk of more than 64 TiB.
      - Set it for your own overlays. Circular chains of backing files, and chains of more than 64 images, are always
        refused.
    type: bool
    default: false
seealso:
  - module: kvmops.disk.qcow2_convert
"""

EXAMPLES = r"""
- name: Fail if a copy differs from its original
  kvmops.disk.qcow2_compare:
    path: /var/lib/libvirt/images/web.qcow2
    other: /srv/export/web.raw
    other_format: raw
  register: compared
  failed_when: compared.failed or not compared.equal

- name: See whether an encrypted image has the content of an unencrypted one
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
  description:
    - The images that the task looked at.
    - O(path) comes first.
    - RV(kvmops.disk.qcow2_image#module:image) lists the facts of each.
  returned: success
  type: list
  elements: dict
in_use_by:
  description: The domains that use what the task needs, if that made the task fail. Empty if another program uses it.
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
