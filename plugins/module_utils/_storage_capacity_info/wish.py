# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which file systems and pools a task wants to know the space of."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._task.arguments import absolute, require_ratio


@dataclass(frozen=True)
class CapacityWish:
    """The file systems of *paths* and of *pools*, and with *everything* those of all pools and of all domains' disks.

    *recurse*: what lies below *paths* counts, too. *limit* is how many times its own size a file system should promise.
    """

    paths: tuple[str, ...]
    pools: tuple[str, ...]
    everything: bool
    recurse: bool
    limit: float

    @property
    def needs_libvirt(self) -> bool:
        return self.everything or bool(self.pools)


def wish_from(params: t.Mapping[str, t.Any]) -> CapacityWish:
    """The wish that the parameters say. Raises InvalidRequest for a relative path, or a limit that is none."""
    require_ratio(params["limit"], "limit")
    everything = params["libvirt"]
    if everything is None:
        everything = not params["paths"] and params["pools"] is None
    return CapacityWish(
        paths=tuple(map(_named, params["paths"])),
        pools=tuple(params["pools"] or ()),
        everything=everything,
        recurse=params["recurse"],
        limit=params["limit"],
    )


def _named(path: str) -> str:
    """*path*, which may end as the name of a directory does, and be the root."""
    absolute(path.rstrip("/") or "/.", "paths")
    return path
