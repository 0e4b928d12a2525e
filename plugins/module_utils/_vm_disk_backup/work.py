# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A backup is made: new files in a hidden directory, filled by libvirt or qemu-img, verified, and named when whole.

An incremental file names its backing file, the same disk of the parent, from its first byte on. libvirt itself would
name the live disk, which is another one in a moment (HAZARDS K3).
"""

from __future__ import annotations

import os
import stat
import time
import typing as t
from contextlib import suppress
from datetime import datetime, timezone
from functools import partial

from ansible_collections.kvmops.disk.plugins.module_utils._backup import digests as _digests
from ansible_collections.kvmops.disk.plugins.module_utils._backup import manifest as _manifest
from ansible_collections.kvmops.disk.plugins.module_utils._backup import store as _store
from ansible_collections.kvmops.disk.plugins.module_utils._backup.manifest import (
    INCREMENTAL,
    BackupDisk,
    BackupFile,
    Manifest,
)
from ansible_collections.kvmops.disk.plugins.module_utils._capacity import space as _space
from ansible_collections.kvmops.disk.plugins.module_utils._content import transcode as _transcode
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass, field, replace
from ansible_collections.kvmops.disk.plugins.module_utils._domain import block_job as _block_job
from ansible_collections.kvmops.disk.plugins.module_utils._domain.work import DomainWork
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, ImageInUse, LibvirtFailed
from ansible_collections.kvmops.disk.plugins.module_utils._files import durable as _durable
from ansible_collections.kvmops.disk.plugins.module_utils._files import rest as _rest
from ansible_collections.kvmops.disk.plugins.module_utils._files import same_file as _same_file
from ansible_collections.kvmops.disk.plugins.module_utils._files import staging as _staging
from ansible_collections.kvmops.disk.plugins.module_utils._formats import bitmaps as _bitmaps
from ansible_collections.kvmops.disk.plugins.module_utils._host import file_copy as _file_copy
from ansible_collections.kvmops.disk.plugins.module_utils._host.image_locks import is_locked
from ansible_collections.kvmops.disk.plugins.module_utils._image.layout import Layout
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.backups import backing_up
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.binding import is_silent_agent
from ansible_collections.kvmops.disk.plugins.module_utils._qemu.secrets import Layer
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_backup.leftovers import staged
from ansible_collections.kvmops.disk.plugins.module_utils._xml import backups as _backups
from ansible_collections.kvmops.disk.plugins.module_utils._xml import records as _records

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._backup.chains import Backup
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_backup.decision import Course, Leftover, Observed
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_backup.wish import BackupWish

_LOOK_EVERY = 0.25
#: Seconds that QEMU gets to close the files after libvirt has said that the job is over (HAZARDS K9).
_CLOSES_WITHIN = 60.0
_PRIVATE_FILE, _PRIVATE, _PASSABLE, _OF_GROUP = 0o600, 0o700, 0o711, 0o060


@dataclass
class Work(DomainWork):
    """One method for each step, no decisions between them.

    *place* is the directory with the backups of the domain, *course* what is made there. *parents*: the backups that
    it stands on, the nearest first. *nvram* is the file with UEFI variables. *quiesced*: whether the guest's file
    systems were frozen.
    """

    wish: BackupWish
    observed: Observed
    course: Course
    place: str
    parents: tuple[Backup, ...]
    nvram: str | None
    has_agent: bool
    warning: str | None = field(default=None, init=False)
    made: Manifest | None = field(default=None, init=False)
    _goes_on: bool = field(default=False, init=False)

    @property
    def path(self) -> str:
        """Where the backup is going to stand."""
        return os.path.join(self.place, self.wish.backup)

    @property
    def staged(self) -> str:
        """Where it is made."""
        return staged(self.place, self.wish.backup)

    @property
    def _passed(self) -> tuple[str, ...]:
        """The directories below that of the domain through which one comes to the new files."""
        inner = os.path.dirname(self.staged)
        return os.path.dirname(inner), inner, self.staged

    @property
    def manifest(self) -> Manifest:
        return self.made or self.course.manifest

    @property
    def files(self) -> dict[str, str]:
        """The new files, by the target of their disk."""
        return {disk.target: os.path.join(self.staged, disk.file) for disk in self.manifest.disks}

    def begin(self) -> None:
        """Writes down that a run is at work. What a dead one left is found by its files."""
        self.records.operation.settled(*self.records.operation.paths)
        self.records.operation.note(self.place, durable=False, domain=self.domain.uuid, item=self.wish.backup)

    def stage(self) -> None:
        """Makes the new files, empty, and all of the backup that is known before its disks are copied."""
        if not os.path.isdir(self.place):
            os.mkdir(self.place, _PASSABLE)
            os.chmod(self.place, _PASSABLE)
            _durable.sync(os.path.dirname(self.place))
        _staging.NewFile(self.path).begin()
        os.mkdir(self.staged)
        for directory in self._passed:  # QEMU opens the files in it as a user of its own
            os.chmod(directory, _PASSABLE)
        definition = _records.without_record(self.observed.state.definition)
        self._write(_manifest.DEFINITION, definition.encode())
        if self.nvram is not None:
            _file_copy.copy_file(self.nvram, os.path.join(self.staged, _manifest.NVRAM))
        self.made = replace(self.course.manifest, taken=_now())
        self._write(_manifest.MANIFEST, _manifest.written(self.made))

    def withdraw(self) -> None:
        """Removes the new files, unless QEMU may still fill them: then the next run is to find them."""
        if not self._goes_on:
            _staging.discard(self.path)

    def copy(self) -> None:
        """Copies the disks as they are at one point in time."""
        if self.observed.state.active:
            self._push()
        else:
            self._copy_offline()

    def resume(self) -> None:
        """Waits for the job that a dead run has begun. Its file systems may still be frozen."""
        self.made = self.course.manifest
        if self.made.quiesced:
            with suppress(LibvirtFailed):
                self.domain.thaw()
        self._await()

    def abandon(self) -> None:
        """Ends the job, and deletes its checkpoint: it knows nothing of what the backup lacks (HAZARDS K1)."""
        self._goes_on = True
        self._end_job(self.manifest)
        self._goes_on = False
        _staging.discard(self.path)

    def clear(self, left: Leftover) -> None:
        """Ends, deletes and removes what a dead run left."""
        if left.draft is not None:
            if left.draft.quiesced and self.domain.is_active():
                with suppress(LibvirtFailed):  # whoever froze it may have thawed it
                    self.domain.thaw()
            self._end_job(left.draft, job=left.job)
        _staging.discard(os.path.join(self.place, left.name))

    def seal(self) -> None:
        """Verifies the new files, brings them to the disk, and has backup.json say what they are.

        Raises DiskError where one is not what it is to be.
        """
        for target, path in self.files.items():
            self._await_closed(path)
            self._take_over(path)
            self._require_sound(target, path)
        files = {name: self._hashed(name) for name in self.manifest.files}
        self.made = replace(self.manifest, files=files)
        self._write(_manifest.MANIFEST, _manifest.written(self.made))
        os.chmod(self.staged, _PRIVATE)
        _durable.sync(self.staged)
        problems = _store.problems_of(self.staged, self.made)
        if problems:
            raise DiskError(f"{self.path}: the new backup is not what it was to be: {problems[0]}: it was removed")

    def publish(self) -> None:
        """Gives the backup its name, durably."""
        _durable.sync(os.path.dirname(self.staged))
        _staging.move_where_nothing_is(self.staged, self.path)
        _durable.sync(self.place)
        _staging.discard(self.path)

    def forget(self, checkpoints: t.Sequence[str]) -> None:
        """Deletes the checkpoints that no backup goes on from. The backup is whole: a failure is no reason to fail."""
        for name in checkpoints:
            try:
                backing_up(self.domain).delete_checkpoint(name)
            except LibvirtFailed as error:
                self.warn(f"{error}: the next backup tries again")

    def _push(self) -> None:
        """By libvirt's backup job, while the guest runs."""
        domain, manifest, files = backing_up(self.domain), self.manifest, self.files
        for disk in manifest.disks:
            self._create(disk, files[disk.target])
        here = [disk.target for disk in self.observed.state.disks if self.observed.state.has(disk)]
        backup = _backups.new_backup({target: files.get(target) for target in here}, self.course.bases)
        checkpoint = None
        if manifest.checkpoint is not None:
            tracked = [disk.target for disk in manifest.disks if disk.tracked]
            said = f"kvmops.disk: the backup {manifest.backup} in {self.place}"
            checkpoint = _backups.new_checkpoint(manifest.checkpoint, said, here, tracked)
        frozen = self._freeze()
        self.made = replace(manifest, taken=_now(), quiesced=frozen)
        self._write(_manifest.MANIFEST, _manifest.written(self.made))
        try:
            domain.begin_backup(backup, checkpoint)
        finally:
            if frozen:
                self.domain.thaw()
        self._await()

    def _freeze(self) -> bool:
        """Whether the guest agent has frozen the file systems. Raises LibvirtFailed where it must, and does not."""
        if self.wish.quiesce == "never" or self.observed.state.state != "running":
            return False
        if self.wish.quiesce == "auto" and not self.has_agent:
            return False
        self._write(_manifest.MANIFEST, _manifest.written(replace(self.manifest, quiesced=True)))
        try:
            backing_up(self.domain).freeze()
        except LibvirtFailed as error:
            thawed = ""
            try:
                self.domain.thaw()
            except LibvirtFailed:
                thawed = f"; if the agent goes on, it may freeze them yet: then virsh domfsthaw {self.domain.name}"
            if self.wish.quiesce == "required" or not is_silent_agent(error):
                raise LibvirtFailed(
                    f"{error}{thawed}: see what qemu-guest-agent does in the guest", **error.facts
                ) from error
            self.warning = f"{error}: the backup was taken without frozen file systems{thawed}"
            return False
        return True

    def _create(self, disk: BackupDisk, path: str) -> None:
        """An empty image for the copy of a disk, over the same disk of the parent where only changes are copied, with
        the owner that the disk's own image has while nobody runs it."""
        source = next(one for one in self.observed.disks if one.target == disk.target)
        backing = None
        if disk.kind == INCREMENTAL:
            backing = (_manifest.reference(str(self.manifest.parent), disk.target), "qcow2")
        self.qemu_img.create(path, "qcow2", disk.virtual_size, {"compat": "1.1"}, backing, unopened=backing is not None)
        _rest.resemble(path, t.cast(str, source.path))
        os.chmod(path, _PRIVATE_FILE | stat.S_IMODE(os.stat(path).st_mode) & _OF_GROUP)  # by which QEMU may write it

    def _await(self) -> None:
        """Waits until the job has ended, and was a success. Raises DiskError."""
        domain = backing_up(self.domain)
        what = f"{self.domain.name}: the backup {self.wish.backup}"
        began = moved = time.monotonic()
        so_far = (0, 0)
        with self.phase(self.wish.backup, "back up", 0) as phase, domain.watched() as wait:
            while self._job_of(self.manifest) is not None:
                with suppress(LibvirtFailed):
                    figures = domain.backup_figures()
                    if figures != so_far:
                        so_far, moved = figures, time.monotonic()
                        phase.at(*figures)
                now = time.monotonic()
                if now - began > self.wish.timeout or now - moved > _block_job.STALLED:
                    raise DiskError(f"{what}: was not done within {now - began:.0f} s: it was given up, and removed")
                wait(_LOOK_EVERY)
        if not domain.is_active():
            raise DiskError(f"{what}: the domain went off before it was done: it was removed: run again")
        ended = domain.ended_job()
        if ended is None or not ended.success:
            raise self._failed(what, ended.message if ended is not None else "libvirt does not tell how it ended")

    def _failed(self, what: str, message: str) -> DiskError:
        left = _space.available_bytes(self.place)
        full = left is not None and left < _space.FULL
        reason = "its file system is full: free some space, or choose another place" if full else message
        return DiskError(f"{what}: failed: {reason}: it was removed, and the guest runs on", available_bytes=left)

    def _copy_offline(self) -> None:
        """By qemu-img, from images that nobody has open; all of them as they are at one time."""
        images = [image for found in self.observed.images.values() for image in found]
        _durable.sync_before_reading(*(file for image in images for file in image.files))
        as_read = {image.path: _same_file.last_write(image.path) for image in images}
        for disk in self.manifest.disks:
            self.require_off()
            found = self.observed.images[disk.target]
            recipe = _transcode.Recipe(
                found[0].path,
                found[0].format,
                Layout("qcow2", compat="1.1"),
                verify=self.wish.verify,
            )
            layers = [Layer(image.path, image.format) for image in found]
            new_file = _staging.NewFile(self.files[disk.target])
            _transcode.make(
                self.qemu_img.following(layers),
                recipe,
                found,
                disk.virtual_size,
                new_file,
                partial(self.phase, disk.target),
            )
            new_file.publish()
        self.require_off()
        if {image.path: _same_file.last_write(image.path) for image in images} != as_read:
            raise ImageInUse(
                f"{self.domain.name}: was written to while it was backed up: the backup was removed: run again",
                in_use_by=[],
            )

    def _job_of(self, manifest: Manifest) -> str | None:
        """The job that fills the files of that backup; None where none does."""
        job = backing_up(self.domain).backup_job()
        if job is None:
            return None
        directory = staged(self.place, manifest.backup)
        filled = {os.path.dirname(file) for file in _backups.files_of_job(job).values()}
        return job if directory in filled else None

    def _end_job(self, manifest: Manifest, *, job: bool = True) -> None:
        """Ends the job of a backup that does not become whole, and deletes its checkpoint."""
        domain = backing_up(self.domain)
        if job and self._job_of(manifest) is not None:
            domain.abort_backup()
            deadline = time.monotonic() + _block_job.PROMPT
            with domain.watched() as wait:
                while self._job_of(manifest) is not None:
                    if time.monotonic() > deadline:
                        raise DiskError(f"{domain.name}: waited for the end of a backup that was ended: given up")
                    wait(_LOOK_EVERY)
        if manifest.checkpoint is not None:
            domain.delete_checkpoint(manifest.checkpoint)
            if not domain.is_active():
                self._remove_bitmaps(manifest)

    def _remove_bitmaps(self, manifest: Manifest) -> None:
        """Removes what a checkpoint has left in images that nobody has open: libvirt forgets only its name (K6)."""
        name = str(manifest.checkpoint).encode()
        for disk in manifest.disks:
            images = self.observed.images.get(disk.target, ()) if disk.tracked else ()
            for image in images[:1]:
                if any(bitmap.name == name for bitmap in _bitmaps.bitmaps_of(image.path, image.format)):
                    self.qemu_img.bitmap(image.path, name, "remove")

    def _await_closed(self, path: str) -> None:
        """libvirt says that a job is over before QEMU has closed its file (HAZARDS K9). Raises ImageInUse where it does
        not in time."""
        deadline = time.monotonic() + _CLOSES_WITHIN
        while is_locked(path):
            if time.monotonic() > deadline:
                raise ImageInUse(f"{path}: QEMU still has it open: it was removed: run again", in_use_by=[])
            time.sleep(_LOOK_EVERY / 5)

    def _take_over(self, path: str) -> None:
        """Has the file belong to us alone, whoever filled it."""
        os.chown(path, os.geteuid(), os.getegid())
        os.chmod(path, _PRIVATE_FILE)

    def _require_sound(self, target: str, path: str) -> None:
        """Raises DiskError where the new file of a disk has damaged metadata, or its chain cannot be read."""
        check = self.qemu_img.check(path, "qcow2")
        if check.result != "good":
            raise DiskError(f"{path}: the new image is {check.result}: it was removed", check=dict(vars(check)))
        disk = self.manifest.disk(target)
        if disk is not None and disk.kind == INCREMENTAL:
            layers = [Layer(path, "qcow2")]
            for parent in self.parents:
                below = parent.facts.disk(target)
                layers.append(Layer(os.path.join(parent.path, _manifest.disk_file(target)), "qcow2"))
                if below is None or below.kind != INCREMENTAL:
                    break
            self.qemu_img.following(layers).map(path, "qcow2")

    def _hashed(self, name: str) -> BackupFile:
        """A new file, brought to the disk, with its hash; read once more from there where that is to be verified."""
        path = os.path.join(self.staged, name)
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            size = os.fstat(descriptor).st_size
            with self.phase(name, "hash", size) as phase:
                found = _digests.digest(descriptor, lambda done: phase.at(done, size))
            os.fsync(descriptor)
            if self.wish.verify:
                with self.phase(name, "verify", size) as phase:
                    again = _digests.digest_on_disk(descriptor, lambda done: phase.at(done, size))
                if again != found:
                    raise DiskError(f"{path}: reads otherwise than it was written: its disk is not to be trusted")
            return BackupFile(size, found)
        finally:
            os.close(descriptor)

    def _write(self, name: str, content: bytes) -> None:
        """Makes a file of the backup, durably, or replaces it: no reader meets half of it."""
        path = os.path.join(self.staged, name)
        new = f"{path}.new"
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, _PRIVATE_FILE)
        with open(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(descriptor)
        os.rename(new, path)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="microseconds")
