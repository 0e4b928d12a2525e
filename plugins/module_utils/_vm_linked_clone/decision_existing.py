# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The other domains, looked at once for all clones: which clones are there, and who has what a new one wants."""

from __future__ import annotations

import os
import typing as t
from dataclasses import dataclass
from functools import cached_property

from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError
from ansible_collections.kvmops.disk.plugins.module_utils._image import image as _image
from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg
from ansible_collections.kvmops.disk.plugins.module_utils._usage.users import is_same_file
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_source import Source, SourceDisk
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.wish import (
    FULL,
    LINKED,
    REFLINK,
    CloneSpec,
    CloneWish,
)
from ansible_collections.kvmops.disk.plugins.module_utils._xml import document as _document
from ansible_collections.kvmops.disk.plugins.module_utils._xml.identity import Looks


@dataclass(frozen=True)
class NeighbourDisk:
    """A disk of a domain: the file that it means, and the format as which it is read."""

    target: str
    path: str
    format: str

    @cached_property
    def chain(self) -> tuple[str, ...]:
        """The backing files of its image, as the headers have them; looked at once."""
        return tuple(path for path, _format in _image.Links().of(self.path, self.format))


@dataclass(frozen=True)
class Neighbour:
    """A domain as its definition has it; *macs* are also those that it has only while it runs."""

    looks: Looks
    macs: frozenset[str]
    active: bool
    disks: tuple[NeighbourDisk, ...]
    xml: str

    def disk(self, target: str) -> NeighbourDisk | None:
        return next((disk for disk in self.disks if disk.target == target), None)


def differences(spec: CloneSpec, wish: CloneWish, source: Source, found: Neighbour, qemu_img: QemuImg) -> list[str]:
    """What a domain has otherwise than the clone that is asked for."""
    return [
        *_other_origin(wish, source, found),
        *_other_numbers(spec, found),
        *_other_sizes(spec, found, qemu_img),
        *_other_metadata(spec, found),
    ]


class Taken:
    """What other domains have that a clone must have for itself, by who has it: any number of questions, one look."""

    def __init__(self, neighbours: t.Iterable[Neighbour]) -> None:
        self._uuids: dict[str, str] = {}
        self._macs: dict[str, str] = {}
        self._files: dict[str, str] = {}
        for other in neighbours:
            name = other.looks.name
            self._uuids[other.looks.uuid] = name
            self._macs.update(dict.fromkeys(other.macs, name))
            own = [*(disk.path for disk in other.disks), *([other.looks.nvram] if other.looks.nvram else [])]
            self._files.update((os.path.realpath(path), name) for path in own)

    def require_free(self, spec: CloneSpec, macs: t.Iterable[str], paths: t.Iterable[str]) -> None:
        """Raises DiskError where another domain has something that is to be the new clone's."""
        if spec.uuid in self._uuids:
            raise DiskError(
                f"{spec.name}: uuid: {spec.uuid} is that of the domain {self._uuids[spec.uuid]}: choose another"
            )
        for mac in macs:
            if mac in self._macs:
                given = (
                    "choose another" if mac in spec.macs else ("it is derived from the name: give another one with mac")
                )
                raise DiskError(f"{spec.name}: mac: {mac} is that of the domain {self._macs[mac]}: {given}", mac=mac)
            self._macs[mac] = spec.name
        for path in paths:
            owner = self._files.get(os.path.realpath(path))
            if owner is not None:
                raise DiskError(
                    f"{spec.name}: {path} is a disk of the domain {owner} already: choose another name or disk_dir",
                    path=path,
                )


def overlay_over(found: Neighbour, base: SourceDisk) -> str | None:
    """The image of the clone that reads *base* itself; None where none does."""
    disk = found.disk(base.target)
    if disk is None:
        return None
    above = disk.path
    for path in disk.chain:
        if is_same_file(path, base.path):
            return above
        above = path
    return None


def first_backing(disk: NeighbourDisk) -> str | None:
    """The backing file of a disk's image, as its header has it."""
    return disk.chain[0] if disk.chain else None


def _other_origin(wish: CloneWish, source: Source, found: Neighbour) -> list[str]:
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


def _other_base(disk: SourceDisk, found: Neighbour) -> list[str]:
    """What is wrong with the disk of a linked clone: its base has to be somewhere below its image."""
    has = found.disk(disk.target)
    if has is None:
        return [f"it has no disk {disk.target}"]
    if not os.path.exists(has.path):
        return [f"{disk.target}: its image {has.path} is missing"]
    if overlay_over(found, disk) is not None:
        return []
    return [f"{disk.target} ({has.path}) reads {' -> '.join(has.chain) or 'no backing file'}, asked for {disk.path}"]


def _other_numbers(spec: CloneSpec, found: Neighbour) -> list[str]:
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


def _other_sizes(spec: CloneSpec, found: Neighbour, qemu_img: QemuImg) -> list[str]:
    said = []
    for target, size in spec.sizes.items():
        disk = found.disk(target)
        if disk is not None and os.path.exists(disk.path):
            has = _image.inspect(qemu_img, disk.path, disk.format, by_header=True).virtual_size
            if has < size:
                said.append(f"{target} has {has} bytes, asked for {size} (kvmops.disk.vm_disk_resize grows it)")
    return said


def _other_metadata(spec: CloneSpec, found: Neighbour) -> list[str]:
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
