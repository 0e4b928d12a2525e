# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is true of the source of clones, and of the place where they are to lie: looked at once for all of them."""

from __future__ import annotations

import os
import stat
import typing as t
from dataclasses import dataclass, field

from ansible_collections.kvmops.disk.plugins.module_utils._capacity import space as _space
from ansible_collections.kvmops.disk.plugins.module_utils._domain import disk_chain as _disk_chain
from ansible_collections.kvmops.disk.plugins.module_utils._domain import domain as _domain
from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainDisk, DomainState
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, InvalidRequest
from ansible_collections.kvmops.disk.plugins.module_utils._files import base_note as _base_note
from ansible_collections.kvmops.disk.plugins.module_utils._files import lock as _lock
from ansible_collections.kvmops.disk.plugins.module_utils._files import staging as _staging
from ansible_collections.kvmops.disk.plugins.module_utils._host import access as _access
from ansible_collections.kvmops.disk.plugins.module_utils._host.file_copy import can_reflink
from ansible_collections.kvmops.disk.plugins.module_utils._image import image as _image
from ansible_collections.kvmops.disk.plugins.module_utils._image.creation import bytes_needed
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.binding import is_missing_domain
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.connection import Hypervisor
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.domain import Domain
from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg
from ansible_collections.kvmops.disk.plugins.module_utils._usage.users import source_path
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import decision_source as _decision_source
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_blueprint import (
    MAKE,
    REMOVE,
    overlay_bytes,
)
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_existing import (
    Neighbour,
    NeighbourDisk,
    differences,
)
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_source import Source, SourceDisk
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.wish import (
    LINKED,
    REFLINK,
    CloneSpec,
    CloneWish,
)
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disks as _disks
from ansible_collections.kvmops.disk.plugins.module_utils._xml import document as _document
from ansible_collections.kvmops.disk.plugins.module_utils._xml import identity as _identity


@dataclass(frozen=True)
class Left:
    """A path on which a run died that made, or removed, a clone; *there*: a file of it is there. *bases*: the noted
    bases that the run had to do with."""

    path: str
    there: bool = False
    bases: tuple[str, ...] = ()


def look_at_source(hypervisor: Hypervisor, qemu_img: QemuImg, wish: CloneWish) -> Source:
    """The domain that is cloned. Raises DiskError where it cannot be."""
    state = _domain.observe(hypervisor, hypervisor.domain(wish.source))
    _decision_source.require_clonable(state, wish)
    disks = tuple(_disk(state, disk, qemu_img, wish.trusted) for disk in _decision_source.own_disks(state, wish))
    return Source(state, _identity.looks(state.definition), disks)


def _disk(state: DomainState, disk: DomainDisk, qemu_img: QemuImg, trusted: bool) -> SourceDisk:
    path = t.cast(str, disk.path)
    _image.require_format(path, disk.format)
    image = _image.inspect(qemu_img, path, disk.format, by_header=True)
    images = _disk_chain.followed(qemu_img, state, disk, image, trusted=trusted)
    block = tuple(stat.S_ISBLK(os.stat(one.path).st_mode) for one in images)
    element = _disks.find_disk(_document.parse(state.definition), disk.target)
    note = None if block[0] else _base_note.look(path)
    mode = stat.S_IMODE(os.stat(path).st_mode) if note is None or note.mode is None else note.mode
    return SourceDisk(disk.target, images, block, mode, element.find("wwn") is not None)


def place(source: Source, wish: CloneWish) -> str:
    """The directory of the new images. Raises InvalidRequest where the source's own has no room for files."""
    if wish.disk_dir is not None:
        return wish.disk_dir
    first = source.disks[0]
    if first.block[0]:
        raise InvalidRequest(
            f"disk_dir: {first.target} of {source.state.name} is the block device {first.path}, beside which no images "
            "can lie: give a directory"
        )
    return os.path.dirname(first.path)


def require_place(directory: str, user: t.Callable[[], tuple[int, int] | None]) -> None:
    """Raises InvalidRequest where *directory* is none, cannot be written to, or QEMU's *user* cannot get to it."""
    if not os.path.isdir(directory):
        raise InvalidRequest(f"disk_dir: {directory} is not a directory: create it first", path=directory)
    if not os.access(directory, os.W_OK | os.X_OK):
        raise InvalidRequest(f"disk_dir: no permission to write in {directory}", path=directory)
    _access.require(directory, user, "disk_dir")


def effective_mode(source: Source, wish: CloneWish, directory: str) -> str:
    """How the clones are made: as asked for, or as the task wants it where the file system knows no reflinks."""
    if wish.mode != REFLINK:
        return wish.mode
    unable = [disk.path for disk in source.disks if disk.block[0] or not can_reflink(disk.path, directory)]
    if not unable:
        return REFLINK
    if wish.fallback is not None:
        return wish.fallback
    raise DiskError(
        f"{', '.join(unable)}: cannot be reflinked into {directory}: both have to lie on one file system that knows "
        "reflinks (XFS, Btrfs and the like): choose another disk_dir, or give fallback, another way to make the "
        "clones",
        path=unable[0],
    )


@dataclass
class Room:
    """What the file system of the new images still has for each further clone, in the order of the list."""

    qemu_img: QemuImg
    wish: CloneWish
    mode: str
    directory: str
    ratio: float | None
    promises: t.Callable[[], _space.FileSystem]
    _available: int | None = None
    _system: _space.FileSystem | None = None
    _taken: list[_space.NewImage] = field(default_factory=list)
    _measured: dict[str, int] = field(default_factory=dict)

    def take(self, images: t.Sequence[tuple[SourceDisk, str, int]]) -> None:
        """Counts *images*, each with its path and its size, of a clone. Raises NotEnoughSpace where they do not fit."""
        if self._available is None:
            self._available = _space.available_bytes(self.directory)
        needed = sum(self._needed(disk, size) for disk, _path, size in images)
        _space.require_bytes([path for _disk_of, path, _size in images], needed, self._available)
        if self.ratio is not None:
            self._system = self._system or self.promises()
            new = [_space.NewImage(path, size) for _disk_of, path, size in images]
            self._system.require_room([*self._taken, *new], self.ratio)
            self._taken += new
        self._available -= needed

    def _needed(self, disk: SourceDisk, size: int) -> int:
        if self.mode == LINKED:
            return overlay_bytes(size, self.wish.cluster_size)
        if self.mode == REFLINK:
            return 0
        if disk.path not in self._measured:
            self._measured[disk.path] = self.qemu_img.measure(disk.path, disk.format, "qcow2", {}).required
        return bytes_needed(self.wish.layout(disk.format), size, self._measured[disk.path])


def left_behind(directories: t.Iterable[str], names: t.Container[str]) -> dict[str, list[Left]]:
    """The files on which runs died that made or removed the clones of *names*, by these names."""
    found: dict[str, list[Left]] = {}
    for directory in sorted(set(directories)):
        for record in _lock.look_in(directory):
            name, path = record.get("item"), record.get("path")
            if not record["alive"] and record.get("verb") in (MAKE, REMOVE) and name in names and path:
                there = os.path.lexists(path) or _staging.left_over(path)
                found.setdefault(str(name), []).append(Left(path, there, tuple(_lock.noted_bases(record))))
    return found


def look_around(hypervisor: Hypervisor) -> list[Neighbour]:
    """All domains that libvirt knows, each asked once."""
    found = []
    for domain in hypervisor.domains():
        try:
            found.append(look_at(hypervisor, domain))
        except DiskError as error:
            if not is_missing_domain(error):
                raise
    return found


def look_at(hypervisor: Hypervisor, domain: Domain) -> Neighbour:
    """One domain. Raises LibvirtFailed where it is gone."""
    active = domain.run_number() is not None
    xml = domain.xml(inactive=True)
    found = _identity.looks(xml)
    live = _identity.looks(domain.xml(inactive=False)).macs if active else ()
    disks = []
    for element in _disks.disks(xml):
        path = source_path(element, hypervisor)
        if path:
            disks.append(NeighbourDisk(element.target, path, element.format))
    return Neighbour(found, frozenset([*found.macs, *live]), active, tuple(disks), xml)


def require_right(spec: CloneSpec, wish: CloneWish, source: Source, found: Neighbour, qemu_img: QemuImg) -> None:
    """Raises DiskError where the domain with the name of the clone is not the clone that is asked for."""
    said = differences(spec, wish, source, found, qemu_img)
    if said:
        raise DiskError(
            f"{spec.name}: a domain of this name exists, and it is not the wanted clone: {'; '.join(said)}: it was "
            "left alone: choose another name, or remove it (state=absent for a clone that this module made)",
            differences=said,
        )
