#!/usr/bin/python
# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: qcow2_image_info
short_description: Facts of disk images
version_added: 0.9.0
author:
  - kvmops.disk contributors (@kvmops)
description:
  - Returns the facts of many images in one task, also of images that running guests have open.
  - Opens only the named files. The files that their headers refer to (backing files, data files) are reported, but only
    opened if O(backing_chain), O(map) or O(measure) asks for it. Then they have to be among O(paths), unless
    O(trusted=true).
  - Nothing is written or repaired.
  - The facts come from the header of an image, if that is unambiguous. Otherwise C(qemu-img) is asked.
  - libvirt-python and lxml are optional.
extends_documentation_fragment:
  - kvmops.disk.attributes
  - kvmops.disk.attributes.info
  - kvmops.disk.attributes.action_group
options:
  paths:
    description:
      - Absolute paths of images, of directories, and shell patterns.
      - A directory or a pattern stands for its regular files, except those whose names begin with a dot.
      - A name that exists is never read as a pattern.
    type: list
    elements: path
    required: true
    aliases: [path]
  recurse:
    description:
      - Whether the directories below a directory are searched as well. Symbolic links to directories are left out.
    type: bool
    default: false
  format:
    description:
      - The format of the images. An image of another format is an error, but any file can be read as V(raw).
      - By default the first bytes of each image tell the format. A guest can write those of a raw disk. For the disks
        of domains use M(kvmops.disk.vm_disk_info), which takes the format from the domain.
    type: str
    choices: [raw, qcow2, qcow, qed, vmdk, vdi, vhdx, vpc, parallels, bochs, cloop, dmg, luks]
  backing_chain:
    description:
      - Whether the images below each image are opened and returned as well. A chain of more than 64 images, or a
        circular one, is an error.
    type: bool
    default: false
  snapshots:
    description:
      - Whether the internal snapshots are returned. Otherwise C(snapshots) of each image is V(null).
    type: bool
    default: true
  map:
    description:
      - Whether to return where the content of each disk lies, in the image or in one below it.
      - A disk of more than 100000 ranges is an error.
      - While a guest writes to an image, O(map) and O(measure) tell what is on stable storage at that moment.
    type: bool
    default: false
  measure:
    description:
      - Whether to return what a raw or a qcow2 image with the content of each disk would take. The content of the
        images below it is included.
    type: bool
    default: false
  check:
    description:
      - Whether to check the metadata of each image, as M(kvmops.disk.qcow2_check) does. With a corrupt image the task
        succeeds here.
      - Only the image itself is opened. An image that a program writes to is left unchecked.
    type: bool
    default: false
  reclaimable:
    description:
      - Whether to return how many bytes M(kvmops.disk.vm_disk_reclaim) would give back of each image, at least, if its
        machine is off.
      - This is told by the tables of the image, without its content. An image whose clusters hold zeros, such as those
        that a guest has wiped, gives back more.
      - Only the image itself is opened.
    type: bool
    default: false
  dependents:
    description:
      - Whether to search for the images that have each image as their backing file or data file.
      - The task searches the directories of the images, O(search_paths), libvirt's storage pools and the disks of
        domains. It also reads what M(kvmops.disk.vm_linked_clone) noted beside an image.
    type: bool
    default: false
  search_paths:
    description:
      - More directories to search for dependents.
    type: list
    elements: path
    default: []
  trusted:
    description:
      - Whether to follow references to backing files, data files and extents that lead out of O(paths).
      - A guest, or the author of an image, can have planted such a reference to learn about another file. Without this
        option it is an error to follow one. The extent of a VMDK is an error even if no option asks to follow it,
        because QEMU opens it at the first look. For O(map), O(measure), O(check) and O(reclaimable), a disk of more
        than 64 TiB and an image with more than 1024 snapshots are errors as well. C(qemu-img) may use 4 GiB of memory,
        five minutes of processor time and an hour to look at an image.
      - Set it for your own images. Circular chains of backing files, and chains of more than 64 images, are always
        refused.
    type: bool
    default: false
  uri:
    description:
      - The libvirt connection whose pools and domains are asked for dependents. If it does not answer, only files are
        searched, with a warning.
      - If it is left out, or is V(qemu:///system) or V(qemu:///session), all libvirts of this host are asked that the
        user of the task can reach. Any other URI is asked alone.
    type: str
requirements:
  - python >= 3.9
  - qemu-img >= 6.2
notes:
  - Images that are in use or encrypted are returned like others. A fact that cannot be read for such a reason is
    V(null), and RV(images[].problems) says why.
seealso:
  - module: kvmops.disk.qcow2_check
  - module: kvmops.disk.vm_disk_info
"""

EXAMPLES = r"""
- name: Look at all images of a pool
  kvmops.disk.qcow2_image_info:
    paths: /var/lib/libvirt/images
  register: pool

- name: Name the raw ones
  ansible.builtin.debug:
    msg: "{{ pool.images | selectattr('format', 'equalto', 'raw') | map(attribute='path') }}"

- name: Find out which golden images are no longer needed
  kvmops.disk.qcow2_image_info:
    paths: /srv/golden
    dependents: true
    search_paths: [/srv/clones]
  register: golden

- name: Name them
  ansible.builtin.debug:
    msg: "{{ golden.images | selectattr('unused_base') | map(attribute='path') }}"

- name: Look at the chains of the clones, whose base images are in a directory of their own
  kvmops.disk.qcow2_image_info:
    paths:
      - /srv/clones/*.qcow2
      - /srv/golden
    backing_chain: true

- name: Check all images of a pool, except those of running machines
  kvmops.disk.qcow2_image_info:
    paths: /var/lib/libvirt/images
    check: true
  register: checked

- name: Name the corrupt or leaking ones
  ansible.builtin.debug:
    msg: "{{ checked.images | selectattr('check') | rejectattr('check.result', 'in', ['good', 'unsupported'])
      | map(attribute='path') }}"

- name: Find out which images could give space back
  kvmops.disk.qcow2_image_info:
    paths: /var/lib/libvirt/images
    reclaimable: true
  register: pool

- name: Name those that would give back more than 1 GiB
  ansible.builtin.debug:
    msg: "{{ pool.images | rejectattr('reclaimable', 'none') | selectattr('reclaimable', 'gt', 1073741824)
      | map(attribute='path') }}"

- name: Measure what a copy of a disk would take
  kvmops.disk.qcow2_image_info:
    path: /srv/clones/web.qcow2
    measure: true
    trusted: true
  register: web

- name: Show the size
  ansible.builtin.debug:
    msg: "{{ web.images[0].measure.qcow2.required }} bytes"
"""

RETURN = r"""
images:
  description:
    - The images that the task looked at.
    - They come in the order of O(paths). Those of a directory or a pattern come by name.
    - RV(kvmops.disk.qcow2_image#module:image) lists the facts of each. The options of this module add more.
  returned: always
  type: list
  elements: dict
  contains:
    backing_chain:
      description: The image and those below it, top first, each with these facts.
      returned: with O(backing_chain=true)
      type: list
      elements: dict
    map:
      description: The disk from its beginning to its end, in ranges. V(null) if that cannot be read.
      returned: with O(map=true)
      type: list
      elements: dict
      contains:
        start:
          description: Where the range begins, in bytes.
          type: int
        length:
          description: Its length in bytes.
          type: int
        depth:
          description: The image that holds it. The top image is V(0), its backing file V(1).
          type: int
        present:
          description: Whether any image holds it. Otherwise it reads as zeros.
          type: bool
        zero:
          description: Whether it reads as zeros.
          type: bool
        data:
          description: Whether it takes space in the image.
          type: bool
        offset:
          description: Where it begins in the file, in bytes. V(null) if it has no single place there.
          type: int
    measure:
      description: What a new image with the same content takes, by its format. V(null) if that cannot be read.
      returned: with O(measure=true)
      type: dict
      sample: {"raw": {"required": 10485760, "fully_allocated": 10485760},
        "qcow2": {"required": 1376256, "fully_allocated": 10813440}}
      contains:
        raw:
          description: The figures of a raw image. Holes are counted, although they cost nothing.
          type: dict
        qcow2:
          description:
            - The figures of a qcow2 image with the usual options. It takes RV(images[].measure.qcow2.required) bytes
              at first, and RV(images[].measure.qcow2.fully_allocated) after its guest has written everything.
          type: dict
          contains:
            required:
              description: The bytes that it takes at first.
              type: int
            fully_allocated:
              description: The bytes that it takes after everything is written.
              type: int
    check:
      description:
        - What a check found. V(null) if the image cannot be checked now.
        - RV(kvmops.disk.qcow2_check#module:check) lists its facts.
      returned: with O(check=true)
      type: dict
    reclaimable:
      description:
        - The bytes that a rewrite of the image gives back, at least.
        - V(null) if it cannot be rewritten. These are images of other formats than raw and qcow2, and those that are
          encrypted, hold internal snapshots, or keep their data in another file.
      returned: with O(reclaimable=true)
      type: int
    problems:
      description: Why a fact that was asked for is V(null).
      returned: with O(map=true), O(measure=true), O(check=true) or O(reclaimable=true)
      type: list
      elements: str
    dependents:
      description:
        - The images that read it.
        - As their backing file or data file.
      returned: with O(dependents=true)
      type: list
      elements: str
    protected_base:
      description: Whether M(kvmops.disk.vm_linked_clone) made it read-only, because clones depend on it.
      returned: with O(dependents=true)
      type: bool
    unused_base:
      description:
        - Whether it was a base of linked clones and is needed no longer. M(kvmops.disk.vm_linked_clone) notes beside an
          image that it is a base.
        - If clones were made in another way, the image is not known as a base. Then this is V(false), and
          RV(images[].dependents) is empty.
      returned: with O(dependents=true)
      type: bool
    unused_since:
      description:
        - When the last clone was removed, in ISO 8601.
        - V(null) if the image is used, if it was never a base, or if its clones were removed by hand.
      returned: with O(dependents=true)
      type: str
failures:
  description:
    - What could not be looked at, each with path and msg.
    - These are files in directories and files that match a pattern. A file that the task names itself makes the task
      fail instead.
  returned: always
  type: list
  elements: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._image.choices import FORMATS, READ_ONLY_FORMATS
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_image_info.task import run
from ansible_collections.kvmops.disk.plugins.module_utils._task.run import run_module
from ansible_collections.kvmops.disk.plugins.module_utils._task.specs import ASKED_URI_SPEC, SEARCH_SPEC, TRUST_SPEC


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "paths": {"type": "list", "elements": "path", "required": True, "aliases": ["path"]},
            "recurse": {"type": "bool", "default": False},
            "format": {"type": "str", "choices": [*FORMATS, *READ_ONLY_FORMATS, "luks"]},
            "backing_chain": {"type": "bool", "default": False},
            "snapshots": {"type": "bool", "default": True},
            "map": {"type": "bool", "default": False},
            "measure": {"type": "bool", "default": False},
            "check": {"type": "bool", "default": False},
            "reclaimable": {"type": "bool", "default": False},
            "dependents": {"type": "bool", "default": False},
            **SEARCH_SPEC,
            **TRUST_SPEC,
            **ASKED_URI_SPEC,
        },
        supports_check_mode=True,
    )
    run_module(module, run, only_looks=True)


if __name__ == "__main__":
    main()
