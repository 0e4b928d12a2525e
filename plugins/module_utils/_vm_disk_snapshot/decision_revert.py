# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The decision about the way back to an external snapshot of a domain. Pure."""

from __future__ import annotations

import os
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import replace
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Step
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot.decision_change import (
    record,
    recorded_revert,
)
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot.decision_found import find, image_of

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainState
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot.wish import VmSnapshotWish
    from ansible_collections.kvmops.disk.plugins.module_utils._xml.records import Record
    from ansible_collections.kvmops.disk.plugins.module_utils._xml.snapshots import DomainSnapshot


class Work(t.Protocol):
    """What is done to the world on the way back."""

    def begin(self) -> None: ...

    def restore(self) -> None: ...

    def revert(self) -> None: ...

    def start(self) -> None: ...

    def finish(self) -> None: ...


def require_revertible(
    state: DomainState, wish: VmSnapshotWish, snapshots: t.Sequence[DomainSnapshot], version: tuple[int, int]
) -> DomainSnapshot:
    """The snapshot to go back to. Raises DiskError where there is none, or libvirt cannot go back to it."""
    found = find(wish.name, snapshots)
    if found is None:
        known = ", ".join(one.name for one in snapshots) or "none"
        raise DiskError(
            f"{state.name}: has no snapshot {wish.name} to revert to; it has: {known}",
            snapshots=[one.name for one in snapshots],
        )
    if not found.is_external:
        raise DiskError(
            f"{state.name}: its snapshot {found.name} is not one of disks alone in files of their own: revert to it "
            "with virsh snapshot-revert"
        )
    if version < (9, 10):
        kept = ", ".join(f"{disk.target}: {image_of(found, disk.target)}" for disk in found.external)
        raise DiskError(
            f"{state.name}: libvirt {version[0]}.{version[1]} cannot revert to an external snapshot, which needs "
            f"9.10 or newer: shut the domain down and define it with the images that {found.name} has kept ({kept}), "
            "or with new overlays over these (kvmops.disk.qcow2_image with backing_file), and remove libvirt's "
            "records with virsh snapshot-delete --metadata",
            libvirt_version=list(version),
        )
    _require_names_for_libvirt(state, found)
    return found


def revert_record(state: DomainState, runs: bool, run: str | None, snapshot: DomainSnapshot) -> Record:
    """What it is to say of a way back to *snapshot*; *runs*: the domain is to run afterwards."""
    return replace(record(state, run, snapshot.name, "revert", recorded_revert(snapshot)), was_running=runs)


def steps(state: DomainState, snapshot: DomainSnapshot, work: Work, *, is_there: bool, runs: bool) -> tuple[Step, ...]:
    """The steps, in order: record, go back unless the domain *is_there* already, start where it *runs* then, forget."""
    found: list[Step] = [Step("", work.begin, work.restore)]
    if not is_there:
        found.append(Step(f"revert to the snapshot {snapshot.name} of {state.name}", work.revert, commits=True))
    if runs:
        found.append(Step(f"start {state.name}, which ran before", work.start, commits=True))
    found.append(Step("", work.finish))
    return tuple(found)


def _require_names_for_libvirt(state: DomainState, snapshot: DomainSnapshot) -> None:
    """Raises DiskError where libvirt would give the overlays of two disks one name: BASE.EPOCH for BASE.qcow2 and
    BASE.raw."""
    seen: dict[str, str] = {}
    for disk in snapshot.external:
        stem = os.path.splitext(image_of(snapshot, disk.target))[0]
        if stem in seen:
            raise DiskError(
                f"{state.name}: libvirt cannot revert to the snapshot {snapshot.name}, as its overlays for "
                f"{seen[stem]} and {disk.target} would have one name, {stem}.EPOCH: move one of the images with "
                "vm_disk_convert once the snapshots are removed"
            )
        seen[stem] = disk.target
