# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The work on a bitmap: what qemu-img does to it, and a look whether it did."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_bitmap.decision import plan_bitmap
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_bitmap.survey import observe
from ansible_collections.kvmops.disk.plugins.module_utils._task.task import keeping

if TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation
    from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_bitmap.wish import BitmapWish
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg


@dataclass
class Work:
    """One method for each step, under the records of *operation*."""

    wish: BitmapWish
    qemu_img: QemuImg
    operation: Operation | None

    def act(self, *actions: str) -> None:
        wish = self.wish
        with keeping(self.operation):
            self.qemu_img.bitmap(
                wish.path, wish.name.encode(), *actions, granularity=wish.granularity, source=wish.file
            )

    def verify(self) -> None:
        if plan_bitmap(self.wish, observe(self.qemu_img, self.wish), lambda: self):
            raise DiskError(
                f"{self.wish.path}: qemu-img reported success, but its bitmap {self.wish.name!r} is not as it should "
                "be: check the image",
                path=self.wish.path,
            )
