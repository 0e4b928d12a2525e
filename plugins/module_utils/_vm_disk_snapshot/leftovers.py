# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a run that took, merged or went back to a snapshot has left when it died."""

from __future__ import annotations

import os
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._files import beside as _beside
from ansible_collections.kvmops.disk.plugins.module_utils._files import same_file as _same_file
from ansible_collections.kvmops.disk.plugins.module_utils._recovery.traces import NEW_FILE, NoteOf, require_own
from ansible_collections.kvmops.disk.plugins.module_utils._recovery.verbs import DISK_SNAPSHOT
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot import decision_found as _found
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot.decision_found import Left, Observed

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainState
    from ansible_collections.kvmops.disk.plugins.module_utils._files.names import Names
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg
    from ansible_collections.kvmops.disk.plugins.module_utils._xml.records import Record, RecordedDisk

#: What is merged below a disk of the running domain, and into which image; None where nothing is.
CommitOf = t.Callable[[str], t.Optional[tuple[str, str]]]

#: The key of a record beside an image under which stands whether the domain is to run once it has gone back.
RUNS = "runs"


def find(observed: Observed, run: str | None, note_of: NoteOf, commit_of: CommitOf) -> Left:
    """What stands unfinished of the domain's record, and beside its images. *run*: libvirt's number of its run.

    Raises OperationInFlight where the run that wrote the record lives, DiskError where it was another module's.
    """
    state, snapshots, names = observed.state, observed.snapshots, observed.names
    record = state.record
    require_own(state.name, state.uuid, record, DISK_SNAPSHOT, note_of)
    disks = record.disks if record else ()
    images = {str(link.path) for chain in observed.chains.values() for link in chain}
    paths = {*images, *(path for disk in disks for path in (disk.source, disk.dest) if path)}
    paths |= {other for path in paths for other in _told_by(note_of(path))}
    notes = {path: note for path in paths if (note := note_of(path)) is not None}
    dead = sorted(path for path in paths if not notes.get(path, {}).get("alive"))
    change = record.change if record else None
    named = images | {str(one.source) for snapshot in snapshots for one in snapshot.defined}
    named |= {str(one.overlay) for snapshot in snapshots for one in snapshot.external}
    made = [disk.dest for disk in disks if change == "take" and _is_ours(disk.dest, notes)]
    known = _found.find(record.snapshot, snapshots) if record else None
    merged = [disk.source for disk in disks if change == "merge" and known is None and os.path.exists(disk.source)]
    return Left(
        record=record,
        unfinished=known if change == "merge" else None,
        unused=tuple(path for path in (*made, *merged) if not any(names.same(path, other) for other in named)),
        staging=tuple(path for path in dead if _beside.left_over(path)),
        working=frozenset(
            disk.target for disk in disks if change == "merge" and _goes_on(state, names, disk, commit_of)
        ),
        doubtful=tuple(disk for disk in disks if record and _is_doubtful(record, disk, run, observed)),
        owed=not state.active and _is_owed(record, [notes[path] for path in dead if path in notes]),
        noted=tuple(path for path in dead if notes.get(path, {}).get("verb") == DISK_SNAPSHOT),
        blank=tuple(path for path in dead if notes.get(path, {}).get("verb") == "unknown"),
    )


def lost(left: Left, qemu_img: QemuImg) -> tuple[RecordedDisk, ...]:
    """The doubtful overlays whose content the image below has not.

    QEMU changes the reference of the image above before it writes the metadata of what it merged; it is killed in
    between, or the host fails, and that is gone. The overlay still has it. What is below others is only read, so that
    both are the same where nothing was lost.
    """
    if not left.doubtful:
        return ()
    from ansible_collections.kvmops.disk.plugins.module_utils._content.comparison import same_content

    return tuple(
        disk
        for disk in left.doubtful
        if not same_content(qemu_img, (disk.source, disk.source_format), (disk.dest, disk.format))
    )


def _told_by(note: dict[str, t.Any] | None) -> set[str]:
    """The images that a record of ours beside an image names: libvirt removes some of them, and so the way to what
    stands beside them."""
    if note is None or note.get("verb") != DISK_SNAPSHOT:
        return set()
    return {str(note[key]) for key in ("source", "dest") if note.get(key)}


def _is_owed(record: Record | None, notes: t.Iterable[dict[str, t.Any]]) -> bool:
    """Whether the domain is to run once it has gone back: by the record, or, where it has gone, by what is beside its
    images."""
    if record is not None and record.change == "revert":
        return record.was_running
    return any(note.get("verb") == DISK_SNAPSHOT and note.get(RUNS) for note in notes)


def _goes_on(state: DomainState, names: Names, disk: RecordedDisk, commit_of: CommitOf) -> bool:
    """Whether the merge of the record goes on; not another one, which somebody else began meanwhile."""
    found = commit_of(disk.target) if state.active else None
    return found is not None and names.same(found[0], disk.source) and names.same(found[1], disk.dest)


def _is_doubtful(record: Record, disk: RecordedDisk, run: str | None, observed: Observed) -> bool:
    """Whether the overlay was merged below another one, in a run of the domain that is over, and that one is right
    above the image still."""
    if record.change != "merge" or record.mode != "live" or record.run == run or disk.base is None:
        return False
    same, chain = observed.names.same, observed.chains.get(disk.target, ())
    is_below = any(same(one.path, disk.base) and same(two.path, disk.dest) for one, two in zip(chain, chain[1:]))
    return is_below and os.path.exists(disk.source)


def _is_ours(path: str, notes: t.Mapping[str, dict[str, t.Any]]) -> bool:
    note = notes.get(path)
    return note is not None and _same_file.is_file(path, note.get(NEW_FILE))
