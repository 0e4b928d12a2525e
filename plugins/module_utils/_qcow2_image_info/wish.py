# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a task wants to know, and of which images."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._task.arguments import absolute, search_paths_from

#: The facts for which more than a header is read.
BY_CONTENT = ("map", "measure", "check", "reclaimable")


@dataclass(frozen=True)
class InfoWish:
    """The images that *paths* mean: files, directories, with *recurse* those below them, too, and patterns.

    *format* is that of each, None for what each claims to have. *by_content* are the wanted facts of that kind.
    """

    paths: tuple[str, ...]
    format: str | None = None
    recurse: bool = False
    backing_chain: bool = False
    snapshots: bool = True
    dependents: bool = False
    by_content: tuple[str, ...] = ()
    trusted: bool = False

    @property
    def needs_chain(self) -> bool:
        """Whether what is below an image is read for its facts; a check looks at nothing but the image."""
        return self.backing_chain or bool({"map", "measure"} & {*self.by_content})


def wish_from(params: dict[str, t.Any]) -> InfoWish:
    """The wish that the parameters say. Raises InvalidRequest where a path is relative, or no directory."""
    search_paths_from(params)
    names = ("format", "recurse", "backing_chain", "snapshots", "dependents", "trusted")
    return InfoWish(
        paths=tuple(map(_named, params["paths"])),
        by_content=tuple(name for name in BY_CONTENT if params[name]),
        **{name: params[name] for name in names},
    )


def _named(path: str) -> str:
    """*path*, which may end as the name of a directory does."""
    absolute(path.rstrip("/") or path, "paths")
    return path
