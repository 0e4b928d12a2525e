# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What has to be true of a domain, and of a disk of it, before its image is exchanged or filled. Pure."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainDisk, DomainState


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


def require_plain_disk(name: str, disk: DomainDisk, verb: str, done: str | None = None) -> None:
    """Raises DiskError where the disk is none of those whose image may be exchanged; *verb*: convert, flatten, and
    *done* what is said of one to which that was done."""
    element, target, done = disk.element, f"{name}: {disk.target}", done or f"{verb}ed"
    if element.device != "disk":
        raise DiskError(f"{target}: is a {element.device}, asked to {verb} a disk: name another")
    if disk.problem is not None:
        raise DiskError(f"{target}: {disk.problem}")
    if disk.path is None or element.type not in ("file", "volume"):
        raise DiskError(f"{target}: its source is of type {element.type}, and only image files are {done}")
    if element.readonly or element.shareable or element.transient:
        kind = "read-only" if element.readonly else "shareable" if element.shareable else "transient"
        raise DiskError(f"{target}: is {kind}, so it may have other users or must stay as it is: not {done}")
    if disk.defined is None or (
        disk.live is not None and (disk.live.source, disk.live.format) != (disk.defined.source, disk.defined.format)
    ):
        defined = f"{disk.defined.source} ({disk.defined.format})" if disk.defined else "nothing"
        raise DiskError(
            f"{target}: the guest runs on {disk.path} ({disk.format}), but the definition names {defined}: "
            "bring the two together first, "
            "by a restart or with virsh"
        )
