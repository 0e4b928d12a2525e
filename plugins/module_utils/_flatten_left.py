# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a flattening that died has left, and the steps that settle it.

The image is whole whatever the moment: a pull only fills it, and a new one takes its place in one step. So there is
nothing to revert, but a pull may go on for nobody, and files and records stand around.
"""

from __future__ import annotations

import os
import typing as t
from dataclasses import dataclass, field, replace

from ansible_collections.kvmops.disk.plugins.module_utils import _staging
from ansible_collections.kvmops.disk.plugins.module_utils._domain import DomainState
from ansible_collections.kvmops.disk.plugins.module_utils._domain_xml import Record, RecordedDisk
from ansible_collections.kvmops.disk.plugins.module_utils._flatten import Flattening, recorded
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Step
from ansible_collections.kvmops.disk.plugins.module_utils._records import NoteOf, require_own

#: The key of a record under which the owners of the backing files stand.
OWNERS = "owners"


@dataclass(frozen=True)
class Left:
    """What a dead run left of a domain's flattening.

    *pulled*: disks whose pull goes on without it. *staging*: images with half-made files, or old ones, beside them.
    *noted*: images beside which its record stands. *owners*: those that the backing files had when it began.
    """

    record: Record | None = None
    pulled: tuple[RecordedDisk, ...] = ()
    staging: tuple[str, ...] = ()
    noted: tuple[str, ...] = ()
    owners: t.Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return self.record is not None or bool(self.staging or self.noted)

    @property
    def paths(self) -> set[str]:
        return {disk.source for disk in self._disks} | {*self.staging, *self.noted}

    @property
    def targets(self) -> frozenset[str]:
        """The disks that it was about."""
        return frozenset(disk.target for disk in self._disks)

    @property
    def _disks(self) -> tuple[RecordedDisk, ...]:
        return self.record.disks if self.record else ()


def find(
    state: DomainState,
    run: str | None,
    images: t.Iterable[str],
    note_of: NoteOf,
    is_pulled: t.Callable[[str], bool],
) -> Left:
    """What stands unfinished of the domain's record, and beside *images*. *run*: libvirt's number of the running domain.

    Raises OperationInFlight where the run that wrote the record lives, DiskError where it was no flattening.
    """
    record = state.record
    require_own(state.name, record, "flatten", note_of)
    disks = record.disks if record else ()
    paths = {*images, *(disk.source for disk in disks)}
    notes = {path: note for path in paths if (note := note_of(path)) is not None}
    dead = sorted(path for path in paths if not notes.get(path, {}).get("alive"))
    ours = [path for path in dead if notes.get(path, {}).get("verb") == "flatten"]
    same_run = record is not None and run is not None and record.run == run
    return Left(
        record=record,
        pulled=tuple(disk for disk in disks if same_run and _runs_on(state, disk) and is_pulled(disk.target)),
        staging=tuple(path for path in dead if _staging.left_over(os.path.realpath(path))),
        noted=tuple(ours),
        owners={path: (owner[0], owner[1]) for one in ours for path, owner in (notes[one].get(OWNERS) or {}).items()},
    )


def adoptable(left: Left, items: t.Iterable[Flattening]) -> frozenset[str]:
    """The targets whose pull a dead run began just as it is wanted now: it is waited for."""
    return frozenset(item.target for item in items if recorded(item) in left.pulled)


def without(left: Left, adopted: t.Container[str]) -> Left:
    """What is left to settle where the pulls of *adopted* go on."""
    return replace(left, pulled=tuple(disk for disk in left.pulled if disk.target not in adopted))


def settle(left: Left, end_pull: t.Callable[[str], None]) -> tuple[Step, ...]:
    """The steps that end what goes on for nobody, remove what is half-made, and give files their owners back."""
    pulls = [
        Step(
            f"end the pull into {disk.source} ({disk.target}), which an interrupted run began",
            _of(end_pull, disk.target),
        )
        for disk in left.pulled
    ]
    half_made = [
        Step(
            f"remove the unfinished image that an interrupted run left for {path}",
            _of(_staging.discard, os.path.realpath(path)),
        )
        for path in left.staging
    ]
    owners = [Step("", lambda: _staging.give_back(left.owners))] if left.owners else []
    return (*pulls, *half_made, *owners)


def _runs_on(state: DomainState, disk: RecordedDisk) -> bool:
    return any(known.target == disk.target and known.live and known.path == disk.source for known in state.disks)


def _of(function: t.Callable[[str], None], argument: str) -> t.Callable[[], None]:
    return lambda: function(argument)
