# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The decision which disks give something back, and the order of what is done for that. Pure."""

from __future__ import annotations

import typing as t
from functools import partial

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._domain import ready as _ready
from ansible_collections.kvmops.disk.plugins.module_utils._image import anew as _anew
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan, Step
from ansible_collections.kvmops.disk.plugins.module_utils._size import exact_size

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainDisk, DomainState
    from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_reclaim.wish import ReclaimWish

#: Why a disk is left alone.
THICK, TOO_LITTLE = "thick", "min_gain"


@dataclass(frozen=True)
class Reclaiming:
    """One disk with its images, its own first. *most* is what its image occupies afterwards at most; None where nobody
    knows that, or where nobody looked."""

    disk: DomainDisk
    images: tuple[Image, ...]
    most: int | None = None

    @property
    def target(self) -> str:
        return self.disk.target

    @property
    def image(self) -> Image:
        return self.images[0]

    @property
    def path(self) -> str:
        return self.image.path

    @property
    def foretold(self) -> int | None:
        """The bytes that it gives back at least; None where nobody knows."""
        return None if self.most is None else _anew.at_least(self.image, self.most)


class GuestFileSystem(t.Protocol):
    """A file system as a guest tells of it: the bytes used, those that may be used in all, None where it does not tell,
    the targets of its disks."""

    @property
    def used(self) -> int | None: ...

    @property
    def total(self) -> int | None: ...

    @property
    def disks(self) -> tuple[str, ...]: ...


class Work(t.Protocol):
    """Who does it."""

    def trim(self, items: t.Sequence[Reclaiming]) -> None: ...

    def stage(self, item: Reclaiming) -> None: ...

    def withdraw(self, item: Reclaiming) -> None: ...

    def exchange(self, items: t.Sequence[Reclaiming]) -> None: ...

    def finish(self, items: t.Sequence[Reclaiming]) -> None: ...


def select(state: DomainState, wish: ReclaimWish) -> list[DomainDisk]:
    """The disks that the task means, each once.

    Raises InvalidRequest for one that the domain does not have, DiskError for one that is none that may give something
    back.
    """
    meant: list[DomainDisk] = []
    for wanted in wish.disks:
        disk = state.disk(wanted)
        if disk is None:
            raise state.no_such_disk(wanted)
        _ready.require_plain_disk(state, disk, "reclaim")
        if disk not in meant:
            meant.append(disk)
    return meant


def why_left_alone(item: Reclaiming, wish: ReclaimWish) -> str | None:
    """Why nothing is done for the disk; None where something is."""
    if item.image.is_thick and not wish.thick:
        return THICK
    return TOO_LITTLE if item.foretold is not None and not is_worth(item.foretold, item.image, wish) else None


def is_worth(gain: int, image: Image, wish: ReclaimWish) -> bool:
    """Whether so many bytes are worth the work."""
    return gain >= wish.min_gain.bytes_of(image.actual_size)


def most_after_trim(item: Reclaiming, systems: t.Sequence[GuestFileSystem]) -> int | None:
    """What the image occupies at most once its guest has trimmed its file *systems*; None where nobody knows.

    What of the disk is no space of such a file system counts as full: the tables of it, a swap, what is not mounted.
    """
    on_it = [system for system in systems if system.disks == (item.target,)]
    if not on_it or any(item.target in system.disks for system in systems if system not in on_it):
        return None
    total, used = 0, 0
    for system in on_it:
        if system.total is None or system.used is None:
            return None
        total, used = total + system.total, used + system.used
    tables = max(0, item.image.actual_size - item.image.virtual_size)
    return used + max(0, item.image.virtual_size - total) + tables


def live_steps(state: DomainState, items: t.Sequence[Reclaiming], work: Work) -> tuple[Step, ...]:
    """The step of a running guest: one call trims all that it has mounted."""
    targets = ", ".join(item.target for item in items)
    return (
        Step(f"trim the file systems of {state.name} through its guest agent ({targets})", lambda: work.trim(items)),
    )


def offline_steps(state: DomainState, items: t.Sequence[Reclaiming], work: Work) -> tuple[Step, ...]:
    """The steps, in order: make each new file, put all in place, let the old ones go."""
    found = [
        Step(
            f"rewrite {item.path} ({item.target}) of {state.name}",
            partial(work.stage, item),
            partial(work.withdraw, item),
        )
        for item in items
    ]
    names = ", ".join(item.path for item in items)
    found.append(Step(f"put the new {names} in place of the old", partial(work.exchange, items), commits=True))
    found.append(Step("", partial(work.finish, items)))
    return tuple(found)


def plan(items: t.Sequence[Reclaiming], steps: tuple[Step, ...]) -> Plan:
    """The plan of *steps*, with what the images occupy before and afterwards."""
    return Plan(
        before={item.target: {"actual_size": exact_size(item.image.actual_size)} for item in items},
        after={item.target: {"actual_size": _afterwards(item)} for item in items},
        steps=steps,
    )


def _afterwards(item: Reclaiming) -> str:
    return "not known before" if item.most is None else f"at most {exact_size(item.most)}"
