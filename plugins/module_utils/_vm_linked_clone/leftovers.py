# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What runs left that died when they made, removed or moved clones."""

from __future__ import annotations

import os
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._files import beside as _beside
from ansible_collections.kvmops.disk.plugins.module_utils._recovery.leftovers import left_on

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation

#: The verbs of the records of runs that make clones, that remove them, and that give them another base.
MAKE, REMOVE, REBASE = "clone", "remove-clone", "rebase-clone"


@dataclass(frozen=True)
class Left:
    """A path on which a run died that made, or removed, a clone; *there*: a file of it is there. *bases*: the noted
    bases that the run had to do with."""

    path: str
    there: bool = False
    bases: tuple[str, ...] = ()


def left_behind(directories: t.Iterable[str], names: t.Container[str]) -> dict[str, list[Left]]:
    """The files on which runs died that made or removed the clones of *names*, by these names."""
    found: dict[str, list[Left]] = {}
    for directory in sorted(set(directories)):
        for record in _beside.look_in(directory):
            name, path = record.get("item"), record.get("path")
            if not record["alive"] and record.get("verb") in (MAKE, REMOVE) and name in names and path:
                there = os.path.lexists(path) or _beside.left_over(path)
                found.setdefault(str(name), []).append(Left(path, there, tuple(_beside.noted_bases(record))))
    return found


def still_left(operation: Operation) -> list[Left]:
    """The paths that *operation* holds, and on which runs died."""
    return [Left(path) for path in operation.paths if operation.left_behind(path)]


def left_of_moves(images: t.Iterable[tuple[str, str]], operation: Operation | None) -> list[str]:
    """Those of *images*, each a path with its format, on which a run died."""
    found = []
    for path, image_format in images:
        left = left_on(path, image_format, operation)
        if left.unfinished_file or left.record is not None:
            found.append(path)
    return found
