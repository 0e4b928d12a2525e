# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether two images are the same to a guest: the walk of qcow2_compare from its parameters to its result."""

from __future__ import annotations

import os
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._files import lock as _lock
from ansible_collections.kvmops.disk.plugins.module_utils._image import encryption as _encryption
from ansible_collections.kvmops.disk.plugins.module_utils._image import key_slots as _key_slots
from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
from ansible_collections.kvmops.disk.plugins.module_utils._image.trust import Trust, require_not_corrupt
from ansible_collections.kvmops.disk.plugins.module_utils._progress import Progress
from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg
from ansible_collections.kvmops.disk.plugins.module_utils._task import surroundings as _surroundings
from ansible_collections.kvmops.disk.plugins.module_utils._task.arguments import absolute
from ansible_collections.kvmops.disk.plugins.module_utils._task.surroundings import Surroundings


def run(module: AnsibleModule) -> dict[str, t.Any]:
    """One run of the module."""
    params = module.params
    formats = (params["format"], params["other_format"] or params["format"])
    paths = (absolute(params["path"], "path"), absolute(params["other"], "other"))
    progress = Progress.wanted()
    trust = Trust(params["trusted"])
    qemu_img = QemuImg.find().limiting(not trust.trusted)
    surroundings = Surroundings(params["uri"], ())
    chains = [trust.look(qemu_img, path, image_format) for path, image_format in zip(paths, formats)]
    first = _key_slots.openers_from(params, "encryption")
    second = _key_slots.openers_from(params, "other_encryption") or first
    for chain, openers, name in zip(chains, (first, second), ("encryption", "other_encryption")):
        _encryption.require_secret(chain, openers, "compare it", name)
        if openers is not None:
            qemu_img = _key_slots.unlocked(qemu_img, chain, openers)
    for chain in chains:
        _require_still(qemu_img, chain, surroundings)
    one, other = chains[0][0], chains[1][0]
    subject = f"{os.path.basename(one.path)} and {os.path.basename(other.path)}"
    with progress.phase(subject, "compare", max(one.virtual_size, other.virtual_size)) as phase:
        verb = qemu_img.identical if params["strict"] else qemu_img.same_content
        equal = verb(one.path, one.format, other.path, other.format, report=phase.percent)
    return {"changed": False, "equal": equal, "images": [one.facts(), other.facts()]}


def _require_still(qemu_img: QemuImg, chain: tuple[Image, ...], surroundings: Surroundings) -> None:
    """Raises where what is read of the images would be no whole disk."""
    require_not_corrupt(chain)
    _surroundings.require_settled(qemu_img, chain[0].path, chain[0].format, _lock.look(chain[0].path))
    surroundings.require_not_running(chain[0].path, "compare it", but="backing file")
    for image in chain:
        _surroundings.require_unwritten(image)
