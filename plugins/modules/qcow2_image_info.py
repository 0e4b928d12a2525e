#!/usr/bin/python
# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: qcow2_image_info
short_description: Facts of disk images
version_added: 0.1.0
author:
  - kvmops.disk contributors (@kvmops)
description:
  - Returns what is known of many images in one task, also of images that running guests have open.
  - Looks at the named files only. What their headers refer to (backing files, data files) is reported and not opened,
    unless O(backing_chain), O(map) or O(measure) asks for it. Then it has to be among O(paths), or O(trusted=true) is
    to be set.
  - Nothing is written, and nothing is repaired.
  - Where the header of an image leaves no doubt, its facts are read from there; C(qemu-img) is asked for all others.
  - Neither libvirt-python nor lxml is needed.
extends_documentation_fragment:
  - kvmops.disk.attributes
  - kvmops.disk.attributes.info
  - kvmops.disk.attributes.action_group
options:
  paths:
    description:
      - Absolute paths of images, of directories, and shell patterns.
      - Of a directory, and by a pattern, the regular files are taken whose names do not begin with a dot.
      - A name that exists as it stands is never read as a pattern.
    type: list
    elements: path
    required: true
    aliases: [path]
  recurse:
    description:
      - Whether the directories below a directory are searched as well. Symbolic links to directories are not followed.
    type: bool
    default: false
  format:
    description:
      - The format of the images. An image of another one is an error, but anything can be looked at as V(raw).
      - If left out, the first bytes of each image say it. A guest can write those of a raw disk; for the disks of
        domains, M(kvmops.disk.vm_disk_info) takes the format from the domain.
    type: str
    choices: [raw, qcow2, qcow, qed, vmdk, vdi, vhdx, vpc, parallels, bochs, cloop, dmg, luks]
  backing_chain:
    description:
      - Whether the images below each image are opened and returned too, down to 64 and in no circle.
    type: bool
    default: false
  snapshots:
    description:
      - Whether the internal snapshots are returned. Without them RV(images[].snapshots) is V(null).
    type: bool
    default: true
  map:
    description:
      - Whether to return where the content of each disk lies, in the image or in one below it.
      - A disk of more than 100000 ranges is an error.
      - While a guest writes to an image, O(map) and O(measure) tell of what is on stable storage at that moment.
    type: bool
    default: false
  measure:
    description:
      - Whether to return what a raw or a qcow2 image with the content of each disk would take, that of the images below
        it included.
    type: bool
    default: false
  check:
    description:
      - Whether to check the metadata of each image, as M(kvmops.disk.qcow2_check) does. An image that is found corrupt
        is no failure here.
      - Nothing but the image itself is opened. An image that somebody writes to is not checked.
    type: bool
    default: false
  dependents:
    description:
      - Whether to look for the images that have each image as their backing or data file.
      - They are looked for beside the images, in O(search_paths), in libvirt's storage pools and among the disks
        of domains, and where M(kvmops.disk.vm_linked_clone) noted them beside the image.
    type: bool
    default: false
  search_paths:
    description:
      - Further directories in which dependents are looked for.
    type: list
    elements: path
    default: []
  trusted:
    description:
      - Whether to follow references to backing files, data files and extents that lead to files which are not among
        O(paths).
      - Such a reference can have been planted by a guest, or by whoever made the image, to learn of a foreign file.
        Without this it is an error where something asks to follow it, and so is the extent of a VMDK in any case, since
        QEMU opens that at a mere look. For O(map), O(measure) and O(check) so is a disk of more than 64 TiB, or one of
        more than 1024 snapshots; and C(qemu-img) may use 4 GiB of memory, five minutes of processor time and an hour
        for each look at an image.
      - Set it for your own images. Circles of backing files, and chains of more than 64, are refused in any case.
    type: bool
    default: false
  uri:
    description:
      - The libvirt connection whose pools and domains are asked for dependents.
        Where nothing answers there, only files are.
    type: str
    default: qemu:///system
requirements:
  - python >= 3.9
  - qemu-img >= 6.2
notes:
  - That an image is in use, or encrypted, is no failure. What cannot be known of it for that reason is V(null), and
    RV(images[].problems) says why.
seealso:
  - module: kvmops.disk.qcow2_check
  - module: kvmops.disk.vm_disk_info
"""

EXAMPLES = r"""
- name: Look at all images of a pool
  kvmops.disk.qcow2_image_info:
    paths: /var/lib/libvirt/images
  register: pool

- name: Say which of them are raw
  ansible.builtin.debug:
    msg: "{{ pool.images | selectattr('format', 'equalto', 'raw') | map(attribute='path') }}"

- name: Find out which golden images nobody needs any more
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

- name: Check all images of a pool, those of running machines left out
  kvmops.disk.qcow2_image_info:
    paths: /var/lib/libvirt/images
    check: true
  register: checked

- name: Say which of them are not sound
  ansible.builtin.debug:
    msg: "{{ checked.images | selectattr('check') | rejectattr('check.result', 'in', ['good', 'unsupported'])
      | map(attribute='path') }}"

- name: Find out what a copy of a disk would take
  kvmops.disk.qcow2_image_info:
    path: /srv/clones/web.qcow2
    measure: true
    trusted: true
  register: web

- name: Say it
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
    problems:
      description: Why a fact that was asked for is V(null).
      returned: with O(map=true), O(measure=true) or O(check=true)
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
from ansible_collections.kvmops.disk.plugins.module_utils._described_images import describe
from ansible_collections.kvmops.disk.plugins.module_utils._layout import FORMATS, READ_ONLY_FORMATS
from ansible_collections.kvmops.disk.plugins.module_utils._module import SEARCH_SPEC, TRUST_SPEC, URI_SPEC, run


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
            "dependents": {"type": "bool", "default": False},
            **SEARCH_SPEC,
            **TRUST_SPEC,
            **URI_SPEC,
        },
        supports_check_mode=True,
    )
    run(module, describe)


if __name__ == "__main__":
    main()
