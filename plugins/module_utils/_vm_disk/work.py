# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is done to have a disk, or to have it no more."""

from __future__ import annotations

import time
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass, field
from ansible_collections.kvmops.disk.plugins.module_utils._domain.block_job import live_disk
from ansible_collections.kvmops.disk.plugins.module_utils._domain.work import DomainWork
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, LibvirtFailed
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.plugging import plugging
from ansible_collections.kvmops.disk.plugins.module_utils._size import exact_size
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disk_definition as _disk_definition
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disks as _disks
from ansible_collections.kvmops.disk.plugins.module_utils._xml import machine as _machine

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.plugging import PluggingDomain
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk.decision_present import Places
    from ansible_collections.kvmops.disk.plugins.module_utils._xml.disks import DiskElement
    from ansible_collections.kvmops.disk.plugins.module_utils._xml.tuning import Tuning

_LOOK_EVERY = 0.25
#: Seconds that a guest gets to let a disk go again whose attachment failed.
_TAKE_BACK = 10.0


@dataclass
class Work(DomainWork):
    """One method for each step on the disk *target* of a domain; *source* is its image, None for an empty drive.

    *force*: a medium changes though the guest has locked the tray.
    """

    target: str
    source: str | None
    force: bool
    _in_machine: bool = field(default=False, init=False)
    _in_definition: bool = field(default=False, init=False)

    def add_controller(self, index: int, where: Places) -> None:
        """The same controller in the machine and in its definition. An unused one harms nobody, so it stays."""
        controller: str | None = _machine.scsi_controller(index)
        if where.machine:
            self._plugging.attach_device(str(controller), live=True)
            controller = _machine.controller_xml(self.domain.xml(inactive=False), "scsi", index)
        if where.definition:
            self._plugging.attach_device(str(controller), live=False)

    def attach(self, disk: str, where: Places) -> None:
        """In the machine first, where libvirt finds a place for the disk, and then at the same place in the definition
        (HAZARDS L5). Raises LibvirtFailed where it is not there then."""
        if where.machine:
            self._in_machine = True
            self._plugging.attach_device(disk, live=True)
            live = _disk_definition.disk_xml(self.domain.xml(inactive=False), self.target)
            disk = _disk_definition.at_the_address_of(disk, live)
        if where.definition:
            self._in_definition = True
            self._plugging.attach_device(disk, live=False)
        for inactive, meant in ((False, where.machine), (True, where.definition)):
            if meant and self._element(inactive=inactive) is None:
                raise LibvirtFailed(f"{self.domain.name}: libvirt took {self.target}, and does not have it")

    def take_back(self) -> None:
        """Takes what attach() began out again, newest first."""
        if self._in_definition and self._element(inactive=True) is not None:
            self.take_out()
        if self._in_machine and live_disk(self.domain, self.target) is not None:
            self.detach(_TAKE_BACK)

    def tune(self, wanted: Tuning) -> None:
        """Has the definition use the disk as *wanted*."""
        self.define(_disk_definition.with_tuning(self.domain.xml(inactive=True), self.target, wanted))

    def limit(self, limits: t.Mapping[str, int | str]) -> None:
        self._plugging.limit_disk(self.target, limits)

    def change_medium(self, path: str | None, image_format: str, where: Places) -> None:
        """In the machine, where the guest may have locked the tray, before the definition."""
        if where.machine:
            live = self.domain.xml(inactive=False)
            medium = _disk_definition.plain(_disk_definition.medium_xml(live, self.target, path, image_format))
            self._plugging.change_medium(medium, force=self.force)
        if where.definition:
            self.define(_disk_definition.with_medium(self.domain.xml(inactive=True), self.target, path, image_format))

    def grow(self, before: int, after: int) -> None:
        """By libvirt, as the guest has the image open, and would see it shrink as readily (HAZARDS A5)."""
        found = self.domain.capacity(self.target)
        if found != before:
            raise DiskError(
                f"{self.domain.name}: {self.target}: has {exact_size(found)} by now, and not {exact_size(before)}: "
                "nothing was changed: run again",
                virtual_size=found,
            )
        self.domain.resize_disk(self.target, after)

    def detach(self, seconds: float) -> None:
        """Waits until the guest has let the disk go. Raises DiskError where it has not after so many *seconds*: it may
        still do so."""
        live = live_disk(self.domain, self.target)
        if live is None:
            return
        self._require_same(live)
        deadline = time.monotonic() + seconds
        with self.domain.watched() as wait:
            refusal = self._ask_to_let_go()
            while live_disk(self.domain, self.target) is not None:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise self._kept(seconds, refusal)
                wait(min(left, _LOOK_EVERY))

    def take_out(self) -> None:
        """Takes the disk out of the definition."""
        found = self._element(inactive=True)
        if found is None:
            return
        self._require_same(found)
        self._plugging.detach_device(_disk_definition.disk_xml(self.domain.xml(inactive=True), self.target), live=False)
        if self._element(inactive=True) is not None:
            raise LibvirtFailed(
                f"{self.domain.name}: libvirt took {self.target} out of the definition, and has it still"
            )

    @property
    def _plugging(self) -> PluggingDomain:
        return plugging(self.domain)

    def _ask_to_let_go(self) -> LibvirtFailed | None:
        """What libvirt says against it, where it was asked before, and the guest still may let go."""
        disk = _disk_definition.disk_xml(self.domain.xml(inactive=False), self.target)
        try:
            self._plugging.detach_device(disk, live=True)
        except LibvirtFailed as error:
            if live_disk(self.domain, self.target) is not None and not _is_asked_already(error):
                raise
            return error
        return None

    def _element(self, *, inactive: bool) -> DiskElement | None:
        found = _disks.disks(self.domain.xml(inactive=inactive))
        return next((disk for disk in found if disk.target == self.target), None)

    def _require_same(self, found: DiskElement) -> None:
        """Raises DiskError where another disk is there by now: libvirt detaches whatever has the target."""
        if found.source is not None and self.source is not None and found.source != self.source:
            raise DiskError(
                f"{self.domain.name}: {self.target}: has {found.source} by now, and not {self.source}: nothing was "
                "detached: run again",
                path=found.source,
            )

    def _kept(self, seconds: float, refusal: LibvirtFailed | None) -> DiskError:
        state = self.domain.state()
        reason = (
            "its guest is paused: resume it" if state == "paused" else "its guest does not answer: see what it does"
        )
        said = f" ({refusal})" if refusal is not None else ""
        return DiskError(
            f"{self.domain.name}: {self.target}: the guest has not let the disk go within {seconds:g} s: {reason}, "
            f"then run again: the definition has the disk as before, and the guest may still let it go{said}",
            state=state,
        )


def _is_asked_already(error: LibvirtFailed) -> bool:
    """Whether QEMU says that the guest was asked to let the device go, and has not answered."""
    return "process of unplug" in str(error)
