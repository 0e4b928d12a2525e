# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Images are made of a backup: its files are read and compared with their hashes, and the copies with them."""

from __future__ import annotations

import os
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._backup import digests as _digests
from ansible_collections.kvmops.disk.plugins.module_utils._backup import store as _store
from ansible_collections.kvmops.disk.plugins.module_utils._content import transcode as _transcode
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass, field
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError
from ansible_collections.kvmops.disk.plugins.module_utils._files import staging as _staging
from ansible_collections.kvmops.disk.plugins.module_utils._image import image as _image
from ansible_collections.kvmops.disk.plugins.module_utils._image.layout import Layout
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_restore.survey import layers

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._backup.chains import Backup
    from ansible_collections.kvmops.disk.plugins.module_utils._progress import Progress
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_restore.decision import Restoring
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_restore.wish import RestoreWish


@dataclass
class Work:
    """One method for each step. *qemu_img* keeps the records of the operation held."""

    wish: RestoreWish
    qemu_img: QemuImg
    progress: Progress
    _new: dict[str, _staging.NewFile] = field(default_factory=dict, init=False)

    def verify(self, links: t.Sequence[Backup]) -> None:
        """Reads all files of the backups. Raises DiskError where one of them has other content than was backed up."""
        if not self.wish.verify:
            return
        for link in links:
            with self.progress.phase(link.name, "verify", link.facts.bytes):
                problems = _store.problems_of(link.path, link.facts, _digests.digest)
            if problems:
                raise DiskError(
                    f"{link.path}: {problems[0]}: it was not restored: choose another backup",
                    path=link.path,
                    problems=problems,
                )

    def restore(self, item: Restoring) -> None:
        """Makes the image, and compares it. Raises DiskError, and leaves it to be withdrawn."""
        new_file = self._new[item.dest] = _staging.NewFile(item.dest)
        source = [_image.inspect(self.qemu_img, path, "qcow2") for path in item.files]
        recipe = _transcode.Recipe(item.files[0], "qcow2", Layout(self.wish.format), verify=self.wish.verify)
        _transcode.make(
            self.qemu_img.following(layers(item)),
            recipe,
            source,
            item.disk.virtual_size,
            new_file,
            lambda verb, total: self.progress.phase(item.disk.target, verb, total),
        )
        os.chmod(new_file.name, 0o600)
        new_file.publish()

    def withdraw(self, item: Restoring) -> None:
        """Removes what there is of the new image."""
        new_file = self._new.get(item.dest)
        if new_file is not None:
            new_file.withdraw()
