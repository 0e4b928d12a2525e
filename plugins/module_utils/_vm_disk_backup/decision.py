# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The decision about a backup: of which disks, over which earlier one, in which steps. Pure."""

from __future__ import annotations

import typing as t
from functools import partial

from ansible_collections.kvmops.disk.plugins.module_utils._backup import chains as _chains
from ansible_collections.kvmops.disk.plugins.module_utils._backup import manifest as _manifest
from ansible_collections.kvmops.disk.plugins.module_utils._backup.manifest import (
    FULL,
    INCREMENTAL,
    BackupDisk,
    BackupFile,
    Manifest,
)
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass, field
from ansible_collections.kvmops.disk.plugins.module_utils._domain import ready as _ready
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan, Step

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._backup.chains import Backup
    from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainDisk, DomainState
    from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_backup.wish import BackupWish
    from ansible_collections.kvmops.disk.plugins.module_utils._xml.backups import Checkpoint

#: What stands for the hash of a file that is not there yet.
_NOT_YET = BackupFile(0, 64 * "0")


@dataclass(frozen=True)
class Observed:
    """What is there: the domain, the images of those of its *disks* that are meant, top first, the bytes that its guest
    sees of them, its checkpoints by name, and the backups beside which the new one is to stand.

    *nvram*: it has a file with UEFI variables.
    """

    state: DomainState
    disks: tuple[DomainDisk, ...]
    images: t.Mapping[str, tuple[Image, ...]]
    sizes: t.Mapping[str, int]
    checkpoints: t.Mapping[str, Checkpoint]
    backups: tuple[Backup, ...]
    nvram: bool = False


@dataclass(frozen=True)
class Course:
    """How a backup is made: what its backup.json is to say, over which *parent*. *bases*: the checkpoint since which a
    disk is copied. *reason*: why it is a full one where the task leaves the choice."""

    manifest: Manifest
    parent: Backup | None = None
    bases: t.Mapping[str, str] = field(default_factory=dict)
    reason: str | None = None


@dataclass(frozen=True)
class Leftover:
    """What is left of the backup *name*: its new files, and what it was to become; None where it had not come so far.

    *job*: the domain still fills these files.
    """

    name: str
    draft: Manifest | None
    job: bool


class Work(t.Protocol):
    """What is done to the world when a backup is made."""

    def begin(self) -> None: ...

    def stage(self) -> None: ...

    def withdraw(self) -> None: ...

    def copy(self) -> None: ...

    def resume(self) -> None: ...

    def abandon(self) -> None: ...

    def seal(self) -> None: ...

    def publish(self) -> None: ...

    def forget(self, checkpoints: t.Sequence[str]) -> None: ...

    def clear(self, left: Leftover) -> None: ...

    def retire(self, backup: Backup) -> None: ...


def select(state: DomainState, wish: BackupWish) -> tuple[DomainDisk, ...]:
    """The disks that are backed up. Raises InvalidRequest for one that the domain does not have, DiskError for one that
    cannot be backed up."""
    if wish.disks is None:
        chosen = [disk for disk in state.disks if _is_meant_by_default(state, disk)]
    else:
        chosen = []
        for wanted in wish.disks:
            disk = state.disk(wanted)
            if disk is None:
                raise state.no_such_disk(wanted)
            if disk not in chosen:
                chosen.append(disk)
    for disk in chosen:
        try:
            _require_readable(state, disk)
        except DiskError as error:
            advice = ": name in disks those that are to be backed up" if wish.disks is None else ""
            raise DiskError(f"{error}{advice}", **error.facts) from error
    if not chosen:
        raise DiskError(f"{state.name}: has no disk that could be written to: there is nothing to back up")
    return tuple(chosen)


def require_unencrypted(observed: Observed) -> None:
    """Raises DiskError where an image is encrypted, and its backup would not be."""
    for target, images in observed.images.items():
        if any(image.encrypted for image in images):
            raise _encrypted(f"{observed.state.name}: {target}")


def require_quiet(state: DomainState, jobs: t.Sequence[str]) -> None:
    """Raises DiskError where the domain is in no state for a backup; *jobs* are its block jobs."""
    if not state.persistent:
        raise DiskError(
            f"{state.name}: is transient: it has no definition that could be restored with its disks: define it first"
        )
    if state.busy:
        raise DiskError(
            f"{state.name}: is being migrated, saved, dumped, or backed up by another program: wait until that is over"
        )
    if jobs:
        raise DiskError(
            f"{state.name}: a block job runs on {', '.join(jobs)}: wait until it is over, or end it with virsh "
            "blockjob --abort",
            block_jobs=list(jobs),
        )
    if state.active and state.state not in ("running", "paused"):
        raise DiskError(f"{state.name}: is {state.state}: it cannot be backed up now: wait, or resume it")


def require_whole(found: Backup) -> None:
    """Raises DiskError where the backup of that name is there, but is not whole."""
    if not found.whole:
        raise DiskError(
            f"{found.path}: {found.problems[0]}: it is no whole backup, and was left alone: choose another name, or "
            "move it away",
            path=found.path,
            problems=list(found.problems),
        )


def course(wish: BackupWish, observed: Observed, draft: Manifest) -> Course:
    """How the backup is made; *draft* says of it what is known before its disks are.

    Raises DiskError where the task wants an incremental one, and none can be made.
    """
    base = _chains.newest_tracked(observed.backups)
    reason = _why_full(wish, observed, base)
    if wish.mode == INCREMENTAL and reason is not None:
        raise DiskError(
            f"{observed.state.name}: no incremental backup can be made, because {reason}: set kind to auto or full"
        )
    over = base if reason is None and wish.mode != FULL else None
    checkpoint = over.facts.checkpoint if over is not None else None
    since = observed.checkpoints[checkpoint].sizes if checkpoint is not None else {}
    disks = tuple(
        BackupDisk(
            disk.target,
            INCREMENTAL if disk.target in since and _is_tracked_in(over, disk.target) else FULL,
            disk.format,
            observed.sizes[disk.target],
            _can_be_tracked(observed, disk),
        )
        for disk in observed.disks
    )
    names = [_manifest.DEFINITION, *(disk.file for disk in disks), *([_manifest.NVRAM] if observed.nvram else [])]
    values = {name: getattr(draft, name) for name in draft.__dataclass_fields__}
    values.update(
        parent=over.name if over is not None else None,
        checkpoint=draft.checkpoint if any(disk.tracked for disk in disks) else None,
        disks=disks,
        files=dict.fromkeys(names, _NOT_YET),
    )
    bases = {disk.target: str(checkpoint) for disk in disks if disk.kind == INCREMENTAL}
    return Course(Manifest(**values), over, bases, reason if wish.mode == "auto" else None)


def superseded(observed: Observed, newer: Manifest) -> tuple[str, ...]:
    """The checkpoints of earlier backups that nothing goes on from, once the backup *newer* is there."""
    if newer.checkpoint is None:
        return ()
    named = {backup.facts.checkpoint for backup in observed.backups if backup.whole}
    return tuple(name for name in observed.checkpoints if name in named)


def plan(
    wish: BackupWish,
    observed: Observed,
    found: Course,
    left: t.Sequence[Leftover],
    work: Work,
    *,
    resumed: bool,
    retired: t.Sequence[Backup] = (),
) -> Plan:
    """The plan that makes the backup, after what dead runs *left* is cleared away; *resumed*: the job of one of these
    goes on, and is the backup that is wanted. *retired* are the earlier ones that go when it is there."""
    state, manifest = observed.state, found.manifest
    disks = ", ".join(f"{disk.target} ({disk.kind})" for disk in manifest.disks)
    over = f" over {manifest.parent}" if manifest.parent else ""
    how = "which runs" if state.active else "which is off"
    said = f"back up {state.name}, {how}, as {wish.backup}{over}: {disks}"
    making = (
        [Step(f"wait for the backup that an interrupted run has begun: {said}", work.resume, work.abandon)]
        if resumed
        else [Step("", work.stage, work.withdraw), Step(said, work.copy, work.abandon)]
    )
    gone = superseded(observed, manifest)
    forgetting = [Step(f"delete the checkpoint(s) of earlier backups: {', '.join(gone)}", partial(work.forget, gone))]
    steps = (
        Step("", work.begin),
        *clearing(left, work),
        *making,
        Step("", work.seal),
        Step("", work.publish, commits=True),
        *(forgetting if gone else ()),
        *retiring(retired, work),
    )
    names = [backup.name for backup in observed.backups]
    return Plan({"backups": names}, {"backups": [*_without(names, retired), wish.backup]}, steps)


def plan_of_tidying(
    observed: Observed, left: t.Sequence[Leftover], work: Work, retired: t.Sequence[Backup] = ()
) -> Plan:
    """The plan where the backup is there: what dead runs *left* is cleared away, *retired* backups go, and nothing
    else."""
    names = [backup.name for backup in observed.backups]
    steps = (Step("", work.begin), *clearing(left, work), *retiring(retired, work)) if left or retired else ()
    return Plan({"backups": names}, {"backups": _without(names, retired)}, steps)


def retiring(retired: t.Iterable[Backup], work: Work) -> tuple[Step, ...]:
    """The steps that remove backups that nothing keeps, those before others that they stand on."""
    return tuple(Step(f"remove the backup {one.name} of {one.taken}", partial(work.retire, one)) for one in retired)


def _without(names: t.Iterable[str], retired: t.Iterable[Backup]) -> list[str]:
    gone = {one.name for one in retired}
    return [name for name in names if name not in gone]


def clearing(left: t.Sequence[Leftover], work: Work) -> tuple[Step, ...]:
    """The steps that clear away what dead runs *left*."""
    return tuple(
        Step(
            f"remove what an interrupted run left of the backup {one.name}"
            + (", whose copy continues" if one.job else ""),
            partial(work.clear, one),
        )
        for one in left
    )


def _is_meant_by_default(state: DomainState, disk: DomainDisk) -> bool:
    return disk.element.device == "disk" and not disk.element.readonly and state.has(disk)


def _require_readable(state: DomainState, disk: DomainDisk) -> None:
    _ready.require_plain_disk(state, disk, "back up", "backed up", devices=True)
    what = f"{state.name}: {disk.target}"
    if disk.element.encrypted:
        raise _encrypted(what)
    if disk.element.sliced:
        raise DiskError(f"{what}: is a slice of {disk.path}: not backed up")
    if not _manifest.is_target(disk.target):
        raise DiskError(f"{what}: this target cannot be a part of a file's name: not backed up")


def _encrypted(what: str) -> DiskError:
    return DiskError(f"{what}: is encrypted, and its backup would hold the data unencrypted: not backed up")


def _why_full(wish: BackupWish, observed: Observed, base: Backup | None) -> str | None:
    """Why no incremental backup can be made; None where one can."""
    state = observed.state
    if not state.active:
        return "the domain is off, and QEMU knows what has changed only while it runs"
    if base is None:
        return "no earlier whole backup has a checkpoint"
    name = str(base.facts.checkpoint)
    checkpoint = observed.checkpoints.get(name)
    if checkpoint is None:
        return f"libvirt does not know the checkpoint {name} of the backup {base.name}"
    broken = [target for target in _tracked(observed, base) if checkpoint.sizes.get(target) is None]
    if broken:
        return (
            f"it is not known what has changed in {', '.join(broken)} since the backup {base.name}: QEMU was killed, "
            "or the image was exchanged"
        )
    if not _tracked(observed, base):
        return f"the backup {base.name} has none of the disks, or cannot track what changes in them"
    if len(_chains.chain(base, observed.backups)) >= wish.max_chain:
        return f"the chain of {base.name} has {wish.max_chain} backup(s) already"
    return None


def _tracked(observed: Observed, base: Backup) -> list[str]:
    """Those of the disks that *base* has, with a bitmap of what has changed since."""
    return [disk.target for disk in observed.disks if _is_tracked_in(base, disk.target)]


def _is_tracked_in(base: Backup | None, target: str) -> bool:
    disk = base.facts.disk(target) if base is not None else None
    return disk is not None and disk.tracked


def _can_be_tracked(observed: Observed, disk: DomainDisk) -> bool:
    """Whether QEMU can keep in the image which parts of it change: raw and the old qcow2 have no place for that
    (HAZARDS K10, K11)."""
    top = observed.images[disk.target][0]
    return observed.state.active and disk.format == "qcow2" and top.compat == "1.1"
