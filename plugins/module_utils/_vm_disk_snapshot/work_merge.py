# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A snapshot is removed: its overlays are merged into the images below them, then nobody names them any more.

Below a running guest libvirt merges (block commit), and the guest goes on with the image below where the overlay was
the disk's own. Offline qemu-img does, which only ever writes what a reader of the overlay sees anyway: whatever the
moment of a kill, the disk reads the same, and doing it again is right.
"""

from __future__ import annotations

import os
import typing as t
from contextlib import AbstractContextManager
from functools import partial

from ansible_collections.kvmops.disk.plugins.module_utils._content.merge_work import merge_offline
from ansible_collections.kvmops.disk.plugins.module_utils._content.thickness import staying_thick
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass, field
from ansible_collections.kvmops.disk.plugins.module_utils._domain import block_job as _block_job
from ansible_collections.kvmops.disk.plugins.module_utils._domain.work import DomainWork
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, ImageInUse, LibvirtFailed
from ansible_collections.kvmops.disk.plugins.module_utils._files import base_note as _base_note
from ansible_collections.kvmops.disk.plugins.module_utils._files import durable as _durable
from ansible_collections.kvmops.disk.plugins.module_utils._files import names as _names
from ansible_collections.kvmops.disk.plugins.module_utils._files import rest as _rest
from ansible_collections.kvmops.disk.plugins.module_utils._usage import unused as _unused
from ansible_collections.kvmops.disk.plugins.module_utils._usage.sources import source
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot import decision_merge as _decision_merge
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot.decision_change import (
    Merge,
    Outcome,
    Removal,
    with_outcomes,
)
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disks as _disks
from ansible_collections.kvmops.disk.plugins.module_utils._xml import image_properties as _image_properties
from ansible_collections.kvmops.disk.plugins.module_utils._xml import snapshots as _snapshots

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainState
    from ansible_collections.kvmops.disk.plugins.module_utils._files.names import Names
    from ansible_collections.kvmops.disk.plugins.module_utils._progress import Phase
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot.wish import VmSnapshotWish
    from ansible_collections.kvmops.disk.plugins.module_utils._xml.disks import ChainLink
    from ansible_collections.kvmops.disk.plugins.module_utils._xml.snapshots import DomainSnapshot


@dataclass
class Work(DomainWork):
    """One method for each step of a removal, no decisions between them.

    *names*: which names of images mean one file. *working*: the targets whose merge a dead run began, and goes on;
    *resumed*: its record says that it had begun. *reused*: names of overlays that the same task makes, too.
    """

    state: DomainState
    wish: VmSnapshotWish
    names: Names
    working: t.Collection[str] = ()
    resumed: bool = False
    reused: t.Collection[str] = ()
    _begun: set[str] = field(default_factory=set, init=False)
    _owners: dict[str, tuple[int, int]] = field(default_factory=dict, init=False)

    def begin(self, removal: Removal) -> None:
        """Writes down what is in flight, and whose the images are: libvirt gives them to others (HAZARDS G16)."""
        self.records.write(_decision_merge.merge_record(self.state, self.domain.run_number(), removal))
        for merge in removal.merges:
            self._owners.update(_rest.owners(path for path in merge.paths if path != merge.overlay.path))
            if not self.state.active and merge.above is None:  # the overlay was made with the owner of what is below
                (owner,) = _rest.owners([str(merge.overlay.path)]).values()
                self._owners[str(merge.into.path)] = owner

    def restore(self) -> None:
        """Removes the record where nothing was merged yet. An image that was written is not any more what the snapshot
        kept: then the next run is to finish."""
        self.records.keep()
        if not self._begun and not self.resumed:
            self.records.remove()

    def merge(self, item: Merge) -> None:
        """Merges one overlay. Raises DiskError where it fails; the disk reads the same then."""
        self._require_as_decided(item)
        if self.state.active:
            into = _pair(item.into)
            with staying_thick(self.qemu_img, *into, self.warn), self._phase(item, "merge") as phase:
                self._merge_live(item, phase.at)
        else:
            self._merge_offline(item)
        self._begun.add(item.target)

    def end(self, item: Merge) -> None:
        """Ends the merge, if it is ours and goes on below its guest."""
        if item.target in self._begun and self.domain.is_active() and self.domain.is_committed(item.target):
            _block_job.end(self.domain, item.target)

    def name(self, removal: Removal) -> None:
        """Has the definition, and the other snapshots, name the images as they are now, and libvirt know the snapshot
        no more. Raises LibvirtFailed where libvirt makes something else of the definition."""
        definition = self.domain.xml(inactive=True)
        wanted = self._as_before(with_outcomes(definition, removal.outcomes), removal)
        if wanted != definition:
            self.define(wanted)
        for xml in self.domain.snapshot_xmls()[0]:
            if _snapshots.snapshot(xml).name == removal.snapshot.name:
                continue
            new = _decision_merge.renamed(xml, removal, self.names)
            if new != xml:
                self.domain.redefine_snapshot(new)
        self.domain.forget_snapshot(removal.snapshot.name)

    def _as_before(self, definition: str, removal: Removal) -> str:
        """The definition with what libvirt has dropped as it exchanged images: in this run, and where a disk is on the
        image that it had at the snapshot, when that was taken."""
        targets = [outcome.target for outcome in removal.outcomes]
        back = [one.target for one in removal.outcomes if self._is_image_of(removal.snapshot, one)]
        known = _snapshots.definition(removal.snapshot.xml)
        definition = _image_properties.with_dropped(definition, self.state.definition, targets)
        definition = _image_properties.with_dropped(definition, known, back)
        if self.state.active:  # the guest has it by its path now
            return definition
        return _image_properties.with_volumes(definition, known, back)

    def _is_image_of(self, snapshot: DomainSnapshot, outcome: Outcome) -> bool:
        image = snapshot.image(outcome.target)
        return image is not None and _names.are_same(source(image, self.hypervisor).path, outcome.images[0].path)

    def finish(self, removal: Removal) -> None:
        """Removes the overlays, and the record; the images stay locked, as there may be more to do."""
        if self.domain.is_active():
            self._write_out(removal)
        _rest.give_back({path: owner for path, owner in self._owners.items() if self._is_at_rest(path)})
        overlays = [disk.source for disk in removal.recorded]
        for overlay in overlays:
            _base_note.remove(overlay)
        self.records.let_go({*overlays} - {*self.reused})

    def _merge_live(self, item: Merge, report: _block_job.Report) -> None:
        target, into = item.target, str(item.into.path)
        if target in self.working:
            self._begun.add(target)
            self._limit(target)
        else:
            index = self._index(target, into)
            top = self._index(target, str(item.overlay.path)) if item.above is not None else None
            self._begun.add(target)
            self.domain.commit(target, top, index, bandwidth=self.wish.bandwidth)
        if item.above is None:
            _block_job.await_copy(self.domain, target, into, self.wish.timeout, report, job="merge")
            _block_job.pivot(self.domain, target, into)
        else:
            _block_job.await_merge(self.domain, target, str(item.overlay.path), self.wish.timeout, report)

    def _write_out(self, removal: Removal) -> None:
        """Brings what the guest's images got from overlays to stable storage: what it had flushed was there before."""
        sources = {disk.target: disk.source for disk in _disks.disks(self.domain.xml(inactive=False))}
        for disk in removal.recorded:
            if not _names.are_same(sources.get(disk.target), disk.dest):
                continue
            if disk.format == "raw":
                _durable.sync(disk.dest)
            else:
                _block_job.write_out(self.domain, disk.target)

    @property
    def _door(self) -> QemuImg:
        """qemu-img, which keeps the locks that are held now: those of what is gone were let go."""
        return self.qemu_img.holding(*self.records.operation.descriptors)

    def _phase(self, item: Merge, verb: str) -> AbstractContextManager[Phase]:
        total = os.stat(str(item.overlay.path)).st_blocks * 512
        return self.phase(item.target, verb, total)

    def _merge_offline(self, item: Merge) -> None:
        """Merges, and then has the image above, where there is one, read the image below directly."""
        overlay, into = item.overlay, item.into
        to_do = f"merge {overlay.path} into {into.path}"
        for path in item.paths:
            _unused.require_unused(path, (), to_do)
        self._begun.add(item.target)
        merge_offline(self._door, _pair(overlay), _pair(into), partial(self._phase, item), self.warn)
        if item.above is not None:
            above = str(item.above.path)
            self._door.refer(above, str(item.above.format), (str(into.path), str(into.format)))
            _durable.sync(above)

    def _limit(self, target: str) -> None:
        """The merge that is adopted may be as fast as is asked now; it may also be over."""
        try:
            self.domain.limit_block_job(target, self.wish.bandwidth)
        except LibvirtFailed:
            if self.domain.is_active() and self.domain.is_committed(target):
                raise

    def _index(self, target: str, path: str) -> str:
        """libvirt's name of an image in the running domain, such as vda[3]."""
        disk = _block_job.live_disk(self.domain, target)
        for link in (disk.chain or ()) if disk is not None else ():
            if link.path == path and link.index is not None:
                return f"{target}[{link.index}]"
        raise DiskError(f"{self.domain.name}: {target} no longer runs on {path}: nothing was changed: run again")

    def _require_as_decided(self, item: Merge) -> None:
        """Raises DiskError where the domain, or its disk, is another than it was (HAZARDS G10)."""
        if self.domain.is_active() != self.state.active or not self.domain.is_persistent():
            raise ImageInUse(
                f"{self.domain.name}: was started, shut down or undefined in the meantime: run again to finish what "
                "was begun",
                in_use_by=[],
            )
        top = item.above is None
        disks = _disks.disks(self.domain.xml(inactive=not self.state.active))
        source = next((disk.source for disk in disks if disk.target == item.target), None)
        if top and not _names.are_same(source, item.overlay.path):
            raise DiskError(f"{self.domain.name}: {item.target} got another image in the meantime: run again")

    def _is_at_rest(self, path: str) -> bool:
        """Whether the image is none that the guest has as its own, whose owner libvirt remembers."""
        if not os.path.exists(path):
            return False
        if not self.domain.is_active():
            return True
        return all(disk.source != path for disk in _disks.disks(self.domain.xml(inactive=False)))


def _pair(link: ChainLink) -> tuple[str, str]:
    return str(link.path), str(link.format)
