#!/usr/bin/python
# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: qcow2_check
short_description: Check and repair disk images
version_added: 0.9.0
author:
  - kvmops.disk contributors (@kvmops)
description:
  - Checks the metadata of a disk image, and repairs it if O(repair) asks for that.
  - If an image is corrupt and is not to be repaired, the task fails. The result of the check comes with the failure.
  - With leaked clusters the task succeeds. They cost space, but no data.
  - Only the image itself is opened. The files that it refers to (a backing file, a data file) are left alone and may be
    missing. So an overlay is checked by itself, and a chain image by image.
  - A check tells whether the tables that find the content fit together. It says nothing about the content.
  - A check also tells whether the image was cut short, of every format whose tables say how long its files have to be,
    of V(qcow) images too. An image that was cut short makes the task fail and is never repaired, because a repair
    would make the loss final.
  - An image that another program writes is refused, because what is read then contradicts itself. To repair an image,
    it must be unused.
  - To check an encrypted image, C(qemu-img) needs its secret, O(encryption).
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
  format:
    description:
      - The format of the image. It is never guessed. An image of another format is an error.
      - C(qemu-img) checks V(qcow2), V(qed), V(vmdk), V(vdi), V(vhdx) and V(parallels). The others, such as V(raw), have
        no metadata to check. For those RV(check.result) is V(unsupported), and the task succeeds without a change,
        whatever O(repair) says.
    type: str
    choices: [raw, qcow2, qcow, qed, vmdk, vdi, vhdx, vpc, parallels]
    default: qcow2
  repair:
    description:
      - V(none) only checks.
      - V(leaks) gives back clusters that are counted although nothing refers to them. If an image is corrupt as well,
        it is left alone and the task fails. QEMU can do this for V(qcow2) and V(parallels). Leaks in other formats
        stay.
      - V(all) also repairs corruptions. If these are more than wrong reference counts, a repair can lose data, so copy
        the image first. QEMU can do this for V(qcow2), V(qed) and V(parallels). A V(parallels) image with an extension
        of its format is never repaired, because QEMU would make it unreadable. The log of a V(vhdx) image that was not
        closed is replayed. Until then no module reads the image.
      - An image can be marked as corrupt, or as not closed properly, although it is sound. V(leaks) and V(all) remove
        such a mark.
    type: str
    choices: [none, leaks, all]
    default: none
  allow_dependents:
    description:
      - Allows to repair an image that other images have as their backing file. If RV(content_unchanged) is true, they
        read the same as before. Otherwise they may be destroyed.
    type: bool
    default: false
notes:
  - During a repair, a hidden file C(.NAME.kvmops) stands beside the image. If a killed run of any module left such a
    file, a run with O(repair=leaks) or O(repair=all) settles it. With O(repair=none) nothing is written.
seealso:
  - module: kvmops.disk.qcow2_image_info
  - module: kvmops.disk.qcow2_snapshot
"""

EXAMPLES = r"""
- name: Check an image
  kvmops.disk.qcow2_check:
    path: /var/lib/libvirt/images/web.qcow2
  register: checked

- name: Say how much space leaked
  ansible.builtin.debug:
    msg: "{{ checked.check.leaks }} cluster(s) can be given back"

- name: Give leaked clusters back
  kvmops.disk.qcow2_check:
    path: /var/lib/libvirt/images/web.qcow2
    repair: leaks

- name: Check an encrypted image
  kvmops.disk.qcow2_check:
    path: /var/lib/libvirt/images/vault.qcow2
    encryption:
      secret_file: /etc/keys/vault

- name: Repair what can be repaired
  kvmops.disk.qcow2_check:
    path: /var/lib/libvirt/images/web.qcow2
    repair: all
"""

RETURN = r"""
actions:
  description: What was done, in order. In check mode, what would be done.
  returned: always
  type: list
  elements: str
  sample: ["repair /var/lib/libvirt/images/web.qcow2: 3 leaked cluster(s)"]
diff:
  description:
    - What changes, before and after.
    - The result of the check and its numbers.
  returned: always
  type: dict
check:
  description:
    - The result of the check. After a repair, the result of the check that follows it. In check mode, what was found.
    - It also comes with a failure that it causes.
  returned: always
  type: dict
  contains:
    result:
      description:
        - V(good), V(leaks), V(corrupt), or V(unsupported) if the format cannot be checked.
        - An image that is marked corrupt is V(corrupt), even if nothing else is found.
      type: str
      sample: good
    corruptions:
      description: The number of corruptions.
      type: int
    leaks:
      description: The number of leaked clusters.
      type: int
    corruptions_fixed:
      description: The number of corruptions that were repaired.
      type: int
    leaks_fixed:
      description: The number of leaked clusters that were given back.
      type: int
    check_errors:
      description: The number of errors of the check itself.
      type: int
    truncated:
      description:
        - Whether something that the image holds lies behind the end of one of its files, as an interrupted upload
          leaves it. QEMU reads zeros there.
        - RV(check.result) is V(corrupt) then.
      type: bool
content_unchanged:
  description:
    - After the repair of a qcow2 image, whether its tables prove that its content is the same as before. The content is
      everything that a guest can read, now or in a snapshot. If the proof fails, there is a warning.
    - V(null) if nothing was repaired, and for other formats.
  returned: always
  type: bool
in_use_by:
  description: The domains that use what the task needs, if that made the task fail. Empty if another program uses it.
  returned: failure
  type: list
  elements: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._image.choices import FORMATS
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_check.task import run
from ansible_collections.kvmops.disk.plugins.module_utils._task.run import run_module
from ansible_collections.kvmops.disk.plugins.module_utils._task.specs import DEPENDENTS_SPEC, IMAGE_SPEC
from ansible_collections.kvmops.disk.plugins.module_utils._task.specs_encryption import SECRET_SPEC


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **IMAGE_SPEC,
            **SECRET_SPEC,
            **DEPENDENTS_SPEC,
            "format": {"type": "str", "choices": list(FORMATS), "default": "qcow2"},
            "repair": {"type": "str", "choices": ["none", "leaks", "all"], "default": "none"},
        },
        supports_check_mode=True,
    )
    run_module(module, run)


if __name__ == "__main__":
    main()
