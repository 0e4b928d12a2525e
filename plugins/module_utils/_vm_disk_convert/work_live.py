# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is done to convert the disks of a domain while its guest runs."""

from __future__ import annotations

import os
import stat
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass, field
from ansible_collections.kvmops.disk.plugins.module_utils._domain import block_job as _block_job
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, LibvirtFailed
from ansible_collections.kvmops.disk.plugins.module_utils._files import durable as _durable
from ansible_collections.kvmops.disk.plugins.module_utils._files import rest as _rest
from ansible_collections.kvmops.disk.plugins.module_utils._files import same_file as _same_file
from ansible_collections.kvmops.disk.plugins.module_utils._files import staging as _staging
from ansible_collections.kvmops.disk.plugins.module_utils._host import space as _space
from ansible_collections.kvmops.disk.plugins.module_utils._image.creation import creation_options
from ansible_collections.kvmops.disk.plugins.module_utils._recovery.traces import NEW_FILE
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert import (
    decision_conversion as _decision_conversion,
)
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert.work import Work as ConvertWork
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disk_changes as _disk_changes
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disks as _disks
from ansible_collections.kvmops.disk.plugins.module_utils._xml import records as _records

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
    from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.acting import ActingDomain
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert.decision import Conversion
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert.wish import ConvertWish


@dataclass
class Work(ConvertWork):
    """One method for each step of a live conversion.

    *images*: the source of each target, as it was found. *adopted*: the targets whose copy a dead run began.
    """

    wish: ConvertWish
    images: t.Mapping[str, Image]
    adopted: t.Container[str] = ()
    _made: dict[str, list[int]] = field(default_factory=dict, init=False)
    _owners: dict[str, tuple[int, int]] = field(default_factory=dict, init=False)
    _sources: dict[str, tuple[int, int]] = field(default_factory=dict, init=False)

    def begin(self, record: _records.Record, conversions: t.Sequence[Conversion]) -> None:
        """Writes down what is in flight, and that the images which were made for it are ours."""
        ours = {
            item.dest: _same_file.file_identity(item.dest)
            for item in conversions
            if item.target in self.adopted and not self.wish.block_device
        }
        self.records.write(record)
        for disk in record.disks:
            if disk.dest in ours:
                self._ours(disk, ours[disk.dest])
        for item in conversions:
            self._owners.update(_rest.owners(link.path for link in item.disk.chain or () if link.path))
            lender = _rest.remembered_owner(item.source)
            if lender is not None:
                self._sources[os.path.realpath(item.source)] = lender

    def stage(self, item: Conversion) -> None:
        """Puts an image of the right size in place, empty, with the owner that the source has while nobody runs it.

        libvirt would make one that nobody else can read, and overwrite an empty file that stands there (HAZARDS G6).
        That of an adopted copy is there already.
        """
        if item.target in self.adopted:
            return
        layout = self.wish.layout
        if self.wish.block_device:
            if layout.format != "raw":
                self._create(item, item.dest)
            return
        new_file = _staging.NewFile(item.dest, item.source)
        new_file.begin()
        self._create(item, new_file.name)
        _rest.resemble(new_file.name, item.source)
        mode = os.stat(new_file.name).st_mode & 0o7777
        os.chmod(new_file.name, mode | stat.S_IWUSR)  # the guest has the source open, whatever its mode is by now
        self._ours(_decision_conversion.recorded(item, self.wish), new_file.identity())
        new_file.publish()

    def _create(self, item: Conversion, path: str) -> None:
        backing = (item.backing.path, item.backing.format) if item.backing else None
        self.qemu_img.create(
            path,
            self.wish.layout.format,
            self.images[item.target].virtual_size,
            creation_options(self.wish.layout),
            t.cast("tuple[str, str] | None", backing),
        )

    def copy(self, item: Conversion) -> None:
        """Copies the disk, and keeps both images the same from then on. Raises DiskError where that fails."""
        with self.phase(item.target, "copy", self.images[item.target].virtual_size) as phase:
            self._require_as_decided(item)
            if item.target in self.adopted:
                self.domain.limit_block_job(item.target, self.wish.bandwidth)
            else:
                self._begin_copy(item)
            with _durable.syncing_steadily(item.dest):  # or the pivot would wait for all of it, and the guest with it
                _block_job.await_copy(self.domain, item.target, item.dest, self.wish.copy_timeout, phase.at)
            if self.wish.layout.format == "raw" and self.wish.layout.preallocation == "falloc":
                _space.reserve(item.dest)  # QEMU has punched holes where the source has zeros
            _durable.sync(item.dest)

    def _begin_copy(self, item: Conversion) -> None:
        _durable.sync_before_reading(item.source)
        destination = _disk_changes.copy_destination(item.dest, self.wish.layout.format, block=self.wish.block_device)
        try:
            self.domain.block_copy(item.target, destination, shallow=self.wish.shallow, bandwidth=self.wish.bandwidth)
        except LibvirtFailed as error:
            raise LibvirtFailed(
                f"{item.dest}: {error}: if permission was denied, let QEMU's user enter every directory above it",
                **error.facts,
            ) from error

    def pivot(self, conversions: t.Sequence[Conversion]) -> None:
        """Lets the guest go on with the new images, one disk after the other, and has the definition say so."""
        for item in conversions:
            self._require_as_decided(item)
            before = self.domain.xml(inactive=True)
            _block_job.pivot(self.domain, item.target, item.dest)
            # libvirt changes the definition with the pivot where that named the old image (HAZARDS G5)
            self.name_in_use([_decision_conversion.change(item, self.wish)], before)
        _rest.give_back({**self._owners, **self._sources})
        for path, found in _rest.owners(self._sources).items():
            if found != self._sources[path]:
                user, group = self._sources[path]
                self.warn(
                    f"{path}: belonged to {user}:{group} while no guest ran on it, and libvirt left it to "
                    f"{found[0]}:{found[1]}: give it back (chown), or remove it"
                )

    def end(self, item: Conversion) -> None:
        """Ends the copy, unless the guest is on the new image already."""
        self.end_copy_to(item.target, item.dest)

    def withdraw(self, item: Conversion) -> None:
        """Removes the new image, unless the guest uses it, or the definition names it (HAZARDS G7, G9)."""
        _staging.discard(item.dest)
        if not _is_used(self.domain, item.target, item.dest) and _same_file.is_file(
            item.dest, self._made.get(item.dest)
        ):
            _durable.remove(item.dest)

    def restore(self, conversions: t.Sequence[Conversion]) -> None:
        """Removes the records, unless a new image could not be withdrawn: then the next run is to find them."""
        self.records.keep()
        for item in conversions:
            ours = _same_file.is_file(item.dest, self._made.get(item.dest))
            if ours and not _is_in_place(self.domain, item.target, item.dest):
                return
        self.records.remove()

    def finish(self, images: t.Container[str]) -> None:
        """Removes the records; those beside the *images* that the domain has now come last."""
        self.records.forget(images)

    def _ours(self, disk: _records.RecordedDisk, identity: list[int]) -> None:
        self.records.note(disk, disk.dest, **{NEW_FILE: identity})
        self._made[disk.dest] = identity

    def _require_as_decided(self, item: Conversion) -> None:
        """Raises DiskError where the domain, or the disk in its definition, is another than it was (HAZARDS G10)."""
        name = self.domain.name
        if not self.domain.is_persistent():
            raise DiskError(
                f"{name}: was undefined in the meantime: the new image was removed: define the domain, then run again"
            )
        defined = next(
            (disk for disk in _disks.disks(self.domain.xml(inactive=True)) if disk.target == item.target), None
        )
        expected = item.disk.defined
        if (
            defined is None
            or expected is None
            or (defined.source, defined.volume) != (expected.source, expected.volume)
        ):
            raise DiskError(
                f"{name}: {item.target} was changed in the definition in the meantime: the new image was removed: "
                "check the definition, then run again"
            )


def _is_used(domain: ActingDomain, target: str, path: str) -> bool:
    """Whether the guest has the image open, or the definition names it."""
    live = _block_job.live_disk(domain, target)
    if live is not None and path in (live.source, live.mirror):
        return True
    return any(disk.source == path for disk in _disks.disks(domain.xml(inactive=True)))


def _is_in_place(domain: ActingDomain, target: str, path: str) -> bool:
    """Whether both the guest and the definition have the image."""
    live = _block_job.live_disk(domain, target)
    defined = [disk.source for disk in _disks.disks(domain.xml(inactive=True)) if disk.target == target]
    return (live is None or live.source == path) and defined == [path]
