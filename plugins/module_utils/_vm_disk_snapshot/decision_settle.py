# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The decision how that is settled which a dead run left of a domain's snapshots. Pure.

What libvirt does to all disks at once is done or not. A merge is neither: the image below has changed already, and is
not any more what the snapshot kept. So it is finished by the next run, whatever that one wants.
"""

from __future__ import annotations

import typing as t
from functools import partial

from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Step

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainState
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot.decision_change import Settlement
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot.decision_found import Left
    from ansible_collections.kvmops.disk.plugins.module_utils._xml.records import RecordedDisk


class Work(t.Protocol):
    """What is done to the world when the traces of a dead run are removed."""

    def merge_again(self, disk: RecordedDisk) -> None: ...

    def discard(self, path: str) -> None: ...

    def remove(self, path: str) -> None: ...

    def leave_no_record(self, name: str) -> None: ...

    def start(self) -> None: ...

    def forget(self) -> None: ...


def require_settleable(state: DomainState, lost: t.Sequence[RecordedDisk]) -> None:
    """Raises DiskError where the guest runs on images that lack something of the overlays *lost*."""
    if lost and state.active:
        raise DiskError(
            f"{state.name}: {', '.join(disk.dest for disk in lost)} lost a part of what was merged into it, as its "
            "QEMU was killed then; a guest runs on it again: destroy the domain and run again, which merges again",
            state=state.state,
        )


def first_steps(settlement: Settlement, work: Work) -> tuple[Step, ...]:
    """The steps that write again, into images which nobody has open, what they have lost of overlays, and remove what
    nobody can use any more."""
    again = [
        Step(
            f"merge {disk.source} into {disk.dest} again: {disk.target} went off before all of that was in it",
            partial(work.merge_again, disk),
        )
        for disk in settlement.again
    ]
    staged = [
        Step(f"remove the unfinished overlay that an interrupted run left for {path}", partial(work.discard, path))
        for path in settlement.left.staging
    ]
    unused = [
        Step(f"remove {path}, which an interrupted run left and the domain does not use", partial(work.remove, path))
        for path in settlement.left.unused
    ]
    return (*again, *staged, *unused)


def last_steps(state: DomainState, left: Left, work: Work) -> tuple[Step, ...]:
    """The steps that end a run in which no merge was unfinished: the domain runs again, nothing tells of the run."""
    found = []
    if left.record is not None and left.record.change == "take":
        found.append(Step("", partial(work.leave_no_record, str(left.record.snapshot))))
    if left.owed:
        found.append(Step(f"start {state.name}, which an interrupted run had left off", work.start))
    found.append(Step(f"forget the run that was interrupted on {state.name}", work.forget))
    return tuple(found)
