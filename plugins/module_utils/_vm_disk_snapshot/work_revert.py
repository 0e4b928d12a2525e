# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A domain goes back to a snapshot: libvirt does it, on new overlays of its own, and the domain runs again if it
ran."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._domain import start as _start
from ansible_collections.kvmops.disk.plugins.module_utils._files import rest as _rest
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot import decision_revert as _decision_revert
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot.leftovers import RUNS
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disks as _xml_disks
from ansible_collections.kvmops.disk.plugins.module_utils._xml import image_properties as _image_properties
from ansible_collections.kvmops.disk.plugins.module_utils._xml import snapshots as _snapshots

if TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainDisk, DomainState
    from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.acting import ActingDomain
    from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.connection import Hypervisor
    from ansible_collections.kvmops.disk.plugins.module_utils._recovery.records import Records
    from ansible_collections.kvmops.disk.plugins.module_utils._xml.snapshots import DomainSnapshot


@dataclass
class Work:
    """One method for each step of a way back, no decisions between them. *runs*: the domain is to run afterwards."""

    hypervisor: Hypervisor
    domain: ActingDomain
    records: Records
    state: DomainState
    snapshot: DomainSnapshot
    runs: bool

    def begin(self) -> None:
        record = _decision_revert.revert_record(self.state, self.runs, self.domain.run_number(), self.snapshot)
        self.records.write(record)
        for disk in record.disks:  # libvirt takes the metadata, and the record in it, back to the snapshot, too
            self.records.note(disk, disk.dest, **{RUNS: self.runs})

    def restore(self) -> None:
        self.records.keep()
        self.records.remove()

    def revert(self) -> None:
        """libvirt stops the guest, and gives its disks new overlays, which it makes for nobody in particular."""
        models = {disk.target: _rest.at_rest(str(disk.path)) for disk in self._disks()}
        self._wait_for_names()
        self.domain.revert(self.snapshot.name)
        self._put_back()
        for disk in _xml_disks.disks(self.domain.xml(inactive=True)) if not self.domain.is_active() else ():
            if disk.target in models and disk.source is not None and os.path.isfile(disk.source):
                _rest.lay_to_rest(disk.source, models[disk.target])

    def _put_back(self) -> None:
        """What the definition said of the images at the snapshot, and libvirt drops with them."""
        definition, known = self.domain.xml(inactive=True), _snapshots.definition(self.snapshot.xml)
        wanted = _image_properties.with_dropped(definition, known, [disk.target for disk in self.snapshot.external])
        if wanted != definition:
            self.hypervisor.define(wanted)

    def start(self) -> None:
        """Raises DomainIsOff where the domain, which ran before, cannot be started."""
        _start.start_again(self.hypervisor, self.domain)

    def finish(self) -> None:
        self.records.remove()

    def _wait_for_names(self) -> None:
        """libvirt names the new overlays by the second, such as vm.1795552363, and fails where one is there: of a way
        back that was interrupted a moment ago, say. Takes a second at most."""
        directories = {os.path.dirname(str(disk.path)) for disk in self._disks()}
        with suppress(OSError):  # who may not look leaves it to libvirt
            while any(name.endswith(f".{int(time.time())}") for place in directories for name in os.listdir(place)):
                time.sleep(0.05)

    def _disks(self) -> list[DomainDisk]:
        """The disks that go back."""
        targets = {disk.target for disk in self.snapshot.external}
        return [disk for disk in self.state.disks if disk.target in targets and disk.path is not None]
