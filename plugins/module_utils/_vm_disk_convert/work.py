# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is done to the disks of a domain by whatever way they are converted, and after a run that died."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._domain import block_job as _block_job
from ansible_collections.kvmops.disk.plugins.module_utils._domain import start as _start
from ansible_collections.kvmops.disk.plugins.module_utils._domain.work import DomainWork
from ansible_collections.kvmops.disk.plugins.module_utils._errors import LibvirtFailed
from ansible_collections.kvmops.disk.plugins.module_utils._files import file_set as _file_set
from ansible_collections.kvmops.disk.plugins.module_utils._host import block_device as _block_device
from ansible_collections.kvmops.disk.plugins.module_utils._recovery import shutdown as _shutdown
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disk_changes as _disk_changes
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disks as _disks
from ansible_collections.kvmops.disk.plugins.module_utils._xml import image_properties as _image_properties

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._xml.records import RecordedDisk


@dataclass
class Work(DomainWork):
    """What both ways have in common, and all that a dead run asks for."""

    def start(self) -> None:
        """Starts the domain, which ran before, unless somebody was faster. Raises DomainIsOff where it is off then."""
        _start.start_again(self.hypervisor, self.domain)

    def remove(self, source: str) -> None:
        """Removes the image that a disk had."""
        _file_set.remove_image(source)

    def forget(self, images: t.Container[str]) -> None:
        """Removes what was written down of the conversion, and of the guest that shut down for it."""
        self.settle_shutdown()
        self.records.forget(images)

    def settle_shutdown(self) -> None:
        """Forgets that the guest was asked to shut down, unless it may still do so."""
        _shutdown.settle(self.hypervisor, self.domain)

    def end_copy(self, disk: RecordedDisk) -> None:
        """Ends the copy that a dead run began."""
        self.end_copy_to(disk.target, disk.dest)

    def end_copy_to(self, target: str, dest: str) -> None:
        """Ends the copy of a disk to *dest*, unless the guest is there already."""
        disk = _block_job.live_disk(self.domain, target)
        if disk is not None and disk.mirror == dest:
            _block_job.end(self.domain, target)

    def name_pivoted(self, disks: t.Iterable[RecordedDisk]) -> None:
        """Has the definition name the images that the guest uses since a run pivoted to them and died."""
        self.name_in_use(
            [
                _disk_changes.DiskChange(
                    disk.target, disk.dest, disk.format, block=_block_device.is_block_device(disk.dest)
                )
                for disk in disks
            ]
        )

    def name_in_use(self, changes: t.Sequence[_disk_changes.DiskChange], before: str | None = None) -> None:
        """Has the definition name the new images, which the guest uses already, and say of them what it said *before*
        and libvirt has dropped.

        Raises LibvirtFailed where it does not name them afterwards.
        """
        targets = [change.target for change in changes]
        for attempt in (1, 2):
            definition = self.domain.xml(inactive=True)
            named = {disk.target: (disk.source, disk.format) for disk in _disks.disks(definition)}
            are_named = all(named.get(change.target) == (change.path, change.format) for change in changes)
            wanted = definition if are_named else _disk_changes.with_changes(definition, changes)
            wanted = _image_properties.with_dropped(wanted, before, targets)
            if wanted == definition or (attempt == 2 and are_named):
                return
            if attempt == 1:
                self.hypervisor.define(wanted)
        raise LibvirtFailed(
            f"{self.domain.name}: runs on {', '.join(change.path for change in changes)}, but libvirt does not "
            "accept that in the definition: name it there with virsh edit before the domain goes off"
        )
