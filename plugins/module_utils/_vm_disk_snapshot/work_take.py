# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A snapshot is taken: overlays are made, then libvirt puts all disks on theirs at one point in time.

The overlays are made beforehand, since libvirt would make them for another owner, with QEMU's idea of the format below
them, and over a file of no length that somebody else has there (HAZARDS G6, G16).
"""

from __future__ import annotations

import os
import stat
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass, field
from ansible_collections.kvmops.disk.plugins.module_utils._domain.work import DomainWork
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, ImageInUse, LibvirtFailed
from ansible_collections.kvmops.disk.plugins.module_utils._files import durable as _durable
from ansible_collections.kvmops.disk.plugins.module_utils._files import rest as _rest
from ansible_collections.kvmops.disk.plugins.module_utils._files import same_file as _same_file
from ansible_collections.kvmops.disk.plugins.module_utils._files import staging as _staging
from ansible_collections.kvmops.disk.plugins.module_utils._image import image as _image
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt import binding as _binding
from ansible_collections.kvmops.disk.plugins.module_utils._recovery.traces import NEW_FILE
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot import decision_take as _decision_take
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot.decision_change import (
    Taking,
    recorded_taking,
    with_outcomes,
)
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot.decision_found import OVERLAY
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disks as _disks
from ansible_collections.kvmops.disk.plugins.module_utils._xml import image_properties as _image_properties
from ansible_collections.kvmops.disk.plugins.module_utils._xml import records as _records
from ansible_collections.kvmops.disk.plugins.module_utils._xml import snapshots as _snapshots

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainState
    from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.acting import ActingDomain


@dataclass
class Work(DomainWork):
    """One method for each step of a taking, no decisions between them.

    *quiesce*: auto, required or never. *quiesced*: whether the guest's file systems were frozen; None where it is off.
    *warning*: what is to be known where an agent was asked to freeze them, and did not.
    """

    state: DomainState
    name: str
    quiesce: str
    quiesced: bool | None = None
    warning: str | None = None
    _made: dict[str, list[int]] = field(default_factory=dict, init=False)

    def begin(self, items: t.Sequence[Taking]) -> None:
        self.records.write(_decision_take.taken_record(self.state, self.domain.run_number(), self.name, items))

    def restore(self) -> None:
        """Removes the record, unless an overlay could not be withdrawn: then the next run is to find it."""
        self.records.keep()
        if not any(_same_file.is_file(path, identity) for path, identity in self._made.items()):
            self.records.remove()

    def stage(self, item: Taking) -> None:
        """Puts an empty overlay in place, with the owner that the image below has while nobody runs it."""
        below = item.below
        path, image_format = str(below.path), str(below.format)
        size = self._size(item)
        new_file = _staging.NewFile(item.overlay, path)
        new_file.begin()
        self.qemu_img.holding(*self.records.operation.descriptors).create(
            new_file.name, OVERLAY, size, {}, (path, image_format), unopened=True
        )
        _rest.resemble(new_file.name, path)
        mode = os.stat(new_file.name).st_mode & 0o7777
        os.chmod(new_file.name, mode | stat.S_IWUSR)  # a base may be protected by mode
        recorded = recorded_taking(item)
        self.records.note(recorded, item.overlay, **{NEW_FILE: new_file.identity()})
        self._made[item.overlay] = new_file.identity()
        new_file.publish()

    def withdraw(self, item: Taking) -> None:
        """Removes the overlay, unless the domain uses it: a call that failed may have taken effect (HAZARDS G9)."""
        _staging.discard(item.overlay)
        if not self._is_used(item.overlay) and _same_file.is_file(item.overlay, self._made.get(item.overlay)):
            _durable.remove(item.overlay)

    def take(self, items: t.Sequence[Taking]) -> None:
        """Takes the snapshot of all disks, and has the definition name their images. Raises DiskError where it is not
        taken."""
        self._require_as_decided(items)
        overlays: dict[str, tuple[str, str] | None] = {
            disk.target: None for disk in self.state.disks if self.state.has(disk)
        }
        overlays.update({item.target: (item.overlay, OVERLAY) for item in items})
        xml = _snapshots.new_snapshot(self.name, overlays)
        self.quiesced = self._take(xml) if self.state.active else None
        if not self.state.active:
            self.domain.take_snapshot(xml)
        for item in items:
            if not self._is_used(item.overlay):
                raise LibvirtFailed(
                    f"{self.domain.name}: libvirt said that the snapshot {self.name} was taken, but {item.target} is "
                    f"not on {item.overlay}: see what it is on with vm_disk_info"
                )
        self._define(items)
        leave_no_record(self.domain, self.name)

    def finish(self) -> None:
        """Removes the record; the images stay locked, as there may be more to do."""
        self.records.remove()

    def _define(self, items: t.Sequence[Taking]) -> None:
        """libvirt drops what the definition says of an image as it puts the overlay in its place."""
        definition = self.domain.xml(inactive=True)
        wanted = with_outcomes(definition, [item.outcome for item in items])
        targets = [item.target for item in items]
        wanted = _image_properties.with_dropped(wanted, self.state.definition, targets)
        if wanted != definition:
            self.hypervisor.define(wanted)

    def _take(self, xml: str) -> bool:
        """Whether the guest was quiesced when it was taken."""
        quiesce = self.quiesce != "never" and self.state.state == "running"
        if quiesce and self.quiesce == "auto" and not _snapshots.has_agent(self.domain.xml(inactive=False)):
            quiesce = False
        try:
            self.domain.take_snapshot(xml, quiesce=quiesce)
        except LibvirtFailed as error:
            taken = self.name in self.domain.snapshots()
            if not quiesce or taken or not self.domain.is_active():
                raise
            if self.quiesce == "required":
                raise self._not_frozen(error) from error
            self.domain.take_snapshot(xml)  # an agent that does not answer, or cannot freeze, is as good as none
            self.warning = f"{error}: the snapshot was taken without frozen file systems{self._thawed_after(error)}"
            return False
        return quiesce

    def _not_frozen(self, error: LibvirtFailed) -> LibvirtFailed:
        """*error*, with what is to be done where the guest agent is to blame."""
        if not _binding.is_silent_agent(error):
            return error
        return LibvirtFailed(
            f"{error}{self._thawed_after(error)}: see what qemu-guest-agent does in the guest, or set quiesce to auto "
            "or never",
            **error.facts,
        )

    def _thawed_after(self, error: LibvirtFailed) -> str:
        """Takes back what a silent agent may still do, and says so where that cannot be."""
        if not _binding.is_silent_agent(error):
            return ""
        try:
            self.domain.thaw()
        except LibvirtFailed:
            name = self.domain.name
            return f"; if the agent goes on, it may freeze them yet: then thaw them with virsh domfsthaw {name}"
        return ""

    def _size(self, item: Taking) -> int:
        """The bytes that the guest sees: those of its QEMU, where it runs."""
        if self.state.active:
            return self.domain.capacity(item.target)
        return _image.inspect(self.qemu_img, str(item.below.path), item.below.format).virtual_size

    def _is_used(self, path: str) -> bool:
        """Whether the guest, the definition or a snapshot names the overlay."""
        xmls = [self.domain.xml(inactive=True)]
        if self.domain.is_active():
            xmls.append(self.domain.xml(inactive=False))
        found = [_snapshots.snapshot(xml) for xml in self.domain.snapshot_xmls()[0]]
        named = {str(disk.source) for xml in xmls for disk in _disks.disks(xml)}
        named |= {str(disk.overlay) for snapshot in found for disk in snapshot.external}
        return path in named

    def _require_as_decided(self, items: t.Sequence[Taking]) -> None:
        """Raises DiskError where the domain, or a disk of it, is another than it was (HAZARDS G10)."""
        if self.domain.is_active() != self.state.active or not self.domain.is_persistent():
            raise ImageInUse(
                f"{self.domain.name}: was started, shut down or undefined in the meantime: nothing was changed: run "
                "again",
                in_use_by=[],
            )
        now = {disk.target: disk for disk in _disks.disks(self.domain.xml(inactive=not self.state.active))}
        for item in items:
            disk, before = now.get(item.target), item.disk.element
            if disk is None or (disk.source, disk.volume) != (before.source, before.volume):
                raise DiskError(
                    f"{self.domain.name}: {item.target} got another image in the meantime: nothing was changed: run "
                    "again"
                )


def leave_no_record(domain: ActingDomain, name: str) -> None:
    """Has libvirt's snapshot know nothing of the record that was in the definition when it was taken: whoever goes back
    to it would have that record again."""
    for xml in domain.snapshot_xmls()[0]:
        new = _snapshots.with_domains(xml, _records.without_record)
        if new != xml and _snapshots.snapshot(xml).name == name:
            domain.redefine_snapshot(new)
