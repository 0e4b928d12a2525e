# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The decision what of a clone is its own and goes with it, and the steps by which it goes. Pure."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass, field
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, ImageInUse, UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._files.names import Names
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Step

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_existing import Neighbour
    from ansible_collections.kvmops.disk.plugins.module_utils._xml.identity import Mark


@dataclass(frozen=True)
class Files:
    """The files that the definition of a clone and its mark name: which *names* mean one file, which are *there*, and
    which of these are *regular* files."""

    names: Names = field(default_factory=Names)
    there: frozenset[str] = frozenset()
    regular: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Removal:
    """What goes with a clone: its *files*; what stays though the clone has it: *kept*; the *bases* that it read.

    *stop*: its guest is stopped first.
    """

    name: str
    uuid: str
    files: tuple[str, ...]
    kept: tuple[str, ...] = ()
    bases: tuple[str, ...] = ()
    stop: bool = False


class Work(t.Protocol):
    """What is done to the world when a clone is removed."""

    def note(self) -> None: ...

    def stop(self) -> None: ...

    def undefine(self) -> None: ...

    def define_again(self) -> None: ...

    def remove_files(self) -> None: ...


def require_clone(found: Neighbour, source: str, marks: t.Mapping[str, Mark | None]) -> Mark:
    """What the clone says of itself. Raises DiskError where this module did not make it as a clone of *source*, or as
    one of such a clone that is listed, too: those have *marks*, by their UUIDs."""
    mark, name = found.looks.mark, found.looks.name
    if mark is None:
        raise DiskError(
            f"{name}: nothing in its definition says that this module made it: asked to remove it: it was left alone: "
            "remove it with virsh undefine, and its images by hand"
        )
    if not _descends(mark, source, marks):
        raise DiskError(f"{name}: is a clone of {mark.source}, asked to remove one of {source}: it was left alone")
    return mark


def made_for(found: Neighbour, mark: Mark) -> list[str]:
    """The files that were made for the clone."""
    nvram = [mark.nvram] if mark.nvram and mark.nvram == found.looks.nvram else []
    return [*(disk.path for disk in mark.disks), *nvram]


def removal(found: Neighbour, mark: Mark, files: Files) -> Removal:
    """What goes and what stays. Raises UnsafeImage where a file of the clone is one that clones have in common."""
    bases, same = tuple(disk.base for disk in mark.disks), files.names.same
    going = []
    for path in made_for(found, mark):
        if any(same(path, base) for base in bases):
            raise UnsafeImage(
                f"{found.looks.name}: its image {path} is the one that it was made from: left alone", path=path
            )
        if path not in files.there:
            continue
        if path not in files.regular:
            raise UnsafeImage(f"{found.looks.name}: {path} is no longer a regular file: left alone", path=path)
        going.append(path)
    targets = {disk.target for disk in mark.disks}
    kept = [
        disk.path
        for disk in found.disks
        if disk.target in targets and not any(same(disk.path, one.path) for one in mark.disks)
    ]
    looks = found.looks
    return Removal(looks.name, looks.uuid, tuple(going), tuple(kept), bases, stop=found.active)


def require_stoppable(found: Neighbour, force: bool) -> None:
    """Raises ImageInUse where the clone runs, and the task does not say that it may be cut off."""
    if found.active and not force:
        raise ImageInUse(
            f"{found.looks.name}: runs: asked to remove it: shut it down first, or set force=true to pull its plug",
            in_use_by=[{"domain": found.looks.name, "uuid": found.looks.uuid, "running": True}],
        )


def steps(plan: Removal, work: Work) -> tuple[Step, ...]:
    """The steps that remove a clone, in order."""
    found = [Step("", work.note)]
    if plan.stop:
        found.append(Step(f"pull the plug of {plan.name}", work.stop))
    found.append(Step(f"undefine {plan.name}", work.undefine, work.define_again, commits=True))
    if plan.files:
        found.append(Step(f"remove {', '.join(plan.files)}", work.remove_files))
    return tuple(found)


def clearing(left: t.Sequence[str], clear: t.Callable[[], None]) -> tuple[Step, ...]:
    """The steps that *clear* the paths on which runs died, of whose clones no domain is there."""
    if not left:
        return ()
    said = f"remove what an interrupted run left of {', '.join(left)}"
    return (Step(said, lambda: None), Step("", clear))


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
