# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What runs that died have left of a domain's disks: in its metadata, and beside its images."""

from __future__ import annotations

import os
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, NotBelieved, OperationInFlight
from ansible_collections.kvmops.disk.plugins.module_utils._files import beside as _beside
from ansible_collections.kvmops.disk.plugins.module_utils._recovery.verbs import CONVERT, DISK_SNAPSHOT

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._xml.records import Record

#: The key of a record under which the identity of a new image stands.
NEW_FILE = "new_file"

#: What stands beside a path, with ``alive`` telling whether its run lives; None where nothing does.
NoteOf = t.Callable[[str], t.Optional[dict[str, t.Any]]]

#: What a run with that verb does to a disk, and the module that finishes it.
_DOING = {
    CONVERT: ("converts", "vm_disk_convert"),
    "flatten": ("flattens", "vm_disk_flatten"),
    DISK_SNAPSHOT: ("works on a snapshot of", "vm_disk_snapshot"),
}


def require_own(name: str, uuid: str, record: Record | None, verb: str, note_of: NoteOf) -> None:
    """Raises OperationInFlight where the run that wrote *record* into the metadata of a domain lives, DiskError where
    it is dead and its *verb* is another: what it left is then for the module that knows what to look for.

    Raises NotBelieved for a record that no run has written: others may write into the metadata of a domain, too.
    """
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
    _require_confirmed(name, uuid, record, note_of)
    if record.verb != verb:
        targets = ", ".join(disk.target for disk in record.disks)
        raise DiskError(
            f"{name}: a run ({record.verb} {targets}) was interrupted on it at {record.started}: nothing was changed: "
            + (f"run {module} on {targets} again, which finishes or reverts that" if module else "finish that first"),
            interrupted={"verb": record.verb, "started": record.started, "disks": targets.split(", ")},
        )


def _require_confirmed(name: str, uuid: str, record: Record, note_of: NoteOf) -> None:
    """Raises NotBelieved where no record beside an image says of a disk what the domain's metadata say.

    A run writes both, those beside the images first, and removes the last of these last.
    """
    for disk in record.disks:
        wanted = {"verb": record.verb, "domain": uuid, "source": disk.source, "dest": disk.dest}
        notes = [note_of(path) or {} for path in (disk.source, disk.dest)]
        if not any(wanted.items() <= {key: note.get(key) for key in wanted}.items() for note in notes):
            from ansible_collections.kvmops.disk.plugins.module_utils._xml.records import RECORD_URI

            raise NotBelieved(
                f"{name}: its metadata tell of an operation ({record.verb} {disk.target}, from {disk.source} to "
                f"{disk.dest}) of which nothing is noted beside these files: it is not believed, and nothing was "
                f"changed: find out who wrote that, and remove it with: virsh metadata {name} {RECORD_URI} --remove "
                "--config",
                path=disk.dest,
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
        return tuple(path for path in self.dead if _beside.left_over(os.path.realpath(path)))


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
