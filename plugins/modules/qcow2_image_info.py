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
    unless O(backing_chain=true) asks for it.
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
    choices: [raw, qcow2, qcow, qed, vmdk, vdi, vhdx, vpc, parallels, luks]
  backing_chain:
    description:
      - Whether the images below each image are opened and returned too.
    type: bool
    default: false
  dependents:
    description:
      - Whether to look for the images that have each image as their backing or data file.
      - They are looked for beside the images, in O(search_paths), in libvirt's storage pools and among the disks
        of domains.
    type: bool
    default: false
  search_paths:
    description:
      - Further directories in which dependents are looked for.
    type: list
    elements: path
    default: []
  uri:
    description:
      - The libvirt connection whose pools and domains are asked for dependents.
        Where nothing answers there, only files are.
    type: str
    default: qemu:///system
requirements:
  - python >= 3.9
  - qemu-img >= 6.2
seealso:
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
  register: golden

- name: Look at the chains of the clones
  kvmops.disk.qcow2_image_info:
    paths: /srv/clones/*.qcow2
    backing_chain: true
"""

RETURN = r"""
images:
  description:
    - The images, in the order of O(paths); those of a directory or a pattern by name.
    - See M(kvmops.disk.qcow2_image) for what is known of each.
  returned: always
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
    backing_file:
      description: The path of its backing file.
      type: str
    backing_chain:
      description: The image and those below it, top first.
      returned: with O(backing_chain=true)
      type: list
      elements: dict
    dependents:
      description: The images that read it as their backing or data file.
      returned: with O(dependents=true)
      type: list
      elements: str
failures:
  description:
    - The files that were found in directories or by patterns and that could not be looked at, each with path and msg.
    - A file that the task names itself makes the task fail instead.
  returned: always
  type: list
  elements: dict
"""

import glob
import os
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils import _dependents, _image, _usage
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._layout import FORMATS
from ansible_collections.kvmops.disk.plugins.module_utils._module import URI_SPEC, absolute, hypervisor_if_any, run
from ansible_collections.kvmops.disk.plugins.module_utils._parallel import in_parallel
from ansible_collections.kvmops.disk.plugins.module_utils._qemu_img import QemuImg


def find(paths: t.Iterable[str], recurse: bool) -> dict[str, bool]:
    """The files that *paths* mean, in order; the value tells whether the task names the file itself."""
    found: dict[str, bool] = {}
    for path in paths:
        absolute(path.rstrip("/") or path, "paths")
        if os.path.isdir(path):
            found.update({name: found.get(name, False) for name in sorted(_files(path, recurse))})
        elif os.path.lexists(path) or not glob.has_magic(path):
            found[path] = True
        else:
            for name in sorted(glob.glob(path, recursive=recurse)):
                if os.path.isfile(name):
                    found.setdefault(name, False)
    return found


def _files(directory: str, recurse: bool) -> t.Iterator[str]:
    def unreadable(error: OSError) -> t.NoReturn:
        raise UnsafeImage(f"{error.filename}: cannot be searched for images: {error.strerror}", path=error.filename)

    for parent, directories, names in os.walk(directory, onerror=unreadable):
        directories[:] = sorted(name for name in directories if recurse and not name.startswith("."))
        for name in names:
            path = os.path.join(parent, name)
            if not name.startswith(".") and os.path.isfile(path):
                yield path


def look(qemu_img: QemuImg, path: str, image_format: str | None, with_chain: bool) -> dict[str, t.Any]:
    """The facts of one image. Raises DiskError where they cannot be had."""
    image = _image.inspect(qemu_img, path, image_format, by_header=True)
    if not with_chain:
        return image.facts()
    return {**image.facts(), "backing_chain": [link.facts() for link in _image.chain(qemu_img, image)]}


def find_readers(paths: list[str], params: dict[str, t.Any]) -> _dependents.Dependents:
    """Who reads the images at *paths*, asked once for all of them."""
    hypervisor = hypervisor_if_any(params["uri"])
    users = _usage.domain_users(hypervisor) if hypervisor else []
    return _dependents.Dependents(_dependents.directories_to_search(paths, params["search_paths"], hypervisor), users)


def gather(module: AnsibleModule) -> dict[str, t.Any]:
    """One run of the module."""
    qemu_img = QemuImg.find().limiting()
    files = find(module.params["paths"], module.params["recurse"])

    def attempt(path: str) -> dict[str, t.Any] | DiskError:
        try:
            return look(qemu_img, path, module.params["format"], module.params["backing_chain"])
        except DiskError as error:
            return error

    answers = dict(zip(files, in_parallel(attempt, list(files))))
    images = [answer for answer in answers.values() if isinstance(answer, dict)]
    failures = {path: answer for path, answer in answers.items() if isinstance(answer, DiskError)}
    for path, error in failures.items():
        if files[path]:
            raise DiskError(str(error), **{**error.facts, "images": images})
    if module.params["dependents"]:
        readers = find_readers([image["path"] for image in images], module.params)
        images = [{**image, "dependents": readers.of(image["path"])} for image in images]
    return {
        "changed": False,
        "images": images,
        "failures": [{"path": path, "msg": str(error)} for path, error in failures.items()],
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "paths": {"type": "list", "elements": "path", "required": True, "aliases": ["path"]},
            "recurse": {"type": "bool", "default": False},
            "format": {"type": "str", "choices": [*FORMATS, "luks"]},
            "backing_chain": {"type": "bool", "default": False},
            "dependents": {"type": "bool", "default": False},
            "search_paths": {"type": "list", "elements": "path", "default": []},
            **URI_SPEC,
        },
        supports_check_mode=True,
    )
    run(module, gather)


if __name__ == "__main__":
    main()
