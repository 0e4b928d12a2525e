# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which images depend on an image: overlays that read it, and images that have it as their data file.

Writing a base corrupts every overlay of it without a word, and no lock protects an idle base (HAZARDS A12). So they are
looked for beside it, in the directories that a task names, in libvirt's pools, among the files of all domains, running
or not, and of their snapshots (HAZARDS B6), and where somebody noted them (base_note).
"""

from __future__ import annotations

import errno
import os
import stat
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, HasDependents
from ansible_collections.kvmops.disk.plugins.module_utils._files import beside as _beside
from ansible_collections.kvmops.disk.plugins.module_utils._formats import headers as _headers
from ansible_collections.kvmops.disk.plugins.module_utils._formats import references as _references

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.connection import Hypervisor
    from ansible_collections.kvmops.disk.plugins.module_utils._usage.users import ByFile, User

_SHOWN = 5


def directories_to_search(
    paths: t.Iterable[str], search_paths: t.Iterable[str], hypervisors: t.Iterable[Hypervisor]
) -> list[str]:
    """Where overlays of *paths* may lie: beside them, in *search_paths*, in the directories of libvirt's pools."""
    directories = {*search_paths}
    for path in paths:
        directories.add(os.path.dirname(path))
        if os.path.islink(path):
            directories.add(os.path.dirname(os.path.realpath(path)))
    found = {os.path.realpath(directory) for directory in directories if _may_be_there(directory)}
    return sorted(found.union(*map(directories_of_pools, hypervisors)))


def directories_of_pools(hypervisor: Hypervisor) -> list[str]:
    """The directories of a libvirt's storage pools, active or not."""
    from ansible_collections.kvmops.disk.plugins.module_utils._xml import pools as _pools

    paths = (_pools.path(pool.xml()) for pool in hypervisor.pools(active_only=False))
    return [os.path.realpath(path) for path in paths if path and _may_be_there(path)]


class Dependents:
    """Which images read which, found by headers alone: one look at each file, for any number of questions.

    *unread* are the files and directories that could not be looked at.
    """

    def __init__(self, directories: t.Iterable[str], users: t.Iterable[User] = ()) -> None:
        unread: set[str] = set()
        places = {path: directory for directory in directories for path in _files(directory, unread)}
        places.update((user.path, os.path.dirname(user.path)) for user in users)
        self._readers: dict[_references.Identity, dict[_references.Identity, str]] = {}
        self.unread = unread
        meant: dict[tuple[str, str], set[_references.Identity]] = {}  # a thousand clones refer to one base
        for path, directory in places.items():
            try:
                own, written = _references.written(path)
            except (DiskError, OSError) as error:  # no image, or none that we may read
                if _headers.is_unreadable(error):
                    unread.add(path)
                continue
            for reference in written:
                found = meant.get((reference, directory))
                if found is None:
                    found = {_references.identity(name) for name in _references.meant(reference, directory)}
                    meant[reference, directory] = found
                for identity in found:
                    names = self._readers.setdefault(identity, {})
                    names[own] = min(path, names.get(own, path))

    def of(self, path: str) -> list[str]:
        """The images that have the file at *path*, by whatever name, as backing or data file, sorted by their names.

        Each once, whatever names lead to it. Raises UnsafeImage where it is noted what depends on it, but the note
        cannot be read.
        """
        own = _references.identity(path)
        names = self._readers.get(own, {})
        noted = {_references.identity(name): name for name in _noted(path, {*names.values()})}
        return sorted(name for identity, name in {**noted, **names}.items() if identity != own)

    def of_files(self, files: t.Sequence[str]) -> list[str]:
        """The same for an image that lies in *files*, of which the first names the others."""
        own = _references.identity(files[0])
        found = {name for file in files for name in self.of(file)}
        return sorted(name for name in found if _references.identity(name) != own)


def of(path: str, directories: t.Iterable[str], users: t.Iterable[User] = ()) -> list[str]:
    """The images that depend on *path*, looked for in *directories*, among the files of *users* wherever those are,
    and where it is noted."""
    return Dependents(directories, users).of(path)


def known(path: str, users: ByFile) -> list[str]:
    """The images that depend on *path* as far as that is known without a search: by *users*, and where it is noted."""
    found = users.overlays_over(path)
    return sorted({*found, *_noted(path, found)})


def require_none(path: str, found: t.Sequence[str], to_do: str, otherwise: str) -> None:
    """Raises HasDependents where *found*, the dependents of *path*, is not empty; *otherwise* is another way out."""
    if found:
        shown = ", ".join(found[:_SHOWN]) + (f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else "")
        raise HasDependents(
            f"{path}: {len(found)} image(s) read it as their backing file ({shown}): asked to {to_do}, "
            "which can destroy them: "
            f"make them independent first, or {otherwise}",
            path=path,
            dependents=list(found),
        )


def _noted(path: str, known: t.Container[str]) -> list[str]:
    """The noted overlays of *path* that count, without those that are *known*."""
    if not _beside.is_noted(path):
        return []
    from ansible_collections.kvmops.disk.plugins.module_utils._files import base_note as _base_note

    return _base_note.noted_dependents(path, known)


def _files(directory: str, unread: set[str]) -> t.Iterator[str]:
    try:
        with os.scandir(directory) as entries:
            found = list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError:
        unread.add(directory)
        return
    for entry in found:
        try:
            if entry.is_file():
                yield entry.path
        except OSError as error:  # a link into a directory that is closed
            if error.errno != errno.ELOOP:
                unread.add(entry.path)


def _may_be_there(directory: str) -> bool:
    """Whether a directory is there, or nobody may tell us."""
    try:
        return stat.S_ISDIR(os.stat(directory).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
