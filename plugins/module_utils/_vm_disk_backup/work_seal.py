# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The new files of a backup are taken over from QEMU, verified, and brought to the disk with their hashes."""

from __future__ import annotations

import os
import time
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._backup import digests as _digests
from ansible_collections.kvmops.disk.plugins.module_utils._backup import manifest as _manifest
from ansible_collections.kvmops.disk.plugins.module_utils._backup.manifest import INCREMENTAL, BackupFile
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, ImageInUse
from ansible_collections.kvmops.disk.plugins.module_utils._host.image_locks import is_locked
from ansible_collections.kvmops.disk.plugins.module_utils._qemu.secrets import Layer

if t.TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from ansible_collections.kvmops.disk.plugins.module_utils._backup.chains import Backup
    from ansible_collections.kvmops.disk.plugins.module_utils._backup.manifest import BackupDisk, Manifest
    from ansible_collections.kvmops.disk.plugins.module_utils._progress import Phase
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg

#: Seconds that QEMU gets to close the files after libvirt has said that the job is over (HAZARDS K9).
_CLOSES_WITHIN = 60.0
_LOOK_EVERY = 0.05
_PRIVATE_FILE = 0o600


@dataclass(frozen=True)
class Seal:
    """Seals the files of *manifest* in *directory*, which stand on those of *parents*, the nearest first.

    *verify*: they are read once more, from the disk. *phase* begins the progress of a part (subject, verb, bytes).
    """

    qemu_img: QemuImg
    manifest: Manifest
    directory: str
    parents: tuple[Backup, ...]
    verify: bool
    phase: t.Callable[[str, str, int], AbstractContextManager[Phase]]

    def files(self) -> dict[str, BackupFile]:
        """Each file, as it is on the disk now, by its name. Raises DiskError where one is not what it is to be."""
        for disk in self.manifest.disks:
            path = os.path.join(self.directory, disk.file)
            self._await_closed(path)
            self._take_over(path)
            self._require_sound(disk, path)
        return {name: self._hashed(name) for name in self.manifest.files}

    def _await_closed(self, path: str) -> None:
        """libvirt says that a job is over before QEMU has closed its file (HAZARDS K9). Raises ImageInUse where it does
        not in time."""
        deadline = time.monotonic() + _CLOSES_WITHIN
        while is_locked(path):
            if time.monotonic() > deadline:
                raise ImageInUse(f"{path}: QEMU still has it open: it was removed: run again", in_use_by=[])
            time.sleep(_LOOK_EVERY)

    def _take_over(self, path: str) -> None:
        """Has the file belong to us alone, whoever filled it."""
        os.chown(path, os.geteuid(), os.getegid())
        os.chmod(path, _PRIVATE_FILE)

    def _require_sound(self, disk: BackupDisk, path: str) -> None:
        """Raises DiskError where the new file of a disk has damaged metadata, or its chain cannot be read."""
        check = self.qemu_img.check(path, "qcow2")
        if check.result != "good":
            raise DiskError(f"{path}: the new image is {check.result}: it was removed", check=dict(vars(check)))
        if disk.kind == INCREMENTAL:
            layers = [Layer(path, "qcow2"), *self._below(disk.target)]
            self.qemu_img.following(layers).map(path, "qcow2")

    def _below(self, target: str) -> t.Iterator[Layer]:
        """The files of that disk in the parents, down to the full one."""
        for parent in self.parents:
            yield Layer(os.path.join(parent.path, _manifest.disk_file(target)), "qcow2")
            below = parent.facts.disk(target)
            if below is None or below.kind != INCREMENTAL:
                return

    def _hashed(self, name: str) -> BackupFile:
        """A new file, brought to the disk, with its hash; read once more from there where that is to be verified."""
        path = os.path.join(self.directory, name)
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            size = os.fstat(descriptor).st_size
            with self.phase(name, "hash", size) as phase:
                found = _digests.digest(descriptor, lambda done: phase.at(done, size))
            os.fsync(descriptor)
            if self.verify:
                with self.phase(name, "verify", size) as phase:
                    again = _digests.digest_on_disk(descriptor, lambda done: phase.at(done, size))
                if again != found:
                    raise DiskError(f"{path}: reads otherwise than it was written: its disk is not to be trusted")
            return BackupFile(size, found)
        finally:
            os.close(descriptor)
