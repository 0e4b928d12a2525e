# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The clones that are to go, and who uses what is theirs: looked at once for all of them."""

from __future__ import annotations

import os
import stat
import typing as t
from functools import cached_property

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._files import base_note as _base_note
from ansible_collections.kvmops.disk.plugins.module_utils._files.names import looked_up
from ansible_collections.kvmops.disk.plugins.module_utils._formats.references import Identity, identity
from ansible_collections.kvmops.disk.plugins.module_utils._host import image_locks as _image_locks
from ansible_collections.kvmops.disk.plugins.module_utils._task.surroundings import Surroundings
from ansible_collections.kvmops.disk.plugins.module_utils._usage import users as _users
from ansible_collections.kvmops.disk.plugins.module_utils._usage.dependents import Dependents
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import leftovers as _leftovers
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import survey as _survey
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_remove import (
    Files,
    Removal,
    made_for,
)
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_together import Going, Use

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.connection import Hypervisor
    from ansible_collections.kvmops.disk.plugins.module_utils._usage.users import Unresolved, User
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_existing import Neighbour
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.leftovers import Left
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.wish_absent import RemovalWish
    from ansible_collections.kvmops.disk.plugins.module_utils._xml.identity import Mark


@dataclass
class Survey:
    """The domains as they are *known* by name, and what dead runs *left* of clones, by the names of these."""

    hypervisor: Hypervisor
    wish: RemovalWish
    known: t.Mapping[str, Neighbour]
    warn: t.Callable[[str], None]

    @cached_property
    def marks(self) -> dict[str, Mark | None]:
        """What those of the list that are there say of themselves, by UUID."""
        return {one.looks.uuid: one.looks.mark for one in self._listed}

    @cached_property
    def left(self) -> dict[str, list[Left]]:
        """What dead runs left of clones, by the names of these."""
        return _leftovers.left_behind(self._directories, {*self.wish.names})

    def found_now(self, name: str) -> Neighbour | None:
        """The domain of that name as it is by now."""
        domain = self.hypervisor.find(name)
        return _survey.look_at(self.hypervisor, domain) if domain is not None else None

    def going(self, plan: Removal, *, locks: bool) -> Going:
        """The clone that *plan* removes, and who uses its files. Whose *locks* there are nobody can tell while it, or
        another one of them, runs."""
        return Going(plan.name, plan.uuid, tuple(self._use(path, locks=locks) for path in plan.files))

    def unused(self, going: t.Collection[str], made_from: t.Iterable[str]) -> list[str]:
        """The bases in use that nothing reads when the files *going* have gone.

        Those that were *made_from* them count, and those of the source, too, where a run died before the end.
        """
        source = self.known.get(self.wish.source)
        own = [disk.path for disk in source.disks] if source is not None else []
        left = [base for name in self.wish.names for one in self.left.get(name, ()) for base in one.bases]
        found = sorted({os.path.realpath(base): base for base in (*left, *made_from, *own)}.values())
        noted = [base for base in found if base not in going and _base_note.is_in_use(base)]
        return [base for base in noted if not {*self._readers.of(base)} - {*going}]

    def _use(self, path: str, *, locks: bool) -> Use:
        readers = tuple((reader, os.path.realpath(reader)) for reader in self._readers.of(path))
        users = tuple(self._users.get(identity(path), ()))
        unresolved = tuple(claim for claim in self._unresolved if claim.may_be(path))
        return Use(path, os.path.realpath(path), readers, users, locks and _image_locks.is_locked(path), unresolved)

    @cached_property
    def _listed(self) -> list[Neighbour]:
        return [self.known[name] for name in self.wish.names if name in self.known]

    @cached_property
    def _surroundings(self) -> Surroundings:
        return Surroundings.of(self.hypervisor, self.wish.search_paths, warn=self.warn)

    @cached_property
    def _directories(self) -> list[str]:
        """Where images of the clones lie, or what reads them, or what a dead run left."""
        marked = [disk.path for one in self._listed if one.looks.mark for disk in one.looks.mark.disks]
        return self._surroundings.directories([*marked, *self._places()])

    @cached_property
    def _is_empty(self) -> bool:
        """Whether there is nothing that anybody could read."""
        return not self.left and not any(one.looks.mark and one.looks.mark.disks for one in self._listed)

    @cached_property
    def _readers(self) -> Dependents:
        return Dependents(()) if self._is_empty else self._surroundings.readers_in(self._directories)

    @cached_property
    def _users(self) -> dict[Identity, list[User]]:
        """The domains that name a file, by that file."""
        return {} if self._is_empty else _users.by_file(self._surroundings.users)

    @cached_property
    def _unresolved(self) -> list[Unresolved]:
        """What domains have of which nobody knows which file it is."""
        return [] if self._is_empty else self._surroundings.unresolved

    def _places(self) -> list[str]:
        """Where a dead run may have left something: by names in the directories that are meant, as far as known."""
        source = self.known.get(self.wish.source)
        found = [f"{self.wish.disk_dir}/."] if self.wish.disk_dir is not None else []
        if source is not None:
            found += [disk.path for disk in source.disks]
            found += [source.looks.nvram] if source.looks.nvram else []
        return found


def look(hypervisor: Hypervisor, wish: RemovalWish, warn: t.Callable[[str], None]) -> Survey:
    """Looks at all domains."""
    return Survey(hypervisor, wish, {one.looks.name: one for one in _survey.look_around(hypervisor)}, warn)


def files_of(found: Neighbour, mark: Mark) -> Files:
    """What is known of the files that a clone and its *mark* name."""
    made, bases = made_for(found, mark), [disk.base for disk in mark.disks]
    modes = {path: os.lstat(path).st_mode for path in made if os.path.lexists(path)}
    names = [*made, *bases, *(disk.path for disk in mark.disks), *(disk.path for disk in found.disks)]
    regular = frozenset(path for path, mode in modes.items() if stat.S_ISREG(mode))
    return Files(looked_up(names, identity), frozenset(modes), regular)
