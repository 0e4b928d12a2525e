# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The decision about images that are made of a backup: of which, in which steps. Pure."""

from __future__ import annotations

import os
import typing as t
from functools import partial

from ansible_collections.kvmops.disk.plugins.module_utils._backup import chains as _chains
from ansible_collections.kvmops.disk.plugins.module_utils._backup.manifest import INCREMENTAL
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, InvalidRequest
from ansible_collections.kvmops.disk.plugins.module_utils._files import staging as _staging
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan, Step

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._backup.chains import Backup
    from ansible_collections.kvmops.disk.plugins.module_utils._backup.manifest import BackupDisk
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_restore.wish import RestoreWish


@dataclass(frozen=True)
class Restoring:
    """A *disk* of a backup, and the image *dest* that is made of it. *links*: the backups in which it is, top first."""

    disk: BackupDisk
    dest: str
    links: tuple[Backup, ...]

    @property
    def files(self) -> tuple[str, ...]:
        """The images in which it is, top first. All of them are qcow2."""
        return tuple(os.path.join(link.path, self.disk.file) for link in self.links)


class Work(t.Protocol):
    """What is done to the world when a backup is restored."""

    def verify(self, links: t.Sequence[Backup]) -> None: ...

    def restore(self, item: Restoring) -> None: ...

    def withdraw(self, item: Restoring) -> None: ...


def chosen(wish: RestoreWish, found: t.Iterable[tuple[Backup, ...]]) -> tuple[Backup, tuple[Backup, ...]]:
    """The backup that the task names, and all of its domain. *found* are those of each domain, oldest first.

    Raises InvalidRequest where there is no such backup, or several, DiskError where it is not whole.
    """
    sets = [backups for backups in found if _is_of(wish.domain, backups)]
    if len(sets) > 1:
        uuids = ", ".join(backups[0].uuid for backups in sets)
        raise InvalidRequest(f"domain: {wish.domain} is the name of several domains ({uuids}): give the UUID")
    backups = sets[0] if sets else ()
    backup = next((one for one in backups if one.name == wish.backup), None)
    if backup is None:
        known = ", ".join(one.name for one in backups) or "none"
        raise InvalidRequest(
            f"backup: {wish.src_dir} has no backup {wish.backup} of {wish.domain}: it has {known}",
            backups=[one.name for one in backups],
        )
    if not backup.whole:
        raise DiskError(
            f"{backup.path}: {backup.problems[0]}: it is no whole backup, and was not restored: choose another one",
            path=backup.path,
            problems=list(backup.problems),
        )
    return backup, backups


def restorings(wish: RestoreWish, backup: Backup, backups: tuple[Backup, ...]) -> tuple[Restoring, ...]:
    """The images that are to be there. Raises InvalidRequest for a disk that the backup does not have."""
    facts = backup.facts
    targets = wish.disks if wish.disks is not None else [disk.target for disk in facts.disks]
    items = []
    for target in dict.fromkeys(targets):
        disk = facts.disk(target)
        if disk is None:
            known = [one.target for one in facts.disks]
            raise InvalidRequest(f"disks: {backup.path} has no {target}: it has {', '.join(known)}", disks=known)
        dest = os.path.join(wish.dest_dir, f"{target}.{wish.format}")
        items.append(Restoring(disk, dest, _links(disk.target, backup, backups)))
    return tuple(items)


def plan(
    backup: Backup, items: t.Sequence[Restoring], missing: t.Sequence[Restoring], first: tuple[Step, ...], work: Work
) -> Plan:
    """The plan that makes the *missing* of the images *items*, after the steps that come *first*."""
    there = [item.dest for item in items if item not in missing]
    links = tuple({link.name: link for item in missing for link in item.links}.values())
    said = f"of the backup {backup.name} of {backup.facts.domain}"
    making = [
        Step(
            f"make {item.dest} of {item.disk.target} {said}", partial(work.restore, item), partial(work.withdraw, item)
        )
        for item in missing
    ]
    verifying = [Step("", lambda: work.verify(links))] if missing else []
    after = [item.dest for item in items]
    return Plan({"images": there}, {"images": after}, (*first, *verifying, *making))


def clearing(paths: t.Iterable[str]) -> tuple[Step, ...]:
    """The steps that clear away what dead runs left beside the images at *paths*, which are whole."""
    return tuple(
        Step(f"clear away what an interrupted run left beside {path}", partial(_staging.discard, path))
        for path in paths
    )


def _links(target: str, backup: Backup, backups: tuple[Backup, ...]) -> tuple[Backup, ...]:
    """The backups in which a disk is, as far down as it is incremental."""
    links: list[Backup] = []
    for link in _chains.chain(backup, backups):
        links.append(link)
        disk = link.facts.disk(target)
        if disk is None or disk.kind != INCREMENTAL:
            break
    return tuple(links)


def _is_of(domain: str, backups: t.Sequence[Backup]) -> bool:
    return any(one.uuid == domain or (one.manifest and one.manifest.domain == domain) for one in backups)
