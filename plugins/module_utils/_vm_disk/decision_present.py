# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The decision what is done to have a disk, as a task wants it. Pure."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._content.rebase_wish import is_wanted
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass, replace
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan, Step
from ansible_collections.kvmops.disk.plugins.module_utils._size import exact_size
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disk_changes as _disk_changes
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disk_definition as _disk_definition
from ansible_collections.kvmops.disk.plugins.module_utils._xml.machine import SCSI_UNITS
from ansible_collections.kvmops.disk.plugins.module_utils._xml.tuning import (
    PROPERTIES,
    Tuning,
    differences,
    limited,
    rates,
)

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainDisk, DomainState
    from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
    from ansible_collections.kvmops.disk.plugins.module_utils._provision.wish import ImageWish
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk.decision import Spot
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk.wish import DiskWish
    from ansible_collections.kvmops.disk.plugins.module_utils._xml.machine import Machine


@dataclass(frozen=True)
class Places:
    """Where something happens: in the running *machine*, in its *definition*, or in both."""

    machine: bool
    definition: bool

    def __bool__(self) -> bool:
        return self.machine or self.definition

    def __str__(self) -> str:
        if self.machine and self.definition:
            return " while it runs"
        return " in the running machine alone" if self.machine else " in its definition"


class Work(t.Protocol):
    """Who does it."""

    def add_controller(self, index: int, where: Places) -> None: ...

    def attach(self, disk: str, where: Places) -> None: ...

    def take_back(self) -> None: ...

    def tune(self, wanted: Tuning) -> None: ...

    def limit(self, limits: t.Mapping[str, int | str]) -> None: ...

    def change_medium(self, path: str | None, image_format: str, where: Places) -> None: ...

    def grow(self, before: int, after: int) -> None: ...


def require_matching(image: Image, wish: ImageWish) -> None:
    """Raises DiskError where an image that is there is to be another one: it grows, and nothing else."""
    if wish.size is not None and wish.size < image.virtual_size:
        raise DiskError(
            f"{image.path}: has {exact_size(image.virtual_size)}, asked for {exact_size(wish.size)}: a disk is not "
            "made smaller here: correct size, or shrink it with kvmops.disk.vm_disk_resize",
            virtual_size=image.virtual_size,
        )
    if is_wanted(wish.rebase_wish, image):
        raise DiskError(
            f"{image.path}: reads {image.backing_file or 'no backing file'}, asked for "
            f"{wish.backing_file or 'none'}: correct backing_file, or give it another one with "
            "kvmops.disk.qcow2_image or kvmops.disk.vm_disk_flatten",
            backing_file=image.backing_file,
        )


def missing_controller(spot: Spot, machine: Machine) -> int | None:
    """The number of the SCSI controller that the disk hangs on, where there is none yet."""
    if spot.bus != "scsi" or spot.found is not None:
        return None
    index = _number(spot.target) // SCSI_UNITS
    return None if index in machine.scsi_controllers else index


def new_disk(wish: DiskWish, spot: Spot) -> _disk_definition.NewDisk:
    """The disk that the domain does not have yet. A cdrom is read-only by nature."""
    return _disk_definition.NewDisk(
        spot.target, spot.bus, spot.device, spot.path or None, spot.format, wish.volume, wish.secret, wish.tuning
    )


def tuning_after(state: DomainState, wish: DiskWish, spot: Spot) -> Tuning:
    """How the domain will use the disk."""
    known = _known_tuning(state, spot.found) if spot.found is not None else None
    if known is None:
        return Tuning(**{name: getattr(wish.tuning, name) for name in PROPERTIES}, throttle=wish.tuning.throttle)
    said = {name: value for name in PROPERTIES if (value := getattr(wish.tuning, name)) is not None}
    return replace(known, **said, throttle=limited(known.throttle, wish.tuning.throttle))


#: Who does it, asked for where something is done.
Hands = t.Callable[[], Work]


def plan_attachment(
    state: DomainState, wish: DiskWish, spot: Spot, image: Plan, controller: int | None, work: Hands
) -> Plan:
    """The plan that has the domain get a new disk, whose *image* comes first."""
    disk = new_disk(wish, spot).xml()
    where = Places(state.active and wish.live, True)
    source = spot.path or "an empty drive"
    steps = [*image.steps]
    if controller is not None:
        steps.append(
            Step(
                f"add SCSI controller {controller} to {state.name}{where}",
                lambda: work().add_controller(controller, where),
            )
        )
    steps.append(
        Step(
            f"attach {source} to {state.name} as {spot.target}{where}",
            lambda: work().attach(disk, where),
            lambda: work().take_back(),
        )
    )
    return _plan(state, spot, image, steps, _disk_definition.with_disk(state.definition, disk), {"bus": spot.bus})


def plan_change(
    state: DomainState,
    wish: DiskWish,
    spot: Spot,
    image: Plan,
    growth: tuple[int, int] | None,
    work: Hands,
) -> Plan:
    """The plan that has a disk of the domain as the task wants it; empty where it is so. *growth* is the size of an
    image that the guest has open, before and after."""
    found = t.cast("DomainDisk", spot.found)
    change = _Change(state, wish, spot, found, work)
    steps = [*image.steps, *_growing(state, spot, growth, work), *change.steps()]
    told = {**({"virtual_size": growth[1]} if growth else {}), **change.told}
    return _plan(state, spot, image, steps, change.definition, told)


class _Change:
    """The steps that change a disk which the domain has, and what its definition becomes by them."""

    def __init__(self, state: DomainState, wish: DiskWish, spot: Spot, found: DomainDisk, work: Hands) -> None:
        self.state, self.wish, self.spot, self.found, self.work = state, wish, spot, found, work
        self.definition = state.definition
        self.told: dict[str, t.Any] = {}
        self.in_machine = state.active and wish.live

    def steps(self) -> list[Step]:
        return [*self._plugging(), *self._medium(), *self._limiting(), *self._tuning()]

    def _plugging(self) -> t.Iterator[Step]:
        """A disk that only the machine has, or only the definition: a run may have died in between."""
        name, target = self.state.name, self.spot.target
        if self.found.defined is None:
            disk = _disk_definition.plain(_disk_definition.disk_xml(str(self.state.live), target))
            disk = _disk_definition.tuned(disk, self.wish.tuning)
            self.definition = _disk_definition.with_disk(self.definition, disk)
            where = Places(False, True)
            yield Step(
                f"attach {self.found.path} to {name} as {target}{where}",
                lambda: self.work().attach(disk, where),
                lambda: self.work().take_back(),
            )
        elif self.found.live is None and self.in_machine:
            disk = _disk_definition.tuned(_disk_definition.disk_xml(self.definition, target), self.wish.tuning)
            only_machine = Places(True, False)
            yield Step(
                f"attach {self.found.path} to {name} as {target}{only_machine}",
                lambda: self.work().attach(disk, only_machine),
                lambda: self.work().take_back(),
            )

    def _medium(self) -> t.Iterator[Step]:
        if not self.spot.is_drive or not self.wish.names_source:
            return
        path, image_format, target = self.spot.path or None, self.spot.format, self.spot.target
        live, defined = self.found.live, self.found.defined
        where = Places(
            self.in_machine and live is not None and live.source != path,
            defined is not None and defined.source != path,
        )
        if not where:
            return
        if where.definition:
            self.definition = _disk_definition.with_medium(self.definition, target, path, image_format)
        self.told["path"] = path
        what = f"put {path} into" if path is not None else "eject the medium of"
        yield Step(
            f"{what} {target} of {self.state.name}{where}",
            lambda: self.work().change_medium(path, image_format, where),
        )

    def _limiting(self) -> t.Iterator[Step]:
        """Limits hold at once in the machine, whatever its definition says."""
        wanted = self.wish.tuning.throttle
        if not (self.in_machine and wanted and self.found.live is not None):
            return
        known = _disk_definition.tuning_of(str(self.state.live), self.spot.target)
        if not differences(known, Tuning(throttle=wanted)):
            return
        limits = _all_limits(limited(known.throttle, wanted))
        before = _all_limits(limited(known.throttle, {}))
        self.told["throttle"] = limited(known.throttle, wanted)
        yield Step(
            f"limit {self.spot.target} of {self.state.name} while it runs: {_said(wanted)}",
            lambda: self.work().limit(limits),
            lambda: self.work().limit(before),
        )

    def _tuning(self) -> t.Iterator[Step]:
        if self.found.defined is None:
            return
        wanted = self.wish.tuning
        names = differences(_disk_definition.tuning_of(self.definition, self.spot.target), wanted)
        if not names:
            return
        self.definition = _disk_definition.with_tuning(self.definition, self.spot.target, wanted)
        self.told.update({name: getattr(wanted, name) for name in names})
        said = ", ".join(_change_said(wanted, name) for name in names)
        yield Step(
            f"change {self.spot.target} of {self.state.name} in its definition: {said}",
            lambda: self.work().tune(wanted),
        )


def pending(state: DomainState, found: DomainDisk) -> list[str]:
    """What the next start of a running domain changes of the disk."""
    if not state.active:
        return []
    if found.live is None or found.defined is None:
        return ["attached" if found.live is None else "detached"]
    live, defined = (_disk_definition.tuning_of(xml, found.target) for xml in (str(state.live), state.definition))
    moved = found.live.source != found.defined.source and found.defined.pool is None
    return [*_differing(live, defined), *(["path"] if moved else [])]


def pending_then(state: DomainState, wish: DiskWish, spot: Spot) -> list[str]:
    """The same once the domain has the disk as the task wants it."""
    found = spot.found
    if not state.active:
        return []
    if found is None or found.live is None:
        return [] if wish.live else ["attached"]
    live = _disk_definition.tuning_of(str(state.live), found.target)
    if wish.live:
        live = replace(live, throttle=limited(live.throttle, wish.tuning.throttle))
    changed = spot.is_drive and wish.names_source
    path = found.live.source if not changed or not wish.live else spot.path or None
    defined = spot.path or None if changed else found.defined.source if found.defined is not None else path
    moved = path != defined and (found.defined is None or found.defined.pool is None)
    return [*_differing(live, tuning_after(state, wish, spot)), *(["path"] if moved else [])]


def _differing(live: Tuning, defined: Tuning) -> list[str]:
    names = [name for name in PROPERTIES if getattr(live, name) != getattr(defined, name)]
    return [*names, *(["throttle"] if limited(live.throttle, {}) != limited(defined.throttle, {}) else [])]


def _plan(
    state: DomainState, spot: Spot, image: Plan, steps: t.Sequence[Step], definition: str, told: t.Mapping[str, t.Any]
) -> Plan:
    if not steps:
        return Plan({}, {})
    name = f"{state.name} {spot.target}"
    known = {"path": spot.found.path, "format": spot.found.format} if spot.found is not None else None
    after = {"path": spot.path or None, "format": spot.format, **told}
    diff = _disk_changes.definition_diff(state.definition, definition)
    shown = ({"prepared": diff},) if diff else ()
    before = {name: known, **({image.after["path"]: image.before} if "path" in image.after else {})}
    return Plan(
        before,
        {name: after, **({image.after["path"]: image.after} if "path" in image.after else {})},
        tuple(steps),
        shown,
    )


def _growing(state: DomainState, spot: Spot, growth: tuple[int, int] | None, work: Hands) -> t.Iterator[Step]:
    if growth is not None:
        before, after = growth
        yield Step(
            f"grow {spot.target} of {state.name} from {exact_size(before)} to {exact_size(after)} while it runs "
            f"({spot.path})",
            lambda: work().grow(before, after),
        )


def _known_tuning(state: DomainState, found: DomainDisk) -> Tuning | None:
    definition = state.definition if found.defined is not None else str(state.live)
    return _disk_definition.tuning_of(definition, found.target)


def _all_limits(limits: t.Mapping[str, int | str]) -> dict[str, int | str]:
    """*limits* with all that there are: libvirt leaves one that is not named as it is."""
    return {**{name: 0 for rate in rates() for name in (rate, f"{rate}_max")}, **limits}


def _change_said(wanted: Tuning, name: str) -> str:
    return f"throttle ({_said(wanted.throttle)})" if name == "throttle" else f"{name}={getattr(wanted, name)}"


def _said(limits: t.Mapping[str, int | str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in limits.items())


def _number(target: str) -> int:
    """Which of the disks with its letters a target is, from 0: sda, ..., sdz, sdaa, ..."""
    number = 0
    for letter in target[2:]:
        number = number * 26 + ord(letter) - ord("a") + 1
    return number - 1
