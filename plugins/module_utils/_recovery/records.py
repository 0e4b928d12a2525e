# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The record of an operation on a domain's disks: beside each image, and in the domain's own metadata."""

from __future__ import annotations

import os
import typing as t
from dataclasses import dataclass, field
from functools import partial

from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, OperationInFlight
from ansible_collections.kvmops.disk.plugins.module_utils._files import staging as _staging
from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.connection import Hypervisor
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.domain import METADATA_URI, Domain
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Step
from ansible_collections.kvmops.disk.plugins.module_utils._recovery.leftovers import DISK_SNAPSHOT
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disks as _disks
from ansible_collections.kvmops.disk.plugins.module_utils._xml import records as _records
from ansible_collections.kvmops.disk.plugins.module_utils._xml.records import Record, RecordedDisk

#: The key of a record under which the identity of a new image stands.
NEW_FILE = "new_file"


#: What stands beside a path, with ``alive`` telling whether its run lives; None where nothing does.
NoteOf = t.Callable[[str], t.Optional[dict[str, t.Any]]]

#: What a run with that verb does to a disk, and the module that finishes it.
_DOING = {
    "convert": ("converts", "vm_disk_convert"),
    "flatten": ("flattens", "vm_disk_flatten"),
    DISK_SNAPSHOT: ("works on a snapshot of", "vm_disk_snapshot"),
}


def require_own(name: str, record: Record | None, verb: str, note_of: NoteOf) -> None:
    """Raises OperationInFlight where the run that wrote *record* into the metadata of domain *name* lives, DiskError
    where it is dead and its *verb* is another: what it left is then for the module that knows what to look for."""
    if record is None:
        return
    doing, module = _DOING.get(record.verb, (record.verb, None))
    for disk in record.disks:
        note = note_of(disk.dest)
        moves = disk.dest != disk.source and record.snapshot is None
        what = f"{doing} {disk.target}" + (f" to {disk.dest}" if moves else f" ({disk.dest})")
        if note is not None and note.get("alive"):
            raise OperationInFlight(
                f"{name}: another run {what} since {note.get('started')} (process {note.get('pid')}): "
                "wait for it, or end it, then run again",
                operation=note,
            )
    if record.verb != verb:
        targets = ", ".join(disk.target for disk in record.disks)
        raise DiskError(
            f"{name}: a run ({record.verb} {targets}) was interrupted on it at {record.started}: nothing was changed: "
            + (f"run {module} on {targets} again, which finishes or reverts that" if module else "finish that first"),
            interrupted={"verb": record.verb, "started": record.started, "disks": targets.split(", ")},
        )


@dataclass(frozen=True)
class Traces:
    """What dead runs left beside some images: their notes by path, and the paths where no run lives."""

    notes: t.Mapping[str, dict[str, t.Any]]
    dead: tuple[str, ...]

    def of(self, verb: str) -> tuple[str, ...]:
        """The images beside which the record of a dead run of *verb* stands."""
        return tuple(path for path in self.dead if self.notes.get(path, {}).get("verb") == verb)

    def half_made(self) -> tuple[str, ...]:
        """The images for which a dead run has left a directory with a new file."""
        return tuple(path for path in self.dead if _staging.left_over(os.path.realpath(path)))


def traces(paths: t.Iterable[str], note_of: NoteOf) -> Traces:
    """What stands beside *paths*."""
    known = sorted({*paths})
    notes = {path: note for path in known if (note := note_of(path)) is not None}
    return Traces(notes, tuple(path for path in known if not notes.get(path, {}).get("alive")))


def is_untouched(record: Record | None, images: t.Iterable[str], verb: str, note_of: NoteOf) -> bool:
    """Whether neither a domain's *record* nor anything beside *images* tells of a dead run of *verb*."""
    if record is not None:
        return False
    found = traces(images, note_of)
    return not found.of(verb) and not found.half_made()


def discarding(half_made: t.Iterable[str]) -> tuple[Step, ...]:
    """The steps that remove the directories with new files that dead runs left for those images."""
    return tuple(
        Step(
            f"remove the unfinished image that an interrupted run left for {path}",
            partial(_staging.discard, os.path.realpath(path)),
        )
        for path in half_made
    )


@dataclass
class Records:
    """The records of *operation* on the disks of *domain*; *found* is what the metadata held when it was decided."""

    hypervisor: Hypervisor
    domain: Domain
    operation: Operation
    found: Record | None
    _written: Record | None = field(default=None, init=False)

    def write(self, record: Record) -> None:
        """Writes down what is in flight, durably. Raises OperationInFlight where another run was faster."""
        self._require_alone()
        for disk in record.disks:
            for path in sorted({disk.source, disk.dest}):
                self.note(disk, path)
        self._require_alone()
        self._written = record
        self.domain.set_record(_records.record_to_xml(record))

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


def remove_from_metadata(hypervisor: Hypervisor, domain: Domain, uri: str) -> None:
    """Removes what the metadata of a domain holds of that namespace, and the metadata where libvirt leaves it empty."""
    domain.remove_record(uri)
    emptied = domain.xml(inactive=True)
    without = _disks.without_empty_metadata(emptied)
    if without != emptied:
        hypervisor.define(without)
