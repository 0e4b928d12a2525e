# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a task wants of clones that are not to be there any more."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._errors import InvalidRequest
from ansible_collections.kvmops.disk.plugins.module_utils._task.arguments import absolute, search_paths_from
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.wish import require_name


@dataclass(frozen=True)
class RemovalWish:
    """The clones of *source* that are to go, by their *names*; with *force* also while they run.

    *disk_dir*: where their images lie, as far as the task says that. *search_paths* are directories in which images may
    lie that read them.
    """

    source: str
    names: tuple[str, ...]
    force: bool = False
    disk_dir: str | None = None
    search_paths: tuple[str, ...] = ()

    def require_valid(self) -> None:
        """Raises InvalidRequest where no world could grant the wish."""
        for name in self.names:
            require_name(name)
        twice = sorted({name for name in self.names if self.names.count(name) > 1})
        if twice:
            raise InvalidRequest(f"clones: two of them have the same names: {', '.join(twice)}: name each once")
        if self.source in self.names:
            raise InvalidRequest(f"clones: {self.source} is the source itself, which is never removed")


def wish_from(params: dict[str, t.Any]) -> RemovalWish:
    """The wish that the parameters express. Raises InvalidRequest where they contradict themselves."""
    directory = params["disk_dir"]
    wish = RemovalWish(
        source=params["source"],
        names=tuple(given["name"] for given in params["clones"]),
        force=params["force"],
        disk_dir=absolute(directory, "disk_dir") if directory is not None else None,
        search_paths=search_paths_from(params),
    )
    wish.require_valid()
    return wish
