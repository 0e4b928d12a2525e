# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The conversion of a domain's disks while its guest runs: the order of the steps, and what each of them does."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field
from functools import partial

from ansible_collections.kvmops.disk.plugins.module_utils._domain import block_job as _block_job
from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainState
from ansible_collections.kvmops.disk.plugins.module_utils._domain.work import Hands
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, LibvirtFailed
from ansible_collections.kvmops.disk.plugins.module_utils._files import file_set as _file_set
from ansible_collections.kvmops.disk.plugins.module_utils._files import staging as _staging
from ansible_collections.kvmops.disk.plugins.module_utils._host import block_device as _block_device
from ansible_collections.kvmops.disk.plugins.module_utils._image.creation import creation_options
from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.connection import Hypervisor
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.domain import Domain
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Step
from ansible_collections.kvmops.disk.plugins.module_utils._recovery.records import NEW_FILE
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert import decision as _decision
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert.decision import Conversion
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert.wish import ConvertWish
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disks as _disks
from ansible_collections.kvmops.disk.plugins.module_utils._xml import records as _records


@dataclass
class LiveWork(Hands):
    """The hands of a live conversion.

    *images*: the source of each target, as it was found. *adopted*: the targets whose copy a dead run began.
    """

    wish: ConvertWish
    images: t.Mapping[str, Image]
    adopted: t.Container[str] = ()
    _made: dict[str, list[int]] = field(default_factory=dict, init=False)
    _owners: dict[str, tuple[int, int]] = field(default_factory=dict, init=False)

    def begin(self, record: _records.Record, conversions: t.Sequence[Conversion]) -> None:
        """Writes down what is in flight, and that the images which were made for it are ours."""
        ours = {
            item.dest: _staging.file_identity(item.dest)
            for item in conversions
            if item.target in self.adopted and not self.wish.block_device
        }
        self.records.write(record)
        for disk in record.disks:
            if disk.dest in ours:
                self._ours(disk, ours[disk.dest])
        for item in conversions:
            self._owners.update(_staging.owners(link.path for link in item.disk.chain or () if link.path))

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
        new_file = _staging.NewFile(item.dest)
        new_file.begin()
        self._create(item, new_file.name)
        _staging.resemble(new_file.name, item.source)
        self._ours(_decision.recorded(item, self.wish), new_file.identity())
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
        with self.phase(item.target, "copy", 0) as phase:
            self._require_as_decided(item)
            if item.target in self.adopted:
                self.domain.limit_block_job(item.target, self.wish.bandwidth)
            else:
                self._begin_copy(item)
            with _staging.syncing_steadily(item.dest):  # or the pivot would wait for all of it, and the guest with it
                _block_job.await_copy(self.domain, item.target, item.dest, self.wish.copy_timeout, phase.at)
            if self.wish.layout.format == "raw" and self.wish.layout.preallocation == "falloc":
                _staging.reserve(item.dest)  # QEMU has punched holes where the source has zeros
            _staging.sync(item.dest)

    def _begin_copy(self, item: Conversion) -> None:
        destination = _disks.copy_destination(item.dest, self.wish.layout.format, block=self.wish.block_device)
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
            _block_job.pivot(self.domain, item.target, item.dest)
            self.define([item])
        _staging.give_back(self._owners)

    def define(self, conversions: t.Sequence[Conversion]) -> None:
        """Has the definition name the new images; libvirt changes it with the pivot where it named the old one (G5)."""
        changes = [_decision.change(item, self.wish) for item in conversions]
        _name_in_definition(self.hypervisor, self.domain, changes)

    def end(self, item: Conversion) -> None:
        """Ends the copy, unless the guest is on the new image already."""
        disk = _block_job.live_disk(self.domain, item.target)
        if disk is not None and disk.mirror == item.dest:
            _block_job.end(self.domain, item.target)

    def withdraw(self, item: Conversion) -> None:
        """Removes the new image, unless the guest uses it, or the definition names it (HAZARDS G7, G9)."""
        _staging.discard(item.dest)
        if not _is_used(self.domain, item.target, item.dest) and _staging.is_file(item.dest, self._made.get(item.dest)):
            _staging.remove(item.dest)

    def restore(self, conversions: t.Sequence[Conversion]) -> None:
        """Removes the records, unless a new image could not be withdrawn: then the next run is to find them."""
        self.records.keep()
        for item in conversions:
            ours = _staging.is_file(item.dest, self._made.get(item.dest))
            if ours and not _is_in_place(self.domain, item.target, item.dest):
                return
        self.records.remove()

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


def steps(
    state: DomainState, wish: ConvertWish, conversions: t.Sequence[Conversion], work: LiveWork
) -> tuple[Step, ...]:
    """The steps of a conversion, in order: record, copy each, pivot all, remove the sources, forget.

    Until the pivot everything is undone when something fails; a disk that has its new image then keeps it.
    """
    name = state.name
    record = _decision.record("live", True, wish, conversions)
    found = [Step("", partial(work.begin, record, conversions), partial(work.restore, conversions))]
    for item in conversions:
        known = (
            f"{item.target} of {name} from {item.source} ({item.source_format}) to {item.dest} ({wish.layout.format})"
        )
        if item.target in work.adopted:
            how = f"resume the copy of {known} that an interrupted run began"
        else:
            how = f"copy {known} while it runs"
        found.append(Step("", partial(work.stage, item), partial(work.withdraw, item)))
        found.append(Step(how, partial(work.copy, item), partial(work.end, item)))
    found.append(
        Step(
            f"switch {name} to {', '.join(item.dest for item in conversions)}",
            partial(work.pivot, conversions),
            commits=True,
        )
    )
    if not wish.keep_source:
        found += [Step(f"remove {item.source}", partial(_file_set.remove_image, item.source)) for item in conversions]
    found.append(Step("", partial(work.records.forget, {item.dest for item in conversions})))
    return tuple(found)


def end_copy(domain: Domain, disk: _records.RecordedDisk) -> None:
    """Ends the copy that a dead run began."""
    found = _block_job.live_disk(domain, disk.target)
    if found is not None and found.mirror == disk.dest:
        _block_job.end(domain, disk.target)


def name_pivoted(hypervisor: Hypervisor, domain: Domain, disks: t.Iterable[_records.RecordedDisk]) -> None:
    """Has the definition name the images that the guest uses since a run pivoted to them and died."""
    changes = [
        _disks.DiskChange(disk.target, disk.dest, disk.format, block=_block_device.is_block_device(disk.dest))
        for disk in disks
    ]
    _name_in_definition(hypervisor, domain, changes)


def _name_in_definition(hypervisor: Hypervisor, domain: Domain, changes: t.Sequence[_disks.DiskChange]) -> None:
    """Raises LibvirtFailed where the definition does not name the new images afterwards."""
    for attempt in (1, 2):
        definition = domain.xml(inactive=True)
        named = {disk.target: (disk.source, disk.format) for disk in _disks.disks(definition)}
        if all(named.get(change.target) == (change.path, change.format) for change in changes):
            return
        if attempt == 1:
            hypervisor.define(_disks.with_changes(definition, changes))
    raise LibvirtFailed(
        f"{domain.name}: runs on {', '.join(change.path for change in changes)}, but libvirt does not accept that "
        "in the definition: name it there with virsh edit before the domain goes off"
    )


def _is_used(domain: Domain, target: str, path: str) -> bool:
    """Whether the guest has the image open, or the definition names it."""
    live = _block_job.live_disk(domain, target)
    if live is not None and path in (live.source, live.mirror):
        return True
    return any(disk.source == path for disk in _disks.disks(domain.xml(inactive=True)))


def _is_in_place(domain: Domain, target: str, path: str) -> bool:
    """Whether both the guest and the definition have the image."""
    live = _block_job.live_disk(domain, target)
    defined = [disk.source for disk in _disks.disks(domain.xml(inactive=True)) if disk.target == target]
    return (live is None or live.source == path) and defined == [path]
