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

    Not where a guest has the image open: libvirt owns that one for the time. Raises DiskError where the libvirt that
    the task names does not answer.
    """
    if is_locked(files[0]):
        return
    for path in files:
        arguments = module.load_file_common_arguments(module.params, path=path)
        if not report["changed"] and module.params["uri"] is not None and _would_change(module, arguments):
            from ansible_collections.kvmops.disk.plugins.module_utils._task import libvirts as _libvirts

            _libvirts.ask(module.params["uri"])
        if module.set_fs_attributes_if_different(arguments, False, report["diff"]):
            report["changed"] = True
            report["actions"].append(f"set the owner, mode or attributes of {path}")


def _would_change(module: AnsibleModule, arguments: dict[str, t.Any]) -> bool:
    decided, module.check_mode = module.check_mode, True
    try:
        return bool(module.set_fs_attributes_if_different(arguments, False))
    finally:
        module.check_mode = decided
