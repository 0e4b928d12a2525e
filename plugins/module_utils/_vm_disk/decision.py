# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The decision which disk of a domain a task means, or where a new one comes. Pure."""

from __future__ import annotations

import itertools
import string
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, InvalidRequest
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk.wish import PREFIXES

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainDisk, DomainState
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk.wish import DiskWish
    from ansible_collections.kvmops.disk.plugins.module_utils._xml.disks import DiskElement

#: The disks that an IDE controller of a machine takes.
_IDE_DISKS = 4


@dataclass(frozen=True)
class Spot:
    """Where a disk is, or is to come. *found* is the disk of the domain; None for a new one. *path* is its image, None
    where it is not known, or where the drive is to be empty."""

    target: str
    bus: str
    device: str
    path: str | None
    format: str
    found: DomainDisk | None = None

    @property
    def is_drive(self) -> bool:
        return self.device != "disk"


@dataclass(frozen=True)
class Seen:
    """A domain as far as it matters to where a disk is: which of its disks has the image of the task, which targets
    other disks of the task come to, and whether the machine has PCIe."""

    state: DomainState
    path: str | None
    by_source: DomainDisk | None = None
    claimed: t.Collection[str] = ()
    pcie: bool = False


def locate(wish: DiskWish, seen: Seen) -> Spot:
    """The disk that the task means, or the place of a new one.

    Raises InvalidRequest where there is no such disk, DiskError where it is another than the task says.
    """
    found = _meant(wish, seen)
    if found is None:
        return _new(wish, seen)
    element = found.element
    _require_same_kind(wish, seen.state, found)
    path = seen.path if wish.names_source else found.path
    known = element.format if path == found.path or seen.by_source is found else None
    return Spot(
        target=found.target,
        bus=element.bus or "",
        device=element.device,
        path=path,
        format=wish.format or known or _usual_format(element.device),
        found=found,
    )


def leaving(wish: DiskWish, seen: Seen) -> DomainDisk | None:
    """The disk that is to go; None where the domain does not have it any more.

    Raises DiskError where the disk at that target has another source than the task says (HAZARDS L2).
    """
    if wish.disk is None:
        return seen.by_source
    found = _at(seen.state, wish.disk)
    if found is not None and wish.names_source and found is not seen.by_source:
        raise DiskError(
            f"{wish.name}: {wish.disk}: has {found.path or 'no medium'}, asked to detach {seen.path}: "
            "nothing was detached: correct disk, or the image",
            path=found.path,
        )
    if found is None and seen.by_source is not None:
        raise DiskError(
            f"{wish.name}: has {seen.path} as {seen.by_source.target}, asked to detach it as {wish.disk}: "
            "nothing was detached: correct disk, or leave it out",
            path=seen.path,
        )
    return found


def _meant(wish: DiskWish, seen: Seen) -> DomainDisk | None:
    by_source = seen.by_source
    if wish.disk is None:
        return by_source
    found = _at(seen.state, wish.disk)
    if by_source is not None and by_source is not found:
        raise DiskError(
            f"{wish.name}: has {seen.path} as {by_source.target} already, asked for {wish.disk}: name that disk, or "
            "detach it first",
            path=seen.path,
        )
    if found is None and not wish.names_source:
        raise seen.state.no_such_disk(wish.disk)
    if found is not None and wish.names_source and by_source is None and found.element.device == "disk":
        raise DiskError(
            f"{wish.name}: {wish.disk}: is taken by {found.path or found.element.type}, asked for {seen.path}: choose "
            "another target, or detach that disk first",
            path=found.path,
        )
    return found


def _new(wish: DiskWish, seen: Seen) -> Spot:
    device = wish.device or "disk"
    bus = wish.bus or _usual_bus(wish, device, pcie=seen.pcie)
    if not wish.names_source:
        raise InvalidRequest(
            f"{wish.name}: has no such disk, and the task names no image: give path, or pool and volume"
        )
    return Spot(
        target=wish.disk or _free_target(bus, seen),
        bus=bus,
        device=device,
        path=seen.path,
        format=wish.format or _usual_format(device),
    )


def _usual_bus(wish: DiskWish, device: str, *, pcie: bool) -> str:
    """By the letters of the target, or what a machine of that kind has for a device of this kind."""
    drives = "sata" if pcie else "ide"
    if wish.disk is not None:
        return {"vd": "virtio", "hd": "ide", "sd": "sata" if device == "cdrom" else "scsi"}[wish.disk[:2]]
    return drives if device == "cdrom" else "virtio"


def _usual_format(device: str) -> str:
    return "qcow2" if device == "disk" else "raw"


def _free_target(bus: str, seen: Seen) -> str:
    taken = {disk.target for disk in seen.state.disks} | {*seen.claimed}
    letters = string.ascii_lowercase
    endings: t.Iterator[str] = itertools.chain(letters, (one + other for one in letters for other in letters))
    if bus == "ide":
        endings = itertools.islice(endings, _IDE_DISKS)
    for ending in endings:
        target = PREFIXES[bus] + ending
        if target not in taken:
            return target
    raise DiskError(f"{seen.state.name}: has no free target on bus {bus}: choose another bus")


def _at(state: DomainState, target: str) -> DomainDisk | None:
    return next((disk for disk in state.disks if disk.target == target), None)


def _require_same_kind(wish: DiskWish, state: DomainState, found: DomainDisk) -> None:
    for name, asked in (("bus", wish.bus), ("device", wish.device)):
        known = getattr(found.element, name)
        if asked is not None and asked != known:
            raise DiskError(
                f"{state.name}: {found.target}: its {name} is {known}, asked for {asked}: a disk cannot change that: "
                "detach it first, or leave that out"
            )
    if wish.path == "" and found.element.device == "disk":
        raise InvalidRequest(f"path: {found.target} of {state.name} is a disk, and only a cdrom can be empty")
    drive = found.element.device != "disk"
    if wish.format is not None and not drive and wish.format != found.format:
        raise DiskError(
            f"{state.name}: {found.target}: the domain reads {found.path} as {found.format}, asked for {wish.format}: "
            "convert it (kvmops.disk.vm_disk_convert), or correct format",
            format=found.format,
        )


def difference_in_source(found: DomainDisk) -> tuple[DiskElement, DiskElement] | None:
    """What the guest has and what the definition says, where both have the disk with another source each."""
    live, defined = found.live, found.defined
    if live is None or defined is None:
        return None
    same = (live.source, live.pool, live.volume) == (defined.source, defined.pool, defined.volume)
    return None if same else (live, defined)
