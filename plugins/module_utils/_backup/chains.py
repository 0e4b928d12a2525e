# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The chains that backups make, each over its parent: which are whole, and from which the next can go on. Pure."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._backup import manifest as _manifest
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass, replace

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._backup.manifest import Manifest

#: A chain deeper than this is taken for a mistake: QEMU, and the other modules, go as deep at most.
DEEPEST = 64


@dataclass(frozen=True)
class Backup:
    """A backup as it is found: its directory, and what backup.json says; None where that cannot be believed.

    *problems*: what is wrong with it, in words that follow its name. It is whole where there are none.
    """

    path: str
    uuid: str
    name: str
    manifest: Manifest | None
    problems: tuple[str, ...] = ()

    @property
    def whole(self) -> bool:
        return self.manifest is not None and not self.problems

    @property
    def facts(self) -> Manifest:
        """What backup.json of a backup says that is believed."""
        return t.cast("Manifest", self.manifest)

    @property
    def taken(self) -> str:
        return self.manifest.taken if self.manifest else ""


def with_chain_problems(found: t.Iterable[Backup]) -> tuple[Backup, ...]:
    """The backups *found* of a domain, oldest first, each with what is wrong with those that it needs."""
    ordered = sorted(found, key=lambda backup: (backup.taken, backup.name))
    by_name = {backup.name: backup for backup in ordered}
    return tuple(
        replace(backup, problems=(*backup.problems, *_chain_problems(backup, by_name))) if backup.manifest else backup
        for backup in ordered
    )


def chain(backup: Backup, found: t.Iterable[Backup]) -> tuple[Backup, ...]:
    """*backup*, and those of the backups *found* that it needs, the full one last."""
    by_name = {one.name: one for one in found}
    links = [backup]
    while len(links) <= DEEPEST and (parent := _parent(links[-1], by_name)) is not None:
        links.append(parent)
    return tuple(links)


def newest_tracked(found: t.Iterable[Backup]) -> Backup | None:
    """The newest whole backup that has a checkpoint; None where there is none. Only from such a one the next can go
    on: the checkpoint of one that is not whole knows nothing of what that one lacks (HAZARDS K1)."""
    tracked = [backup for backup in found if backup.whole and backup.facts.checkpoint is not None]
    return max(tracked, key=lambda backup: backup.taken, default=None)


def _parent(backup: Backup, by_name: t.Mapping[str, Backup]) -> Backup | None:
    facts = backup.manifest
    return by_name.get(facts.parent) if facts is not None and facts.parent is not None else None


def _chain_problems(backup: Backup, by_name: t.Mapping[str, Backup]) -> t.Iterator[str]:
    """What is wrong with the backups that *backup* needs; the first that is wrong is told of."""
    above, depth = backup, 1
    while above.manifest is not None and above.manifest.parent is not None:
        parent = by_name.get(above.manifest.parent)
        if parent is None:
            yield f"needs the backup {above.manifest.parent}, which is missing"
            return
        depth += 1
        if parent.name == backup.name or depth > DEEPEST:
            yield "needs itself" if parent.name == backup.name else f"needs more than {DEEPEST} backups"
            return
        if parent.problems or parent.manifest is None:
            yield f"needs the backup {parent.name}, which {parent.problems[0]}"
            return
        lost = [disk.target for disk in above.manifest.disks if not _stands_on(disk, parent.manifest)]
        if lost:
            yield f"needs {', '.join(lost)} of the backup {parent.name}, which has no such disk"
            return
        above = parent


def _stands_on(disk: _manifest.BackupDisk, parent: Manifest) -> bool:
    return disk.kind == _manifest.FULL or parent.disk(disk.target) is not None
