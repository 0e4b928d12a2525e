# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The walk of the module qcow2_image from its parameters to its result, for an image that is to be there, or gone."""

from __future__ import annotations

import typing as t

from ansible.module_utils.basic import AnsibleModule


def run(module: AnsibleModule) -> dict[str, t.Any]:
    """One run of the module; only the walk that it goes is loaded."""
    if module.params["state"] == "present":
        from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_image import task_present

        return task_present.run(module)
    from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_image import task_absent

    return task_absent.run(module)
