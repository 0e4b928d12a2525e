# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which of the clones that are to go may go together, and in which order: others may use what is theirs. Pure."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError
from ansible_collections.kvmops.disk.plugins.module_utils._usage import dependents as _dependents
from ansible_collections.kvmops.disk.plugins.module_utils._usage import unused as _unused

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._usage.users import Unresolved, User

_TO_DO = "remove it with its clone"


@dataclass(frozen=True)
class Use:
    """Who has to do with the file at *path*, whose real name is *file*: the images that read it, each with its real
    name, the *users* whose definition names it, whether somebody has it *locked*, and the claims that may be on it."""

    path: str
    file: str
    readers: tuple[tuple[str, str], ...] = ()
    users: tuple[User, ...] = ()
    locked: bool = False
    unresolved: tuple[Unresolved, ...] = ()


@dataclass(frozen=True)
class Going:
    """A clone that is to go, with the use of each of its files."""

    name: str
    uuid: str
    uses: tuple[Use, ...] = ()


class Together:
    """The clones that go, and their files."""

    def __init__(self, clones: t.Iterable[Going]) -> None:
        self.clones = {one.name: one for one in clones}
        self._uuids = {one.uuid for one in self.clones.values()}
        self._files = {use.file for one in self.clones.values() for use in one.uses}

    def without(self, names: t.Collection[str]) -> Together:
        """Those that are left where the clones of *names* stay, or are gone."""
        return Together(one for one in self.clones.values() if one.name not in names)

    def require_unshared(self, clone: Going) -> None:
        """Raises DiskError where something of *clone* is used by others than itself and those that go, too."""
        own = {use.file for use in clone.uses}
        for use in clone.uses:
            found = [reader for reader, file in use.readers if file not in self._files and file not in own]
            _dependents.require_none(use.path, found, _TO_DO, "remove them (snapshots, for example) first")
            others = [user for user in use.users if not self._goes(user.uuid, clone)]
            if others or use.locked:
                raise _unused.in_use(use.path, others, _TO_DO)
            unresolved = [claim for claim in use.unresolved if not self._goes(claim.uuid, clone)]
            if unresolved:
                raise _unused.may_be_in_use(use.path, unresolved, _TO_DO)

    def refusals(self) -> dict[str, DiskError]:
        """Why some of them must stay, by name, as long as that makes others stay, which they read."""
        refused: dict[str, DiskError] = {}
        again = True
        while again:
            again = False
            for clone in [one for one in self.clones.values() if one.uses]:
                try:
                    self.require_unshared(clone)
                except DiskError as error:
                    refused[clone.name], again = error, True
                    self._stays(clone)
        return refused

    def waves(self) -> t.Iterator[list[str]]:
        """Their names in the order in which they go: clones of clones first."""
        owners = {use.file: one.name for one in self.clones.values() for use in one.uses}
        read_by = {
            one.name: {owners[file] for use in one.uses for _name, file in use.readers if file in owners} - {one.name}
            for one in self.clones.values()
        }
        left = list(self.clones)
        while left:
            here = {*left}
            now = [name for name in left if not read_by[name] & here] or left
            here.difference_update(now)
            left = [name for name in left if name in here]
            yield now

    def _goes(self, uuid: str, clone: Going) -> bool:
        """Whether that domain goes: with the others, or as *clone* itself."""
        return uuid in self._uuids or uuid == clone.uuid

    def _stays(self, clone: Going) -> None:
        del self.clones[clone.name]
        self._uuids.discard(clone.uuid)
        self._files -= {use.file for use in clone.uses}
