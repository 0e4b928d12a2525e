# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A domain's snapshots and disks as the module returns them: those that are there, and those that would be."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import asdict
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot.decision_found import (
    OVERLAY,
    Observed,
    find,
)

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot.decision_change import Change
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot.wish import VmSnapshotWish
    from ansible_collections.kvmops.disk.plugins.module_utils._xml.snapshots import DomainSnapshot


def targets(wish: VmSnapshotWish, observed: Observed, change: Change) -> list[str]:
    """The disks that the task is about."""
    known = find(wish.name, observed.snapshots)
    found = {one.target for one in known.external} if known is not None else set()
    found |= {item.target for item in change.takings}
    found |= {disk.target for one in change.removals for disk in one.snapshot.external}
    return [disk.target for disk in observed.state.disks if disk.target in found]


def snapshots(observed: Observed) -> list[dict[str, t.Any]]:
    """The snapshots that the domain has."""
    return [_snapshot(one) for one in observed.snapshots]


def snapshots_then(wish: VmSnapshotWish, observed: Observed, change: Change) -> list[dict[str, t.Any]]:
    """Those that it would have: where one is taken, that is the one that it goes on from."""
    if not change.takings:
        return snapshots(observed)
    return [*({**one, "current": False} for one in snapshots(observed)), _new_snapshot(wish, observed, change)]


def orphans(before: Observed, then: Observed, exists: t.Callable[[str], bool]) -> list[dict[str, t.Any]]:
    """The overlays that the domain does not run on: of its snapshots, and of those that have gone."""
    used = [link.path for chain in then.chains.values() for link in chain]
    found = {one.path: one for one in (*before.orphans, *then.orphans)}
    return [
        asdict(one)
        for path, one in found.items()
        if exists(path) and not any(then.names.same(path, name) for name in used)
    ]


def warning_of_orphans(name: str, found: t.Sequence[t.Mapping[str, t.Any]]) -> str:
    told = ", ".join(f"{one['path']} (of the snapshot {one['snapshot']})" for one in found)
    return (
        f"{name}: does not run on {told}, any more: what was written there is in no disk of it, and the images below "
        "cannot be merged into while it is there: remove it if it is not needed"
    )


def disk(observed: Observed, target: str, images: t.Sequence[Image]) -> dict[str, t.Any]:
    """One disk as it is, or would be; *images* are those of its chain that are there."""
    chain = observed.chains.get(target, ())
    top = images[0] if images and images[0].path == chain[0].path else None
    return {
        "domain": observed.state.name,
        "target": target,
        "path": chain[0].path if chain else None,
        "format": chain[0].format if chain else None,
        "backing_file": chain[1].path if len(chain) > 1 else None,
        "backing_format": chain[1].format if len(chain) > 1 else None,
        "virtual_size": top.virtual_size if top else None,
        "actual_size": top.actual_size if top else None,
        "backing_chain": [image.facts() for image in images],
    }


def _snapshot(snapshot: DomainSnapshot) -> dict[str, t.Any]:
    disks = [
        _overlay(one.target, one.overlay, one.format, image.source if image else None, image.format if image else None)
        for one in snapshot.external
        for image in [snapshot.image(one.target)]
    ]
    facts = {name: getattr(snapshot, name) for name in ("name", "date", "state", "parent", "current")}
    return {**facts, "external": snapshot.is_external, "disks": disks}


def _new_snapshot(wish: VmSnapshotWish, observed: Observed, change: Change) -> dict[str, t.Any]:
    disks = [
        _overlay(item.target, item.overlay, OVERLAY, below.path, below.format)
        for item in change.takings
        for below in observed.chains[item.target][1:2]
    ]
    parent = next((one.name for one in observed.snapshots if one.current), None)
    kind = "disk-snapshot" if observed.state.active else "shutoff"
    facts = {"name": wish.name, "date": None, "state": kind, "parent": parent, "current": True}
    return {**facts, "external": True, "disks": disks}


def _overlay(
    target: str, overlay: str | None, image_format: str | None, below: str | None, below_format: str | None
) -> dict[str, t.Any]:
    return {
        "target": target,
        "overlay": overlay,
        "format": image_format,
        "backing_file": below,
        "backing_format": below_format,
    }
