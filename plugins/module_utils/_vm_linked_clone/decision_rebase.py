# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The decision to move a linked clone to another base: what of it changes, and what stands in the way. Pure.

What differs between the bases, and the clone does not have in its own image, is copied into that. So the image is right
over both of them, and whoever is killed between the image and the definition leaves a clone whose guest sees the same.
"""

from __future__ import annotations

import typing as t
from functools import partial

from ansible_collections.kvmops.disk.plugins.module_utils._content import rebase as _rebase
from ansible_collections.kvmops.disk.plugins.module_utils._content import rebase_wish as _rebase_wish
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass, replace
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, ImageInUse, InvalidRequest
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Step
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.wish import LINKED
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disk_changes as _disk_changes
from ansible_collections.kvmops.disk.plugins.module_utils._xml import document as _document
from ansible_collections.kvmops.disk.plugins.module_utils._xml import identity as _identity

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainDisk, DomainState
    from ansible_collections.kvmops.disk.plugins.module_utils._files.names import Names
    from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_source import Source, SourceDisk
    from ansible_collections.kvmops.disk.plugins.module_utils._xml.identity import Mark, MarkedDisk


@dataclass(frozen=True)
class Move:
    """The disk of a clone whose image is to read *base*; *rebase* is None where it does so already.

    *before* is the base that it was made from.
    """

    disk: DomainDisk
    base: SourceDisk
    before: str
    rebase: _rebase.Rebase | None

    @property
    def path(self) -> str:
        return t.cast(str, self.disk.path)


class Work(t.Protocol):
    """What is done to the world when a clone gets another base."""

    def clear(self, path: str) -> None: ...

    def rebase(self, one: Move) -> t.Sequence[Step]: ...

    def define(self) -> None: ...


def require_clone(state: DomainState, mark: Mark | None, sources: t.Collection[str]) -> Mark:
    """What the clone says of itself. Raises DiskError where it is no linked clone of one of *sources*."""
    if mark is None or mark.mode != LINKED:
        what = "nothing in its definition says that it is a clone" if mark is None else f"it is a {mark.mode} clone"
        raise DiskError(
            f"{state.name}: {what}: asked to give it another base: only linked clones that "
            "kvmops.disk.vm_linked_clone made have one"
        )
    if not {mark.source, mark.source_uuid} & {*sources}:
        raise DiskError(
            f"{state.name}: is a clone of {mark.source}, asked to move clones of {', '.join(sorted(sources))}: it was "
            "left alone: name its source"
        )
    return mark


def base_of(state: DomainState, marked: MarkedDisk, target: Source, names: Names) -> tuple[DomainDisk, SourceDisk]:
    """The disk of the clone that *marked* tells of, and the one of *target* that is to be its base.

    *names* are those that the two have. Raises DiskError where it cannot be moved.
    """
    what = f"{state.name}: {marked.target}"
    disk = state.disk(marked.target)
    if disk is None or not names.same(disk.path, marked.path):
        raise DiskError(
            f"{what}: is {disk.path if disk else 'gone'}, and was made as {marked.path}: asked to give that another "
            "base: the clone was changed since, and is left alone"
        )
    base = next((one for one in target.disks if one.target == marked.target), None)
    if base is None:
        raise DiskError(f"{what}: {target.state.name} has no disk of that name, which could be its base")
    if any(base.block):
        raise InvalidRequest(f"{what}: {base.path} or what it reads is a block device, on which nothing is moved")
    return disk, base


def move(name: str, disk: DomainDisk, base: SourceDisk, before: str, images: t.Sequence[Image], names: Names) -> Move:
    """What becomes of a disk of the clone *name*, which was made from *before*; *images* are its own, top first, and
    *names* all that these and it have. Raises DiskError where it cannot be moved."""
    what, image = f"{name}: {disk.target}", images[0]
    if names.same(image.backing_file, base.path):
        _require_expected_chain(what, disk, (base.path, before), names)
        return Move(disk, base, before, None)
    found = _rebase.Rebase(image, base.images, tuple(images[1:]))
    if image.virtual_size < base.size:
        raise InvalidRequest(
            f"{what}: has {image.virtual_size} bytes, and the new base {base.path} has {base.size}: grow the disk "
            "first (kvmops.disk.vm_disk_resize)",
            virtual_size=image.virtual_size,
        )
    _rebase.require_possible(_rebase_wish.RebaseWish(base.path, base.format, trusted=True), found)
    return Move(disk, base, before, found)


def require_at_rest(state: DomainState) -> None:
    """Raises DiskError where the disks of the clone cannot be replaced."""
    if state.active:
        raise ImageInUse(
            f"{state.name}: is {state.state}: asked to give it another base: shut it down first",
            in_use_by=[{"domain": state.name, "uuid": state.uuid, "running": True}],
        )
    if state.managed_save:
        raise DiskError(
            f"{state.name}: has a managed-save image, which resumes on its disks as they are: start the domain and "
            "shut it down, or drop the image with virsh managedsave-remove, first"
        )
    if state.snapshots or state.checkpoints:
        names = [*state.snapshots, *state.checkpoints]
        raise DiskError(
            f"{state.name}: has snapshots or checkpoints ({', '.join(names)}), whose records name the old base: delete "
            "them first",
            snapshots=list(state.snapshots),
        )
    if state.record is not None:
        raise DiskError(
            f"{state.name}: a run ({state.record.verb}) was interrupted on it, or is at work: run that again first"
        )


def definition(state: DomainState, mark: Mark, moves: t.Sequence[Move], target: Source) -> str:
    """The domain's XML that names the new base, and the domain that it is a clone of now; the same text if it does."""
    xml = state.definition
    bases = {}
    for one in moves:
        xml = _disk_changes.with_chain(xml, one.disk.target, one.base.chain(LINKED))
        bases[one.disk.target] = one.base.path
    disks = tuple(replace(disk, base=bases.get(disk.target, disk.base)) for disk in mark.disks)
    new = replace(mark, source=target.state.name, source_uuid=target.state.uuid, disks=disks)
    domain = _document.parse(xml)
    _identity.set_mark(domain, new)
    wanted = _document.text(domain)
    return wanted if _disk_changes.unexpected_difference(wanted, state.definition) else state.definition


def steps(
    name: str, moves: t.Sequence[Move], left: t.Iterable[str], source: str | None, work: Work
) -> tuple[Step, ...]:
    """The steps: first what a dead run *left* of images goes, then each gets its base, then the definition names it.

    *source* is what the clone *name* becomes a clone of, None where its definition says that already.
    """
    found = [Step(f"remove what an interrupted run left of {path}", partial(work.clear, path)) for path in left]
    for one in moves:
        if one.rebase is not None:
            found += work.rebase(one)
    if source is not None:
        found.append(Step(f"define {name} as a clone of {source}", work.define))
    return tuple(found)


def _require_expected_chain(what: str, disk: DomainDisk, bases: t.Collection[str], names: Names) -> None:
    """Raises DiskError where the definition has the guest see something else than what the image reads: that is the new
    base, over which it is the same as over the old one."""
    named = disk.chain[0].path if disk.chain else None
    if named is not None and not any(names.same(named, base) for base in bases):
        raise DiskError(
            f"{what}: the definition says that {disk.path} reads {named}, expected {' or '.join(bases)}: bring the two "
            "together first"
        )
