# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What qcow2_convert returns."""

from __future__ import annotations

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._files import file_set as _file_set
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_convert import survey as _survey
from ansible_collections.kvmops.disk.plugins.module_utils._task.attributes import set_attributes

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
    from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan
    from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_convert.wish import ImageConvertWish
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg


def result(
    module: AnsibleModule,
    wish: ImageConvertWish,
    plan: Plan,
    qemu_img: QemuImg,
    *,
    verified: bool,
    predicted: Image | None,
) -> dict[str, t.Any]:
    """The report of *plan*, with the image as it is now; in check mode as it is *predicted*, if it is.

    *verified*: its content was compared with that of its source. Files get their attributes here, at the end.
    """
    report = {**plan.full_report(), "verified": verified}
    made = predicted is not None
    if module.check_mode and predicted is not None:
        set_attributes(module, [wish.dest], report, made=made)
        return {**report, "image": predicted.facts()}
    set_attributes(module, _file_set.files(wish.dest), report, made=made)
    return {**report, "image": _survey.existing(wish, qemu_img).facts()}
