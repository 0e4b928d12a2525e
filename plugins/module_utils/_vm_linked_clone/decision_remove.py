# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The decision what of a clone is its own and goes with it, and the steps by which it goes."""

from __future__ import annotations

import os
import stat
import typing as t
from dataclasses import dataclass

from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, ImageInUse, UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._usage.users import is_same_file
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_existing import Neighbour
from ansible_collections.kvmops.disk.plugins.module_utils._xml.identity import Mark


@dataclass(frozen=True)
class Removal:
    """What goes with a clone: its *files*; what stays though the clone has it: *kept*; the *bases* that it read."""

    name: str
    files: tuple[str, ...]
    kept: tuple[str, ...]
    bases: tuple[str, ...]


def require_clone(found: Neighbour, source: str, listed: t.Sequence[Neighbour]) -> Mark:
    """What the clone says of itself. Raises DiskError where this module did not make it as a clone of *source*, or as
    one of such a clone that is *listed*, too."""
    mark, name = found.looks.mark, found.looks.name
    if mark is None:
        raise DiskError(
            f"{name}: nothing in its definition says that this module made it: asked to remove it: it was left alone: "
            "remove it with virsh undefine, and its images by hand"
        )
    if not _descends(mark, source, {one.looks.uuid: one.looks.mark for one in listed}):
        raise DiskError(f"{name}: is a clone of {mark.source}, asked to remove one of {source}: it was left alone")
    return mark


def removal(found: Neighbour, mark: Mark) -> Removal:
    """What goes and what stays. Raises UnsafeImage where a file of the clone is one that clones have in common."""
    bases = tuple(disk.base for disk in mark.disks)
    marked = [disk.path for disk in mark.disks]
    nvram = [mark.nvram] if mark.nvram and mark.nvram == found.looks.nvram else []
    files = []
    for path in (*marked, *nvram):
        if any(is_same_file(path, base) for base in bases):
            raise UnsafeImage(
                f"{found.looks.name}: its image {path} is the one that it was made from: left alone", path=path
            )
        if not os.path.lexists(path):
            continue
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise UnsafeImage(f"{found.looks.name}: {path} is no longer a regular file: left alone", path=path)
        files.append(path)
    targets = {disk.target for disk in mark.disks}
    kept = [
        disk.path
        for disk in found.disks
        if disk.target in targets and not any(is_same_file(disk.path, path) for path in marked)
    ]
    return Removal(found.looks.name, tuple(files), tuple(kept), bases)


def require_stoppable(found: Neighbour, force: bool) -> None:
    """Raises ImageInUse where the clone runs, and the task does not say that it may be cut off."""
    if found.active and not force:
        raise ImageInUse(
            f"{found.looks.name}: runs: asked to remove it: shut it down first, or set force=true to pull its plug",
            in_use_by=[{"domain": found.looks.name, "uuid": found.looks.uuid, "running": True}],
        )


def _descends(mark: Mark, source: str, marks: t.Mapping[str, Mark | None]) -> bool:
    """Whether *mark* is that of a clone of *source*, or of one of the clones that have *marks*, by their UUIDs."""
    seen = set()
    above: Mark | None = mark
    while above is not None and above.source_uuid not in seen:
        if source in (above.source, above.source_uuid):
            return True
        seen.add(above.source_uuid)
        above = marks.get(above.source_uuid)
    return False
