# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is done to make disks independent while their guest runs, by block pull."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass, field
from ansible_collections.kvmops.disk.plugins.module_utils._domain import block_job as _block_job
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, Interrupted, LibvirtFailed
from ansible_collections.kvmops.disk.plugins.module_utils._files import rest as _rest
from ansible_collections.kvmops.disk.plugins.module_utils._image import image as _image
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten import decision_obstacles as _obstacles
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten import survey as _survey
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten.leftovers import OWNERS
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten.work import Work as FlattenWork

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten.decision import Flattening
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten.wish import FlattenWish
    from ansible_collections.kvmops.disk.plugins.module_utils._xml import records as _records


@dataclass
class Work(FlattenWork):
    """One method for each step of a live flattening.

    *adopted*: the targets whose pull a dead run began. *owners*: those that it found the backing files with.
    """

    wish: FlattenWish
    owners: t.Mapping[str, tuple[int, int]]
    adopted: t.Container[str] = ()
    _begun: dict[str, Flattening] = field(default_factory=dict, init=False)
    _owners: dict[str, tuple[int, int]] = field(default_factory=dict, init=False)

    def begin(self, record: _records.Record, items: t.Sequence[Flattening]) -> None:
        """Writes down what is in flight, and whose the backing files are: libvirt gives them to others (G16)."""
        found = _rest.owners(image.path for item in items for image in item.images[1:])
        self._owners = {**found, **self.owners}
        self._begun = {item.target: item for item in items if item.target in self.adopted}
        self.records.write(record)
        for disk in record.disks:
            self.records.note(disk, disk.source, **{OWNERS: self._owners})

    def pull(self, item: Flattening) -> None:
        """Fills the image, and waits until nothing is left between it and its base. Raises DiskError where it fails."""
        named = item.named_base
        self._require_as_decided(item)
        with self.phase(item.target, "pull", item.image.virtual_size) as phase:
            if item.target in self.adopted:
                self._limit(item.target)
            else:
                self._begin_pull(item)
            _block_job.await_pull(
                self.domain, item.target, named.path if named else None, self.wish.copy_timeout, phase.at
            )
        self.write_out(item.target)
        _obstacles.require_base(item, _survey.file_below(self._image(item)))
        self.name_chain([item])

    def _begin_pull(self, item: Flattening) -> None:
        index = f"{item.target}[{item.named_base.index}]" if item.named_base else None
        try:
            self.domain.pull(item.target, index, bandwidth=self.wish.bandwidth)
        except Interrupted:  # a signal comes when libvirt has done what it was asked for
            self._begun[item.target] = item
            raise
        self._begun[item.target] = item

    def end(self, item: Flattening) -> None:
        """Ends the pull, if it is ours and goes on: the image is as good as before."""
        if item.target in self._begun:
            self.end_pull(item.target)

    def restore(self) -> None:
        """Removes the records, unless a pull could not be ended, or an image is not what it was: then the next run is
        to find them."""
        self.records.keep()
        _rest.give_back(self._owners)
        if all(self._is_settled(item) for item in self._begun.values()):
            self.records.remove()

    def finish(self, images: t.Container[str]) -> None:
        """Gives the backing files their owners back, and removes the records."""
        _rest.give_back(self._owners)
        self.forget(images)

    def _limit(self, target: str) -> None:
        """The pull that is adopted may be as fast as is asked now; it may also be over."""
        try:
            self.domain.limit_block_job(target, self.wish.bandwidth)
        except LibvirtFailed:
            if self.domain.is_active() and self.domain.is_pulled(target):
                raise

    def _require_as_decided(self, item: Flattening) -> None:
        """Raises DiskError where the domain, or its disk, is another than it was (HAZARDS G10)."""
        live = _block_job.live_disk(self.domain, item.target)
        known = item.disk.live
        if (
            not self.domain.is_persistent()
            or live is None
            or known is None
            or (live.source, live.volume) != (known.source, known.volume)
        ):
            raise DiskError(
                f"{self.domain.name}: went off, was undefined, or got another {item.target} in the meantime: nothing "
                "was changed: run again"
            )

    def _is_settled(self, item: Flattening) -> bool:
        """Whether the image is as before, or all of it on stable storage."""
        if self.domain.is_active():
            self.write_out(item.target)
            return not self.domain.is_pulled(item.target)
        return self._image(item).backing_file == item.image.backing_file

    def _image(self, item: Flattening) -> _image.Image:
        """The image as it is by now."""
        return _image.inspect(self.qemu_img, item.path, item.image.format)
