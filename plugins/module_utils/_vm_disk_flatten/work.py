# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is done to the disks of a domain by whatever way they are made independent, and after a run that died."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._domain import block_job as _block_job
from ansible_collections.kvmops.disk.plugins.module_utils._domain.work import DomainWork
from ansible_collections.kvmops.disk.plugins.module_utils._files import durable as _durable
from ansible_collections.kvmops.disk.plugins.module_utils._usage import unused as _unused
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten import survey as _survey

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten.decision import Flattening
    from ansible_collections.kvmops.disk.plugins.module_utils._xml.records import RecordedDisk


@dataclass
class Work(DomainWork):
    """What both ways have in common, and all that a dead run asks for."""

    def name_chain(self, items: t.Iterable[Flattening]) -> None:
        """Has the definition name the backing files that the images have, where it names any, and nothing else changed.

        Raises LibvirtFailed where libvirt makes something else of it.
        """
        definition = self.domain.xml(inactive=True)
        wanted = _survey.shortened(definition, items)
        if wanted != definition:
            self.define(wanted)

    def end_pull(self, target: str) -> None:
        """Ends the pull below a disk, if there is one."""
        if self.domain.is_active() and self.domain.is_pulled(target):
            _block_job.end(self.domain, target)

    def write_out(self, target: str) -> None:
        """Brings what was pulled into the image of a running guest to stable storage."""
        _block_job.write_out(self.domain, target)

    def refer_again(self, disk: RecordedDisk) -> None:
        """Lets an image, which nobody has open, read its old backing file again. Raises ImageInUse."""
        _unused.require_unused(disk.source, (), f"have it refer to {disk.below} again")
        self.qemu_img.refer(disk.source, disk.format, (disk.below or "", disk.below_format or ""))
        _durable.sync(disk.source)

    def name_again(self, wanted: str) -> None:
        """Defines the domain with the backing files that its images had."""
        self.hypervisor.define(wanted)

    def forget(self, images: t.Container[str]) -> None:
        """Removes the records; those beside the *images* that the domain has come last."""
        self.records.forget(images)
