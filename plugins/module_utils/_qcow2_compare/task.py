# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether two images are the same to a guest: the walk of qcow2_compare from its parameters to its result."""

from __future__ import annotations

import os
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._content.comparison import same_content
from ansible_collections.kvmops.disk.plugins.module_utils._image.doubts import warn_of_compressed
from ansible_collections.kvmops.disk.plugins.module_utils._progress import Progress
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_compare import survey as _survey
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_compare.wish import wish_from
from ansible_collections.kvmops.disk.plugins.module_utils._qemu import door as _door
from ansible_collections.kvmops.disk.plugins.module_utils._task.surroundings import Surroundings


def run(module: AnsibleModule) -> dict[str, t.Any]:
    """One run of the module."""
    wish, progress = wish_from(module.params), Progress.wanted()
    qemu_img = _door.find(limited=not wish.trusted)
    surroundings = Surroundings.at(module.params["uri"], warn=module.warn)
    qemu_img, (one, other) = _survey.look(qemu_img, wish, surroundings)
    for image in (one, other):
        warn_of_compressed(image.path, image.format, module.warn)
    subject = f"{os.path.basename(one.path)} and {os.path.basename(other.path)}"
    with progress.phase(subject, "compare", max(one.virtual_size, other.virtual_size)) as phase:
        named = (one.path, one.format), (other.path, other.format)
        equal = same_content(qemu_img, *named, strict=wish.strict, report=phase.percent)
    return {"changed": False, "equal": equal, "images": [one.facts(), other.facts()]}
