# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The record of an operation on a domain's disks: beside each image, and in the domain's own metadata."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass, field
from ansible_collections.kvmops.disk.plugins.module_utils._errors import (
    DiskError,
    Interrupted,
    OperationInFlight,
    may_still_happen,
)
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.domain import METADATA_URI
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disk_changes as _disk_changes
from ansible_collections.kvmops.disk.plugins.module_utils._xml import records as _records

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation
    from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.acting import ActingDomain
    from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.connection import Hypervisor
    from ansible_collections.kvmops.disk.plugins.module_utils._xml.records import Record, RecordedDisk


@dataclass
class Records:
    """The records of *operation* on the disks of *domain*; *found* is what the metadata held when it was decided."""

    hypervisor: Hypervisor
    domain: ActingDomain
    operation: Operation
    found: Record | None
    _written: Record | None = field(default=None, init=False)

    def write(self, record: Record) -> None:
        """Writes down what is in flight, durably. Raises OperationInFlight where another run was faster.

        From then on what stands beside the images stays as long as the metadata, which only count with it.
        """
        self._require_alone()
        for disk in record.disks:
            for path in sorted({disk.source, disk.dest}):
                self.note(disk, path)
        self._require_alone()
        self._written = record
        self.keep()
        try:
            self.domain.set_record(_records.record_to_xml(record))
        except (DiskError, Interrupted) as error:
            if not may_still_happen(error):
                self._settle_new()
            raise

    def note(self, disk: RecordedDisk, path: str, **facts: t.Any) -> None:
        """Writes beside *path* what becomes of *disk*, with further *facts*."""
        self.operation.note(path, domain=self.domain.uuid, source=disk.source, dest=disk.dest, **facts)

    def keep(self) -> None:
        """Whatever happens now, the next run is to find the records."""
        for path in self.operation.paths:
            self.operation.keep(path)

    def remove(self) -> None:
        """Nothing is in flight any more, or all of it has been undone."""
        self._remove_from_metadata()
        self._settle()

    def forget(self, images: t.Container[str]) -> None:
        """Removes the records; those beside the *images* that the domain has now come last.

        So a run that dies in between is found: by the domain's metadata, or beside its images.
        """
        self._settle()
        for path in self.operation.paths:
            if path not in images:
                self.operation.release(path)
        self._remove_from_metadata()

    def let_go(self, gone: t.Collection[str]) -> None:
        """Removes the records, those beside the images that are *gone* first: who looks for what a dead run left does
        not look there. All others stay held, for what is still to be done."""
        paths = self.operation.paths
        self.forget([path for path in paths if path not in gone])

    def _remove_from_metadata(self) -> None:
        """Removes the record from the metadata.

        The record of another run stays. A domain that somebody undefined meanwhile has none.
        """
        if not self.domain.is_persistent() or self._now() not in (self._written, self.found):
            return
        remove_from_metadata(self.hypervisor, self.domain, METADATA_URI)

    def _settle(self) -> None:
        for path in self.operation.paths:
            self.operation.settled(path)

    def _settle_new(self) -> None:
        """What a run that died has left stays, as it was not dealt with."""
        for path in self.operation.paths:
            if self.operation.left_behind(path) is None:
                self.operation.settled(path)

    def _now(self) -> Record | None:
        record = self.domain.record()
        return _records.record_from_xml(record) if record else None

    def _require_alone(self) -> None:
        if self._now() != self.found:
            raise OperationInFlight(
                f"{self.domain.name}: another run began an operation on a disk of this domain in the same moment: "
                "nothing was changed: run again when it is over",
                domain=self.domain.name,
            )


def remove_from_metadata(hypervisor: Hypervisor, domain: ActingDomain, uri: str) -> None:
    """Removes what the metadata of a domain holds of that namespace, and the metadata where libvirt leaves it empty."""
    domain.remove_record(uri)
    emptied = domain.xml(inactive=True)
    without = _disk_changes.without_empty_metadata(emptied)
    if without != emptied:
        hypervisor.define(without)
