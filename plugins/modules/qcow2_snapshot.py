#!/usr/bin/python
# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: qcow2_snapshot
short_description: Internal snapshots of qcow2 images
version_added: 0.9.0
author:
  - kvmops.disk contributors (@kvmops)
description:
  - Takes and deletes internal snapshots of a qcow2 image, reverts to them, and keeps a number of the newest.
  - Only qcow2 images have internal snapshots. An image of another format is an error.
  - An image that is in use is refused. For snapshots of a running machine, use M(kvmops.disk.vm_disk_snapshot).
  - The image's own table says which snapshot a name means. C(qemu-img) takes a number for an ID as well as for a name,
    takes a name twice, and cuts off long names. Here such names are errors.
  - Only the image itself is opened. A backing file is left alone and may be missing. So a snapshot holds the content
    of this image alone. All else is read from the backing file as it is at the time.
  - A change of an encrypted image needs its secret, O(encryption). If all is as wanted already, the secret is optional,
    because the tables of the image are unencrypted.
  - Images that keep their data in another file are refused.
extends_documentation_fragment:
  - kvmops.disk.places
  - kvmops.disk.image
  - kvmops.disk.image.path
  - kvmops.disk.image.dependents
  - kvmops.disk.encryption
  - kvmops.disk.attributes
  - kvmops.disk.attributes.changing
  - kvmops.disk.attributes.action_group
options:
  snapshot:
    description:
      - The name of the snapshot, from 1 to 255 bytes, without control characters. It must not be a mere number.
      - Optional if O(keep) says what is to be done.
    type: str
  state:
    description:
      - V(present) makes sure that there is a snapshot of that name. An existing one stays as it is, whatever the image
        holds by now. To take a new one, give another name.
      - V(absent) makes sure that there is none.
      - V(reverted) makes the image what it was when the snapshot was taken, including its virtual size. What was
        written since is lost, unless another snapshot holds it. If the snapshot holds the memory of a machine, that
        memory is ignored.
      - An image counts as reverted until it is written to. The task reads that from the tables of the image, which is
        quick for images of any size. Writing the same content again counts as a change, so the image is reverted again.
    type: str
    choices: [present, absent, reverted]
    default: present
  keep:
    description:
      - How many snapshots to keep of those whose names begin with O(prefix). The oldest beyond that number are deleted,
        and returned in RV(removed).
      - With O(state=present), the new snapshot counts. The snapshot that the task names is never deleted.
    type: int
  prefix:
    description:
      - Which snapshots O(keep) counts. An empty prefix means all.
    type: str
  allow_dependents:
    description:
      - Allows to write an image that other images have as their backing file. A revert destroys these images.
      - If a snapshot is taken or deleted, they read the same as before. But a killed run leaves wrong reference counts
        in an image that all of them need.
    type: bool
    default: false
notes:
  - While the task changes the image, a hidden file C(.NAME.kvmops) stands beside it. If a run is killed,
    C(qemu-img check) may find corruptions, which are wrong reference counts. The next run of any module that writes
    the image repairs these first, and proves by the image's tables that the content is unchanged.
  - If a revert is killed, the disk may be neither what it was nor what the snapshot holds. Other tasks refuse the image
    then, and O(state=reverted) finishes the revert.
seealso:
  - module: kvmops.disk.qcow2_check
  - module: kvmops.disk.qcow2_image_info
  - module: kvmops.disk.vm_disk_snapshot
"""

EXAMPLES = r"""
- name: Take a snapshot before the upgrade
  kvmops.disk.qcow2_snapshot:
    path: /var/lib/libvirt/images/web.qcow2
    snapshot: before-upgrade

- name: Revert to it
  kvmops.disk.qcow2_snapshot:
    path: /var/lib/libvirt/images/web.qcow2
    snapshot: before-upgrade
    state: reverted

- name: Delete it
  kvmops.disk.qcow2_snapshot:
    path: /var/lib/libvirt/images/web.qcow2
    snapshot: before-upgrade
    state: absent

- name: Take tonight's snapshot, and keep those of a week
  kvmops.disk.qcow2_snapshot:
    path: /var/lib/libvirt/images/web.qcow2
    snapshot: "nightly-{{ now(fmt='%Y-%m-%d') }}"
    keep: 7
    prefix: nightly-

- name: Take a snapshot of an encrypted image
  kvmops.disk.qcow2_snapshot:
    path: /var/lib/libvirt/images/vault.qcow2
    snapshot: before-upgrade
    encryption:
      secret_file: /etc/keys/vault

- name: Only delete what is too old
  kvmops.disk.qcow2_snapshot:
    path: /var/lib/libvirt/images/web.qcow2
    keep: 3
    prefix: nightly-
"""

RETURN = r"""
actions:
  description: What was done, in order. In check mode, what would be done.
  returned: always
  type: list
  elements: str
  sample: ["take snapshot before-upgrade of /var/lib/libvirt/images/web.qcow2"]
diff:
  description:
    - What changes, before and after.
    - The names of the snapshots. With O(state=reverted), the snapshot and the virtual size.
  returned: always
  type: dict
snapshots:
  description:
    - The snapshots afterwards. In check mode, as they would be.
    - All internal snapshots of the image.
  returned: always
  type: list
  elements: dict
  contains:
    id:
      description: The ID, by which QEMU counts snapshots.
      type: str
    name:
      description: The name.
      type: str
    date:
      description: When it was taken, in ISO 8601. V(null) for a snapshot that would be taken in check mode.
      type: str
      sample: "2026-03-01T02:00:00.123456+00:00"
    vm_state_size:
      description: The size of the memory of a machine that it holds, in bytes.
      type: int
    virtual_size:
      description: The size that the disk had, in bytes.
      type: int
removed:
  description:
    - What was removed, or would be removed in check mode.
    - The names of snapshots.
  returned: always
  type: list
  elements: str
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
dependents:
  description: The images that read what was to be written or removed, if that made the task fail.
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
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_snapshot.task import run
from ansible_collections.kvmops.disk.plugins.module_utils._task.run import run_module
from ansible_collections.kvmops.disk.plugins.module_utils._task.specs import DEPENDENTS_SPEC, IMAGE_SPEC, SNAPSHOT_SPEC
from ansible_collections.kvmops.disk.plugins.module_utils._task.specs_encryption import SECRET_SPEC


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **IMAGE_SPEC,
            **SECRET_SPEC,
            **DEPENDENTS_SPEC,
            **SNAPSHOT_SPEC,
        },
        required_together=[("keep", "prefix")],
        required_one_of=[("snapshot", "keep")],
        supports_check_mode=True,
    )
    run_module(module, run)


if __name__ == "__main__":
    main()
