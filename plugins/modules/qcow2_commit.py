#!/usr/bin/python
# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: qcow2_commit
short_description: Merge an overlay into its backing file
version_added: 0.9.0
author:
  - kvmops.disk contributors (@kvmops)
description:
  - Writes what an overlay holds into its backing file, or into an image deeper in its chain, with all images between.
    Afterwards that image, the base, is by itself the disk that the overlay shows.
  - A base that is smaller than the overlay grows. A base keeps its owner, group and mode. One that was fully allocated
    stays so. If its file system cannot reserve space, a warning says how much is not reserved any more.
  - The whole base is compared with the overlay before the overlay is emptied or removed.
  - Writing to a base destroys all other overlays of it. If there are any, the task fails, unless
    O(allow_dependents=true).
  - Images that are in use are refused. So are the images of a domain that has a saved state, and disks in snapshots
    that libvirt knows. To merge the overlays and snapshots of a running machine, see M(kvmops.disk.vm_disk_flatten) and
    M(kvmops.disk.vm_disk_snapshot).
  - The format of the base, and of each image between, is the one that the image above it records. If an image records
    none, the task fails, because a guest may have written what a guess would read.
  - Encrypted images need their secrets, O(encryption). What is encrypted in the overlay stays encrypted in the base. If
    an image of the chain is encrypted, the base must be the backing file, because QEMU cannot find a deeper one by its
    name.
  - Images that keep their data in another file are refused.
extends_documentation_fragment:
  - kvmops.disk.places
  - kvmops.disk.progress
  - kvmops.disk.image
  - kvmops.disk.image.dependents
  - kvmops.disk.encryption.chain
  - kvmops.disk.attributes
  - kvmops.disk.attributes.changing
  - kvmops.disk.attributes.action_group
options:
  path:
    description:
      - The absolute path of the overlay.
    type: path
    required: true
  format:
    description:
      - The format of the overlay. It is never guessed. An image of another format is an error.
    type: str
    choices: [qcow2, qed]
    default: qcow2
  base:
    description:
      - The absolute path of the image to merge into, which lies below the overlay. The default is its backing file.
      - If the base is deeper, the images between are merged as well. They are no longer valid disks by themselves,
        because the image that they read is written. O(overlay=remove) removes them. Otherwise they stay, and are
        returned in RV(invalid).
      - A backing file in another directory than the overlay has to be named here, or trusted. The author of an image
        can make it refer to any file of the host, and this task writes to that file.
    type: path
  base_format:
    description:
      - The format of the base. It is an error if the image above it reads it in another format.
      - It is only needed for the facts of the base after the overlay is gone.
    type: str
    choices: [raw, qcow2, qcow, qed, vmdk, vdi, vhdx, vpc]
  overlay:
    description:
      - What happens to the overlay after the merge.
      - V(keep) leaves it as it is. It shows the same as before, and so does the base. The next run compares the two.
      - V(empty) puts an empty overlay of the base in its place, with the same size and layout, as C(qemu-img commit)
        does. The new overlay reads only the base, even if there were images between. Only qcow2 images are emptied.
      - V(remove) removes it, and the images between. If the overlay is missing, it counts as merged and removed. The
        task cannot know whether that is true.
      - An overlay with internal snapshots or dirty bitmaps can only be kept. An encrypted overlay with several keys is
        refused with V(empty), because the new one has only the key that the task gives, and the cipher of the old one.
      - The default is V(empty).
    type: str
    choices: [keep, empty, remove]
  remove:
    description:
      - The same as O(overlay=remove).
    type: bool
  rate_limit:
    description:
      - The most bytes to write in a second; a number with V(K), V(M) or V(G) (powers of 1024), such as V(50M).
    type: str
  allow_dependents:
    description:
      - Allows a merge although other images read the base, or an image between, as their backing file. Allows to remove
        an overlay that others read. These images are destroyed by it.
    type: bool
    default: false
  trusted:
    description:
      - Whether to write to a backing file in another directory that the task does not name, and to believe in a disk
        of more than 64 TiB. Set it for your own overlays.
    type: bool
    default: false
notes:
  - During a merge, hidden files C(.NAME.kvmops) stand beside all images of the chain. If a merge is killed, the base
    is neither what it was nor what the overlay shows. The overlay still shows the same. All modules refuse to write to
    these images until the next run of the same task has finished the merge.
  - A C(qemu-img) that merges works to its end, even if this module is stopped or killed.
  - The space that the base needs is measured before. If the file system becomes full nevertheless, the merge stops in
    the middle. Free some space, and run the task again.
  - A base that is smaller than the overlay grows without preallocation. If it was preallocated, grow it with
    M(kvmops.disk.qcow2_image) before.
  - The definition of a domain that names an overlay stays as it is. A task that would remove a disk of a
    domain fails.
seealso:
  - module: kvmops.disk.qcow2_image
  - module: kvmops.disk.vm_disk_flatten
"""

EXAMPLES = r"""
- name: Merge an overlay into its base, and remove it
  kvmops.disk.qcow2_commit:
    path: /var/lib/libvirt/images/web-test.qcow2
    base: /var/lib/libvirt/images/web.qcow2
    remove: true

- name: Merge it into the backing file beside it, and continue with an empty overlay
  kvmops.disk.qcow2_commit:
    path: /var/lib/libvirt/images/web-test.qcow2

- name: Merge an encrypted overlay into its encrypted base
  kvmops.disk.qcow2_commit:
    path: /var/lib/libvirt/images/vault-test.qcow2
    remove: true
    encryption:
      secret_file: /etc/keys/vault-test
      backing_secret_file: /etc/keys/vault

- name: Merge a whole chain into its last image, slowly
  kvmops.disk.qcow2_commit:
    path: /srv/overlays/web-3.qcow2
    base: /var/lib/libvirt/images/web.raw
    base_format: raw
    overlay: remove
    rate_limit: 50M
    trusted: true
"""

RETURN = r"""
actions:
  description: What was done, in order. In check mode, what would be done.
  returned: always
  type: list
  elements: str
  sample: ["merge /srv/web-test.qcow2 into /srv/web.qcow2", "remove /srv/web-test.qcow2"]
diff:
  description:
    - What changes, before and after.
    - The virtual size of the base, the bytes of the disk that the overlay holds and that are to be merged, and whether
      the overlay exists.
  returned: always
  type: dict
removed:
  description:
    - What was removed, or would be removed in check mode.
    - The paths of images.
  returned: always
  type: list
  elements: str
invalid:
  description: The paths of the images between the overlay and the base that are kept, and are no longer valid disks.
  returned: always
  type: list
  elements: str
verified:
  description:
    - Whether this run compared the new content with its source, and found them equal.
    - The base is compared with the overlay.
  returned: always
  type: bool
image:
  description:
    - The image afterwards. In check mode, as it would be.
    - This is the base. It is empty if the overlay is gone, unless the task gives O(base) and O(base_format).
    - RV(kvmops.disk.qcow2_image#module:image) lists its facts.
  returned: always
  type: dict
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
backing_chain:
  description: The paths of the images of the chain, if O(base) is not a backing file in it.
  returned: failure
  type: list
  elements: str
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
from ansible_collections.kvmops.disk.plugins.module_utils._content.merge import BASE_FORMATS
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_commit.task import run
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_commit.wish import ENDS, OVERLAYS
from ansible_collections.kvmops.disk.plugins.module_utils._task.run import run_module
from ansible_collections.kvmops.disk.plugins.module_utils._task.specs import (
    DEPENDENTS_SPEC,
    IMAGE_SPEC,
    PROGRESS_SPEC,
    TRUST_SPEC,
)
from ansible_collections.kvmops.disk.plugins.module_utils._task.specs_encryption import OPENING_SPEC


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **IMAGE_SPEC,
            **OPENING_SPEC,
            **DEPENDENTS_SPEC,
            **PROGRESS_SPEC,
            **TRUST_SPEC,
            "format": {"type": "str", "choices": list(OVERLAYS), "default": "qcow2"},
            "base": {"type": "path"},
            "base_format": {"type": "str", "choices": list(BASE_FORMATS)},
            "overlay": {"type": "str", "choices": list(ENDS)},
            "remove": {"type": "bool"},
            "rate_limit": {"type": "str"},
        },
        mutually_exclusive=[("overlay", "remove")],
        supports_check_mode=True,
    )
    run_module(module, run)


if __name__ == "__main__":
    main()
