# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What has to be true of a domain, and of a disk of it, before its image is exchanged or filled. Pure."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainDisk, DomainState
    from ansible_collections.kvmops.disk.plugins.module_utils._xml.disks import DiskElement


def require_ready(state: DomainState, jobs: t.Sequence[str], change: str, why_not_saved: str) -> None:
    """Raises DiskError where the domain is in no state for *change*, such as a conversion, which its snapshots would
    not survive; the rest is as in require_quiet."""
    require_quiet(state, jobs, change, why_not_saved)
    if state.snapshots:
        raise DiskError(
            f"{state.name}: has {len(state.snapshots)} snapshot(s) ({', '.join(state.snapshots)}), "
            f"which {change} would break: delete them first",
            snapshots=list(state.snapshots),
        )


def require_quiet(state: DomainState, jobs: t.Sequence[str], change: str, why_not_saved: str) -> None:
    """Raises DiskError where the domain is in no state for *change*, such as a conversion; *jobs* are its block jobs.

    *why_not_saved*: what is wrong with a managed-save image.
    """
    name = state.name
    if not state.persistent:
        raise DiskError(f"{name}: is transient: it has no definition that could name the new disk: define it first")
    if state.managed_save:
        raise DiskError(
            f"{name}: has a managed-save image, {why_not_saved}: start the domain, "
            "or drop it with virsh managedsave-remove"
        )
    if state.checkpoints:
        raise DiskError(
            f"{name}: has checkpoints ({', '.join(state.checkpoints)}), which {change} would break: delete them first"
        )
    if state.busy:
        raise DiskError(f"{name}: is being migrated, saved, dumped or backed up: wait until that is over")
    if jobs:
        raise DiskError(
            f"{name}: a block job runs on {', '.join(jobs)}: wait until it is over, "
            "or end it with virsh blockjob --abort",
            block_jobs=list(jobs),
        )


def require_return(state: DomainState) -> str | None:
    """What will be different for the guest of a running domain once that went off and was started again, as a warning;
    None where nothing will (HAZARDS G24).

    Raises DiskError where it would lose a device, or the content of a disk. Facts: ``live_only``.
    """
    if not state.active or state.live is None:
        return None
    from ansible_collections.kvmops.disk.plugins.module_utils._xml import amounts as _amounts
    from ansible_collections.kvmops.disk.plugins.module_utils._xml import devices as _devices

    lost = _devices.only_in(state.live, state.definition)
    lost += [f"disk {disk.target} ({disk.path})" for disk in state.disks if _has_other_content(disk)]
    if lost:
        raise DiskError(
            f"{state.name}: the running domain has what its definition does not: {', '.join(lost)}: its guest would "
            "come back without that: make it a part of the definition (virsh attach-device --config, virsh edit), or "
            "shut the domain down yourself first",
            live_only=lost,
        )
    gained = _devices.only_in(state.definition, state.live)
    gained += [f"{disk.element.device} {disk.target}" for disk in state.disks if _has_other_source(disk)]
    told = []
    if gained:
        told.append(
            f"its definition says what the running domain does not have yet: {', '.join(gained)}: the guest has that "
            "once it is started again"
        )
    amounts = _amounts.changed(state.live, state.definition)
    if amounts:
        told.append(f"the guest comes back with what its definition gives it, and has another: {', '.join(amounts)}")
    return f"{state.name}: {'; '.join(told)}" if told else None


def require_plugged_in(state: DomainState, disk: DomainDisk) -> None:
    """Raises DiskError where only the definition of a running domain has the disk."""
    if state.active and not state.has(disk):
        raise DiskError(
            f"{state.name}: {disk.target}: is only in the definition, and the running guest does not have it: attach "
            "it (virsh attach-device --live), or shut the domain down first"
        )


def require_plain_disk(
    state: DomainState, disk: DomainDisk, verb: str, done: str | None = None, *, devices: bool = False
) -> None:
    """Raises DiskError where the disk is none of those whose image may be exchanged; *verb*: convert, flatten, and
    *done* what is said of one to which that was done. *devices*: that may be a block device, too."""
    element, target, done = disk.element, f"{state.name}: {disk.target}", done or f"{verb}ed"
    if element.device != "disk":
        raise DiskError(f"{target}: is a {element.device}, asked to {verb} a disk: name another")
    if disk.problem is not None:
        raise DiskError(f"{target}: {disk.problem}")
    if disk.path is None or element.type not in ("file", "volume", *(("block",) if devices else ())):
        kinds = "image files and block devices" if devices else "image files"
        raise DiskError(f"{target}: its source is of type {element.type}, and only {kinds} are {done}")
    if element.readonly or element.shareable or element.transient:
        kind = "read-only" if element.readonly else "shareable" if element.shareable else "transient"
        raise DiskError(f"{target}: is {kind}, so it may have other users or must stay as it is: not {done}")
    require_plugged_in(state, disk)
    if disk.defined is None or (
        disk.live is not None and (disk.live.source, disk.live.format) != (disk.defined.source, disk.defined.format)
    ):
        defined = f"{disk.defined.source} ({disk.defined.format})" if disk.defined else "nothing"
        raise DiskError(
            f"{target}: the guest runs on {disk.path} ({disk.format}), but the definition names {defined}: "
            "bring the two together first, "
            "by a restart or with virsh"
        )


def _has_other_source(disk: DomainDisk) -> bool:
    """Whether the definition names another source than the running domain has."""
    live, defined = disk.live, disk.defined
    return live is not None and defined is not None and _source(live) != _source(defined)


def _has_other_content(disk: DomainDisk) -> bool:
    """The same of a disk that a guest keeps its data on, unlike the drive of a medium."""
    return disk.element.device == "disk" and _has_other_source(disk)


def _source(element: DiskElement) -> tuple[str | None, ...]:
    return element.source, element.pool, element.volume, element.format
