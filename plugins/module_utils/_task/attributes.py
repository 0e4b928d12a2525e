# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Owner, group, mode and attributes of images, as the file modules set them."""

from __future__ import annotations

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._host.image_locks import is_locked


def dress(module: AnsibleModule, path: str) -> None:
    """Gives a file that is being made what the task says."""
    module.set_fs_attributes_if_different(module.load_file_common_arguments(module.params, path=path), False)


def set_attributes(module: AnsibleModule, files: t.Sequence[str], report: dict[str, t.Any]) -> None:
    """Gives the *files* of an image, the one that names it first, what the task says; what changes goes into *report*.

    Not where a guest has the image open: that one libvirt owns for the time.
    """
    if is_locked(files[0]):
        return
    for path in files:
        arguments = module.load_file_common_arguments(module.params, path=path)
        if module.set_fs_attributes_if_different(arguments, False, report["diff"]):
            report["changed"] = True
            report["actions"].append(f"set the owner, mode or attributes of {path}")
