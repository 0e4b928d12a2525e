# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The decision about a domain's snapshots in one run: whether what the task wants is there, and the plan. Pure."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._domain import ready as _ready
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan, Step
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot.decision_change import Change, with_outcomes
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disk_changes as _disk_changes

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainState
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot.decision_found import Observed
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot.wish import VmSnapshotWish
    from ansible_collections.kvmops.disk.plugins.module_utils._xml.snapshots import DomainSnapshot


def require_same(state: DomainState, wish: VmSnapshotWish, found: DomainSnapshot) -> None:
    """Raises DiskError where the snapshot that exists is not the one that the task wants."""
    what = f"{state.name}: has a snapshot {found.name} already, "
    if not found.is_external:
        kind = "with the memory of the guest" if found.memory != "no" else "inside of images"
        raise DiskError(f"{what}{kind}: choose another name, or delete it with virsh snapshot-delete")
    if wish.disks is None:
        return
    wanted = {_target(state, found, name) for name in wish.disks}
    targets = {disk.target for disk in found.external}
    if targets != wanted:
        missing, more = sorted(wanted - targets), sorted(targets - wanted)
        difference = [f"not of {', '.join(missing)}"] if missing else []
        difference += [f"also of {', '.join(more)}"] if more else []
        raise DiskError(
            f"{what}but {' and '.join(difference)}: choose another name, or remove it first with state=absent",
            snapshot_disks=sorted(targets),
        )


def require_quiet(state: DomainState, jobs: t.Sequence[str]) -> None:
    """Raises DiskError where the domain is in no state for a change of its snapshots; *jobs* are its block jobs."""
    _ready.require_quiet(
        state, jobs, "a change of the images", "which would resume on other images than it was saved on"
    )
    if state.active and state.state not in ("running", "paused"):
        raise DiskError(
            f"{state.name}: is {state.state}: its disks cannot be changed now: wait, or resume it", state=state.state
        )


def plan(
    wish: VmSnapshotWish,
    before: Observed,
    after: Observed,
    change: Change,
    settling: tuple[Step, ...],
    steps: tuple[Step, ...],
) -> Plan:
    """The plan of *steps* that takes and removes snapshots, from what is there *before* to what is *after* it.

    First come the steps of *settling* what a dead run left.
    """
    was = _summary(before)
    if not steps:
        return Plan(was, was, settling)
    definition = before.state.definition
    difference = _disk_changes.definition_diff(definition, with_outcomes(definition, change.outcomes))
    taken = [str(wish.name)] if change.takings else []
    return Plan(was, _summary(after, taken), (*settling, *steps), ({"prepared": difference},))


def plan_of_return(
    wish: VmSnapshotWish, settling: tuple[Step, ...], steps: tuple[Step, ...], *, is_there: bool
) -> Plan:
    """The plan of *steps* that goes back to the snapshot of the task, where the domain *is_there* or is not."""
    wanted = {"snapshot": wish.name}
    return Plan(wanted if is_there else {"snapshot": None}, wanted, (*settling, *steps))


def _summary(observed: Observed, taken: t.Sequence[str] = ()) -> dict[str, t.Any]:
    """What the diff shows: the snapshots, and the images of each disk, the one that counts first."""
    images = {target: [link.path for link in chain] for target, chain in observed.chains.items()}
    return {"snapshots": [*(one.name for one in observed.snapshots), *taken], "disks": images}


def _target(state: DomainState, found: DomainSnapshot, name: str) -> str:
    """The disk that *name* means: by its target, its image, or the image that it had before the snapshot *found*."""
    disk = state.disk(name)
    if disk is not None:
        return disk.target
    for one in found.external:
        image = found.image(one.target)
        if image is not None and image.source == name:
            return one.target
    raise state.no_such_disk(name)
