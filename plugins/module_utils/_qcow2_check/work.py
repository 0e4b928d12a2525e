# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The repair of one image."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass, field
from ansible_collections.kvmops.disk.plugins.module_utils._files import staging as _staging
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_check.decision_repair import require_repaired
from ansible_collections.kvmops.disk.plugins.module_utils._recovery.repair import (
    Finding,
    repair_and_compare,
)
from ansible_collections.kvmops.disk.plugins.module_utils._task.task import keeping

if TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation
    from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_check.wish import CheckWish
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg


@dataclass
class Work:
    """One method for each step, under the records of *operation*.

    Afterwards *found* is what is left to find, and *content_unchanged* whether the content is proved to be what it was,
    None where nothing could prove that.
    """

    wish: CheckWish
    qemu_img: QemuImg
    operation: Operation | None
    found: Finding
    content_unchanged: bool | None = field(default=None, init=False)

    def repair(self) -> None:
        wish = self.wish
        with keeping(self.operation):
            check, self.content_unchanged = repair_and_compare(
                wish.path, wish.format, wish.repair, self.qemu_img, external_data=self.found.external_data
            )
            self.found = Finding(check, wish.format)
            require_repaired(wish.path, self.found)

    def discard(self) -> None:
        _staging.discard(os.path.realpath(self.wish.path))
