# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The decision which disks of a domain are to be converted, and to where. Pure."""

from __future__ import annotations

import itertools
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass, replace

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainDisk, DomainState
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert.wish import ConvertWish
    from ansible_collections.kvmops.disk.plugins.module_utils._xml.disks import ChainLink, DiskElement
    from ansible_collections.kvmops.disk.plugins.module_utils._xml.records import RecordedDisk


@dataclass(frozen=True)
class Conversion:
    """One disk that is to be converted; *backing* is the backing file that the new image is to have, if any.

    The size of the new image is rounded up to a multiple of *step* bytes.
    """

    disk: DomainDisk
    source: str
    dest: str
    backing: ChainLink | None = None
    step: int = 1

    @property
    def target(self) -> str:
        return self.disk.target

    @property
    def source_format(self) -> str:
        return self.disk.format


def select(state: DomainState, wish: ConvertWish) -> tuple[list[DomainDisk], list[Conversion]]:
    """The disks that the task means, and those of them that are not yet as it wants.

    A disk may be named by the source that it had before its conversion: the domain then has the destination instead.
    Raises InvalidRequest for a disk that the domain does not have.
    """
    meant: list[DomainDisk] = []
    for wanted in wish.disks:
        disk = state.disk(wanted) or _converted_from(state, wish, wanted)
        if disk is None:
            raise state.no_such_disk(wanted)
        if disk not in meant:
            meant.append(disk)
    return meant, [_conversion(disk, wish) for disk in meant if not _is_granted(disk, wish)]


def renamed(
    conversions: t.Sequence[Conversion], wish: ConvertWish, is_taken: t.Callable[[str, Conversion], bool]
) -> list[Conversion]:
    """*conversions*, of which those get the next name that is free which would become their own source, or what another
    one is. A name that the task gives is left as it is.

    *is_taken*: whether something stands at a path that is not what a dead run has left of this conversion.
    """
    found: list[Conversion] = []
    for item in conversions:
        if wish.dest is None:
            used = {known.source for known in conversions} | {known.dest for known in found}
            names = (wish.numbered(item.source, number) for number in itertools.count(1))
            free = (name for name in names if name not in used and not is_taken(name, item))
            item = replace(item, dest=next(free)) if item.dest in used else item
        found.append(item)
    return found


def without_pivoted(
    conversions: t.Sequence[Conversion], pivoted: t.Iterable[RecordedDisk], wish: ConvertWish
) -> list[Conversion]:
    """The conversions that are still to be made, where guests are on the images of *pivoted* already."""
    there = {disk.target for disk in pivoted if wish.is_granted(disk.dest, disk.format)}
    return [item for item in conversions if item.target not in there]


def _converted_from(state: DomainState, wish: ConvertWish, wanted: str) -> DomainDisk | None:
    if not wanted.startswith("/"):
        return None
    made = (disk for disk in state.disks if disk.path is not None and _is_made_of(wanted, disk.path, wish))
    return next((disk for disk in made if _is_granted(disk, wish)), None)


def _is_made_of(source: str, path: str, wish: ConvertWish) -> bool:
    """Whether the image at *path* has a name that a conversion of *source* gives."""
    return path == wish.destination(source) or wish.is_numbered(source, path)


def _is_granted(disk: DomainDisk, wish: ConvertWish) -> bool:
    """Both what runs and what is defined are as wanted."""
    known: list[DiskElement] = [element for element in (disk.live, disk.defined) if element is not None]
    return disk.path is not None and all(
        wish.is_granted(disk.path if element is disk.element else element.source or "", element.format)
        for element in known
    )


def _conversion(disk: DomainDisk, wish: ConvertWish) -> Conversion:
    return Conversion(disk, disk.path or "", wish.destination(disk.path) if disk.path else "")
