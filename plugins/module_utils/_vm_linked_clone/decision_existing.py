# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The other domains: which of them are clones that are asked for, and what differs in those that are not. Pure."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.wish import (
    FULL,
    LINKED,
    REFLINK,
    CloneSpec,
    CloneWish,
)
from ansible_collections.kvmops.disk.plugins.module_utils._xml import document as _document

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_seed import Seed
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_source import Source, SourceDisk
    from ansible_collections.kvmops.disk.plugins.module_utils._xml.identity import Looks


@dataclass(frozen=True)
class NeighbourDisk:
    """A disk of a domain: the file that it means, and the format as which it is read."""

    target: str
    path: str
    format: str


@dataclass(frozen=True)
class Neighbour:
    """A domain as its definition has it; *macs* are also those that it has only while it runs."""

    looks: Looks
    macs: frozenset[str]
    active: bool
    disks: tuple[NeighbourDisk, ...]
    xml: str


@dataclass(frozen=True)
class ExistingDisk:
    """A disk of a domain that has the name of a clone: whether its image is *there*, and the backing files in *chain*,
    upper first. *over*: the image among these that reads the source's image itself, None where none does. *size* in
    bytes, None where the task asks for none."""

    target: str
    path: str
    format: str
    there: bool
    chain: tuple[str, ...] = ()
    over: str | None = None
    size: int | None = None


@dataclass(frozen=True)
class Existing:
    """A domain that has the name of a clone, with those of its *disks* that the source has, too, or that have a size to
    be. *seed* is the file that it is to have in a drive of its own."""

    looks: Looks
    active: bool
    xml: str
    disks: tuple[ExistingDisk, ...]
    seed: Seed | None = None

    def disk(self, target: str) -> ExistingDisk | None:
        return next((disk for disk in self.disks if disk.target == target), None)


def require_right(spec: CloneSpec, wish: CloneWish, source: Source, found: Existing) -> None:
    """Raises DiskError where the domain with the name of the clone is not the clone that is asked for."""
    said = differences(spec, wish, source, found)
    if said:
        raise DiskError(
            f"{spec.name}: a domain of this name exists, and it is not the wanted clone: {'; '.join(said)}: it was "
            "left alone: choose another name, or remove it (state=absent for a clone that this module made)",
            differences=said,
        )


def differences(spec: CloneSpec, wish: CloneWish, source: Source, found: Existing) -> list[str]:
    """What a domain has otherwise than the clone that is asked for."""
    return [
        *_other_origin(wish, source, found),
        *_other_numbers(spec, found),
        *_other_sizes(spec, found),
        *_other_metadata(spec, found),
    ]


def _other_origin(wish: CloneWish, source: Source, found: Existing) -> list[str]:
    if wish.mode == LINKED:
        return [said for disk in source.disks for said in _other_base(disk, found)]
    modes = {wish.mode, wish.fallback} if wish.mode == REFLINK else {FULL}
    mark = found.looks.mark
    if mark is None:
        return [f"nothing in it says that it is a copy of {source.state.name}"]
    said = []
    if source.state.uuid != mark.source_uuid and source.state.name != mark.source:
        said.append(f"it is a clone of {mark.source}, asked for one of {source.state.name}")
    if mark.mode not in modes:
        said.append(f"it is a {mark.mode} clone, asked for a {wish.mode} one")
    missing = [disk.target for disk in source.disks if found.disk(disk.target) is None]
    return said + [f"it has no disk {target}" for target in missing]


def _other_base(disk: SourceDisk, found: Existing) -> list[str]:
    """What is wrong with the disk of a linked clone: its base has to be somewhere below its image."""
    has = found.disk(disk.target)
    if has is None:
        return [f"it has no disk {disk.target}"]
    if not has.there:
        return [f"{disk.target}: its image {has.path} is missing"]
    if has.over is not None:
        return []
    return [f"{disk.target} ({has.path}) reads {' -> '.join(has.chain) or 'no backing file'}, asked for {disk.path}"]


def _other_numbers(spec: CloneSpec, found: Existing) -> list[str]:
    looks = found.looks
    pairs: list[tuple[str, t.Any, t.Any]] = [
        ("uuid", looks.uuid, spec.uuid),
        ("memory", looks.memory, spec.memory),
        ("vcpus", looks.vcpus, spec.vcpus),
        ("description", looks.description, spec.description),
    ]
    for number, mac in enumerate(spec.macs):
        pairs.append((f"mac of interface {number}", looks.macs[number] if number < len(looks.macs) else None, mac))
    return [f"{what} is {has}, asked for {asked}" for what, has, asked in pairs if asked is not None and has != asked]


def _other_sizes(spec: CloneSpec, found: Existing) -> list[str]:
    said = []
    for target, size in spec.sizes.items():
        disk = found.disk(target)
        if disk is not None and disk.size is not None and disk.size < size:
            said.append(f"{target} has {disk.size} bytes, asked for {size} (kvmops.disk.vm_disk_resize grows it)")
    return said


def _other_metadata(spec: CloneSpec, found: Existing) -> list[str]:
    if spec.metadata is None:
        return []
    metadata = _document.parse(found.xml).find("./metadata")
    has = {_document.namespace(node): node for node in (metadata if metadata is not None else ())}
    wanted = {_document.namespace(node): node for node in _document.fragment(spec.metadata, "metadata")}
    return [
        f"metadata of {name} differs"
        for name, node in wanted.items()
        if name not in has or not _document.alike(has[name], node)
    ]
