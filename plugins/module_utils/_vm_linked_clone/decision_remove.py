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
from ansible_collections.kvmops.disk.plugins.module_utils._files import base_note as _base_note
from ansible_collections.kvmops.disk.plugins.module_utils._files import staging as _staging
from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.connection import Hypervisor
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.domain import Domain
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Step
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
            raise UnsafeImage(f"{found.looks.name}: {path} is no regular file any more: left alone", path=path)
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


@dataclass
class Removing:
    """The hands that remove one clone; no decisions between them."""

    hypervisor: Hypervisor
    domain: Domain
    operation: Operation
    plan: Removal
    _xml: str | None = None

    def note(self) -> None:
        """From now on the next run finds what goes, though the definition does not name it any more."""
        for path in self.plan.files:
            self.operation.settled(path)
            self.operation.note(path, item=self.plan.name, new_file=_staging.file_identity(path))

    def stop(self) -> None:
        self.domain.destroy()

    def undefine(self) -> None:
        self._xml = self.domain.xml(inactive=True)
        self.domain.undefine()

    def define_again(self) -> None:
        if self._xml is not None and self.hypervisor.find(self.plan.name) is None:
            self.hypervisor.define(self._xml)

    def remove_files(self) -> None:
        """A file that cannot be removed keeps its record, by which the next run tries again."""
        for path in self.plan.files:
            self.operation.keep(path)
        for path in self.plan.files:
            _base_note.remove(path)
            self.operation.settled(path)


def steps(removing: Removing, *, stop: bool) -> tuple[Step, ...]:
    """The steps that remove a clone, in order; *stop* its guest first."""
    plan = removing.plan
    found = [Step("", removing.note)]
    if stop:
        found.append(Step(f"pull the plug of {plan.name}", removing.stop))
    found.append(Step(f"undefine {plan.name}", removing.undefine, removing.define_again, commits=True))
    if plan.files:
        found.append(Step(f"remove {', '.join(plan.files)}", removing.remove_files))
    return tuple(found)
