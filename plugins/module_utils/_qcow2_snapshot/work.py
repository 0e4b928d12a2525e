# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The work on the snapshots inside of an image: what qemu-img does to them, and a look whether it did."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_snapshot.survey import observe
from ansible_collections.kvmops.disk.plugins.module_utils._task.task import keeping

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation
    from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_snapshot.wish import SnapshotWish
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg


@dataclass
class Work:
    """One method for each step, under the records of *operation*."""

    wish: SnapshotWish
    qemu_img: QemuImg
    operation: Operation | None

    def take(self, name: bytes) -> None:
        with keeping(self.operation):
            self.qemu_img.take_snapshot(self.wish.path, name)

    def delete(self, name: bytes) -> None:
        with keeping(self.operation):
            self.qemu_img.delete_snapshot(self.wish.path, name)

    def revert(self, identifier: str) -> None:
        with keeping(self.operation):
            self.qemu_img.revert_to_snapshot(self.wish.path, identifier)

    def verify(self, names: t.Sequence[str] | None) -> None:
        observed = observe(self.qemu_img, self.wish)
        found = [entry.snapshot.name for entry in observed.entries]
        is_right = observed.at_snapshot if names is None else found == names
        if not is_right:
            raise DiskError(
                f"{self.wish.path}: qemu-img reported success, but the image is not as it should be: check it",
                path=self.wish.path,
                snapshots=found,
            )
