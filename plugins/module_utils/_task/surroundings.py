# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who else has to do with an image: the one answer to that, for every task."""

from __future__ import annotations

import os
import typing as t
from functools import cached_property, partial

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import asdict, replace
from ansible_collections.kvmops.disk.plugins.module_utils._errors import (
    DiskError,
    ImageInUse,
)
from ansible_collections.kvmops.disk.plugins.module_utils._files import file_set as _file_set
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.binding import is_missing_domain
from ansible_collections.kvmops.disk.plugins.module_utils._task import libvirts as _libvirts
from ansible_collections.kvmops.disk.plugins.module_utils._task import pools as _pools
from ansible_collections.kvmops.disk.plugins.module_utils._usage import dependents as _dependents
from ansible_collections.kvmops.disk.plugins.module_utils._usage import unused as _unused
from ansible_collections.kvmops.disk.plugins.module_utils._usage import users as _users
from ansible_collections.kvmops.disk.plugins.module_utils._usage.counting import anybody

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._capacity.space import NewImage
    from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.connection import Hypervisor
    from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.domain import Domain
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg
    from ansible_collections.kvmops.disk.plugins.module_utils._task.libvirts import Libvirts
    from ansible_collections.kvmops.disk.plugins.module_utils._usage.users import Claim, Unresolved, User, Uses

_SHOWN = 5
_Answer = t.TypeVar("_Answer")

#: The way out where a task may say that it gives up the overlays of what it writes.
GIVE_THEM_UP = "set allow_dependents=true to give them up"


class Surroundings:
    """One look at the domains of a task's libvirts and at the images in *search_paths*, taken when it first matters.

    *ask* finds the libvirts then, once; *warn* is told what could not be looked at. A new look is a new object: each
    decision of a task takes one.
    """

    def __init__(
        self, ask: t.Callable[[], Libvirts], search_paths: t.Sequence[str] = (), *, warn: t.Callable[[str], None]
    ) -> None:
        self._ask = ask
        self._search_paths = search_paths
        self._warn = warn
        self._unread: set[str] = set()

    @classmethod
    def at(cls, uri: str | None, search_paths: t.Sequence[str] = (), *, warn: t.Callable[[str], None]) -> Surroundings:
        """Those of the libvirt at *uri* or, where that is None, of all on this host, as far as they answer."""
        return cls(lambda: _libvirts.ask(uri, must_answer=False), search_paths, warn=warn)

    @classmethod
    def of(
        cls, hypervisor: Hypervisor, search_paths: t.Sequence[str] = (), *, warn: t.Callable[[str], None]
    ) -> Surroundings:
        """Those of the libvirt that a task is about."""
        return cls(lambda: _libvirts.beside(hypervisor), search_paths, warn=warn)

    @cached_property
    def libvirts(self) -> Libvirts:
        """Those that are asked. Raises DiskError where one that has to answer does not."""
        found = self._ask()
        for sentence in found.unasked:
            self._warn(sentence)
        return found

    def require_libvirts(self) -> Libvirts:
        """The same, for their answer alone."""
        return self.libvirts

    @cached_property
    def users(self) -> list[User]:
        """The files that domains use, as far as libvirt can be asked."""
        return [user for _hypervisor, uses in self._known for user in uses.users]

    @cached_property
    def unresolved(self) -> list[Unresolved]:
        """What domains use of which nobody can say which file it is."""
        return [claim for _hypervisor, uses in self._known for claim in uses.unresolved]

    @cached_property
    def _known(self) -> list[tuple[Hypervisor, Uses]]:
        """Who uses what, by the libvirt that says so."""
        from ansible_collections.kvmops.disk.plugins.module_utils._xml.needs import image_files

        ask = partial(_users.domain_uses, others=image_files)
        found = [(hypervisor, ask(hypervisor)) for hypervisor in self.libvirts.own]
        for hypervisor in self.libvirts.foreign:
            uses = self._of_another_user(hypervisor, ask)
            if uses is not None:
                for claim in uses.unresolved:
                    self._warn(f"{hypervisor.uri}: {claim}: {claim.problem}")
                found.append((hypervisor, replace(uses, unresolved=[])))
        self._warn_of_unread({path for _hypervisor, uses in found for path in uses.unread})
        return found

    def require_unused(
        self, path: str, to_do: str, by: t.Callable[[Claim], bool] = anybody, *, locks: bool = True
    ) -> None:
        """Raises ImageInUse where a domain has the image, if *by* says that this one counts, or, with *locks*, somebody
        has it open."""
        named = [user for _hypervisor, uses in self._known for user in uses.named]
        found = [user for user in (*self.users, *named) if by(user)]
        for file in _file_set.files_meant(path):
            _unused.require_unused(file, found, to_do, locks=locks)
        self.require_resolved(path, to_do, by)

    def require_resolved(self, path: str, to_do: str, by: t.Callable[[Claim], bool] = anybody) -> None:
        """Raises ImageInUse where a domain may have the image, since nobody knows what it has, if *by* says that this
        one counts."""
        _unused.require_resolved(path, [claim for claim in self.unresolved if by(claim)], to_do)

    def require_no_saved_state(self, path: str, to_do: str) -> None:
        """Raises ImageInUse where a saved domain would resume on the image as it is by then (HAZARDS A9)."""
        for user, domain in self.domains_with(path):
            if not user.running and _is_saved(domain):
                raise ImageInUse(
                    f"{path}: the domain {user.domain} has a managed-save image, and would resume on another disk than "
                    f"it was saved with: asked to {to_do}: start the domain and shut it down, or drop the image with "
                    "virsh managedsave-remove",
                    path=path,
                    in_use_by=[asdict(user)],
                )

    def domains_with(self, path: str) -> t.Iterator[tuple[User, Domain]]:
        """The domains that have the image at *path*, each with how it does."""
        for hypervisor, uses in self._known:
            for user in _users.users_of(path, uses.users):
                domain = hypervisor.find(user.domain)
                if domain is not None:
                    yield user, domain

    def directories(self, paths: t.Iterable[str] = ()) -> list[str]:
        """Where images may lie: beside *paths*, in the directories that the task names, and in libvirt's pools."""
        found = {*_dependents.directories_to_search(paths, self._search_paths, self.libvirts.own)}
        for hypervisor in self.libvirts.foreign:
            found.update(self._of_another_user(hypervisor, _dependents.directories_of_pools) or ())
        return sorted(found)

    def _of_another_user(self, hypervisor: Hypervisor, ask: t.Callable[[Hypervisor], _Answer]) -> _Answer | None:
        """What the session of another user answers. That it does not, or does not know, is no reason to fail: that user
        would have the last word on each task of root's."""
        try:
            return ask(hypervisor)
        except DiskError as error:
            self._warn(f"{hypervisor.uri} was not asked, because {error}")
            return None

    def readers(self, paths: t.Iterable[str]) -> _dependents.Dependents:
        """Which images read which, of those that may have one of *paths* as their backing file."""
        return self.readers_in(self.directories(paths))

    def readers_in(self, directories: t.Iterable[str]) -> _dependents.Dependents:
        """The same, looked for in *directories* and among the files of domains."""
        found = _dependents.Dependents(directories, self.users)
        self._warn_of_unread(found.unread)
        return found

    def require_no_dependents(self, path: str, to_do: str, otherwise: str = GIVE_THEM_UP) -> None:
        """Raises HasDependents where overlays read the image; *otherwise* is another way out."""
        found = self.readers([path]).of_files(_file_set.files_meant(path))
        _dependents.require_none(path, found, to_do, otherwise)

    def require_promises(
        self,
        new: t.Sequence[NewImage],
        max_overcommit: float | None,
        qemu_img: QemuImg,
        *,
        gone: t.Iterable[str] = (),
    ) -> None:
        """Raises NotEnoughSpace where the file systems of *new* images, or of such as grow, would promise too much.

        Nothing is looked at where *max_overcommit* is None. *gone* are the files that go when the new ones are there.
        """
        if max_overcommit is not None and new:
            from ansible_collections.kvmops.disk.plugins.module_utils._capacity import file_systems as _file_systems

            directories = self.directories(one.path for one in new)
            _file_systems.require_ratio_for(new, max_overcommit, directories, self.users, qemu_img, gone=gone)

    def refresh_pools(self, paths: t.Iterable[str]) -> None:
        """Lets the pools in which *paths* lie, by whatever names, see what came or went."""
        names = (name for path in paths for name in (path, os.path.realpath(path)))
        _pools.refresh(self.libvirts.own, {os.path.dirname(name) for name in names}, self._warn)

    def _warn_of_unread(self, paths: t.Collection[str]) -> None:
        """Warns of files and directories that could not be looked at, of each once."""
        new = sorted({*paths} - self._unread)
        self._unread.update(new)
        if new:
            shown = ", ".join(new[:_SHOWN]) + (f" and {len(new) - _SHOWN} more" if len(new) > _SHOWN else "")
            self._warn(
                f"cannot read {shown}: whether anything there has the images of this task as backing files is not "
                "known: run the task as a user who may read it"
            )


def _is_saved(domain: Domain) -> bool:
    try:
        return domain.has_managed_save()
    except DiskError as error:
        if is_missing_domain(error):
            return False
        raise
