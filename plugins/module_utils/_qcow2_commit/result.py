# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What qcow2_commit returns."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import replace
from ansible_collections.kvmops.disk.plugins.module_utils._image import image as _image

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan
    from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_commit.decision import Fate
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg


def result(plan: Plan, fate: Fate, qemu_img: QemuImg, *, verified: bool, check_mode: bool) -> dict[str, t.Any]:
    """The report of *plan*, with the base as it is now; in check mode with the size that it would have."""
    image: dict[str, t.Any] = {}
    if fate.base is not None:
        base = _image.inspect(qemu_img, *fate.base)
        size = plan.after.get("virtual_size", base.virtual_size)
        image = (replace(base, virtual_size=size) if check_mode else base).facts()
    return {
        **plan.full_report(),
        "image": image,
        "removed": list(fate.removed),
        "invalid": list(fate.invalid),
        "verified": verified,
    }
