# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is seen of backups, and of the images that are to be made of one; looked at, and nothing else."""

from __future__ import annotations

import os
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._backup import store as _store
from ansible_collections.kvmops.disk.plugins.module_utils._capacity import space as _space
from ansible_collections.kvmops.disk.plugins.module_utils._content import comparison as _comparison
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError
from ansible_collections.kvmops.disk.plugins.module_utils._files import staging as _staging
from ansible_collections.kvmops.disk.plugins.module_utils._image.trust import Trust
from ansible_collections.kvmops.disk.plugins.module_utils._qemu.secrets import Layer

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._backup.chains import Backup
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_restore.decision import Restoring
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_restore.wish import RestoreWish


def layers(item: Restoring) -> tuple[Layer, ...]:
    """The images of a disk in its backups: what their headers refer to is not followed."""
    return tuple(Layer(path, "qcow2") for path in item.files)


@dataclass(frozen=True)
class Survey:
    """Looks at what the task wants."""

    qemu_img: QemuImg
    wish: RestoreWish

    def backups(self) -> list[tuple[Backup, ...]]:
        """The backups of each domain, oldest first."""
        return [_store.backups(self.wish.src_dir, uuid) for uuid in _store.domains(self.wish.src_dir)]

    def missing(self, items: t.Sequence[Restoring]) -> list[Restoring]:
        """Those that are not there yet. Raises DiskError where another image stands in the place of one."""
        missing = []
        for item in items:
            _staging.require_directory(item.dest, "dest_dir")
            if not os.path.lexists(item.dest):
                missing.append(item)
            elif not self._is_there(item):
                raise DiskError(
                    f"{item.dest}: exists, and has other content than {item.disk.target} of the backup: it is left "
                    "alone: remove it, or choose another directory",
                    path=item.dest,
                )
        return missing

    def require_room(self, items: t.Sequence[Restoring]) -> None:
        """Raises NotEnoughSpace where the images would not fit."""
        _space.require_space([(item.dest, self._needed(item)) for item in items])

    def _needed(self, item: Restoring) -> int:
        measured = self.qemu_img.following(layers(item)).measure(item.files[0], "qcow2", "qcow2", {})
        return measured.required if self.wish.format == "qcow2" else measured.data(item.disk.virtual_size)

    def _is_there(self, item: Restoring) -> bool:
        """Whether the image that stands there has the content that it is to have."""
        (found, *below) = Trust(False).look(self.qemu_img, item.dest, self.wish.format)
        if below or found.virtual_size != item.disk.virtual_size:
            return False
        source, dest = (item.files[0], "qcow2"), (item.dest, self.wish.format)
        return _comparison.same_content(self.qemu_img.following(layers(item)), source, dest)
