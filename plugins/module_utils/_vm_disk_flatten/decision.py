# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The decision which disks of a domain are to be made independent, and of what. Pure."""

from __future__ import annotations

import typing as t
from functools import partial

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass, replace
from ansible_collections.kvmops.disk.plugins.module_utils._domain import ready as _ready
from ansible_collections.kvmops.disk.plugins.module_utils._errors import InvalidRequest
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan, Step
from ansible_collections.kvmops.disk.plugins.module_utils._xml.records import Record, RecordedDisk, now

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainDisk, DomainState
    from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten.wish import FlattenWish
    from ansible_collections.kvmops.disk.plugins.module_utils._xml.disks import ChainLink


@dataclass(frozen=True)
class Flattening:
    """One disk with its images, its own first, of which those before number *keep* are to become one.

    *files* are where the names of the images lead, by whatever links. *as_named*: the backing files are those that
    libvirt's XML names, if it names any.
    """

    disk: DomainDisk
    images: tuple[Image, ...]
    files: tuple[str, ...]
    keep: int
    as_named: bool = True

    @property
    def target(self) -> str:
        return self.disk.target

    @property
    def path(self) -> str:
        return self.images[0].path

    @property
    def file(self) -> str:
        """The file itself, where *path* is a link to it."""
        return self.files[0]

    @property
    def image(self) -> Image:
        return self.images[0]

    @property
    def merged(self) -> tuple[Image, ...]:
        """The backing files that the image is to be independent of."""
        return self.images[1 : self.keep]

    @property
    def base(self) -> Image | None:
        """The backing file that the image is to have."""
        return self.images[self.keep] if self.keep < len(self.images) else None

    @property
    def base_file(self) -> str | None:
        """The file of that, where its name is a link to it."""
        return self.files[self.keep] if self.base is not None else None

    @property
    def named_base(self) -> ChainLink | None:
        """The same as libvirt's XML names it; None where there is none, or the XML says nothing of backing files."""
        return (self.disk.chain or ())[self.keep - 1] if self.base and self.disk.chain else None

    def __str__(self) -> str:
        what = ", ".join(image.path for image in self.merged)
        return f"{what} into {self.path} ({self.target})" + (f", down to {self.base.path}" if self.base else "")


class Work(t.Protocol):
    """Who names images in the definition."""

    def name_chain(self, items: t.Iterable[Flattening]) -> None: ...


def select(state: DomainState, wish: FlattenWish) -> list[DomainDisk]:
    """The disks that the task means.

    Raises InvalidRequest for one that the domain does not have, DiskError for one that is no disk, has no image, or is
    none of the running guest.
    """
    meant: list[DomainDisk] = []
    for wanted in wish.disks:
        disk = state.disk(wanted)
        if disk is None:
            raise state.no_such_disk(wanted)
        _ready.require_plugged_in(state, disk)
        if disk.element.device != "disk" or disk.path is None:
            _ready.require_plain_disk(state, disk, "flatten")
        if disk not in meant:
            meant.append(disk)
    return meant


def position(
    state: DomainState, disk: DomainDisk, images: t.Sequence[Image], base: str | None, found: int | None
) -> int:
    """The number of the first of *images*, the disk's own first, that is to stay: of *base*, or that behind the last
    where it is None. *found* is the number of the image below the disk's own that *base* means, by whatever links.

    Raises InvalidRequest where it means none. A disk without backing files has none too many.
    """
    if base is None or len(images) == 1:
        return len(images)
    if found is not None:
        return found
    chain = [image.path for image in images]
    raise InvalidRequest(
        f"{state.name}: {disk.target}: base: {base} is not below its image: the chain is {' -> '.join(chain)}: "
        "name one of the backing files, or leave base out",
        backing_chain=chain,
    )


def is_granted(item: Flattening) -> bool:
    """Whether the image has what the task wants below it: then there is nothing between the two."""
    return not item.merged


def naming(state: DomainState, misnamed: t.Sequence[Flattening], work: Work) -> tuple[Step, ...]:
    """The step that has the definition name the backing files that *misnamed* disks have since a dead run flattened
    them."""
    targets = ", ".join(item.target for item in misnamed)
    return (
        Step(
            f"define {state.name} with the backing files that {targets} has now",
            partial(work.name_chain, misnamed),
        ),
    )


def most_bytes(item: Flattening, measured: int) -> int:
    """What the image occupies at most afterwards: *measured* for its whole content, or what is really merged."""
    if item.base is None:
        return measured
    return min(measured, sum(image.actual_size for image in (item.image, *item.merged)))


def predicted(item: Flattening) -> tuple[Image, ...]:
    """The images of the disk afterwards, as far as they are known before; its own will grow."""
    base = item.base
    top = replace(item.image, backing_file=base.path if base else None, backing_format=base.format if base else None)
    return (top, *item.images[item.keep :])


def plan(items: t.Sequence[Flattening], steps: tuple[Step, ...], diff: tuple[dict[str, t.Any], ...]) -> Plan:
    """The plan of the *steps* that flatten the disks, with their backing files before and after."""
    return Plan(
        before={item.target: {"backing_chain": _paths(item.images)} for item in items},
        after={item.target: {"backing_chain": _paths(predicted(item))} for item in items},
        steps=steps,
        diff=diff,
    )


def record(state: DomainState, mode: str, run: str | None, items: t.Sequence[Flattening]) -> Record:
    """What the domain's metadata is to say of what is in flight; *run*: libvirt's number of the running domain."""
    return Record(
        verb="flatten",
        mode=mode,
        started=now(),
        was_running=state.active,
        remove_source=False,
        disks=tuple(recorded(item) for item in items),
        run=run,
    )


def recorded(item: Flattening) -> RecordedDisk:
    """One disk as the domain's metadata records it."""
    image, below = item.image, item.images[1]
    return RecordedDisk(
        *(item.target, image.path, image.format, image.path, image.format),
        base=item.base.path if item.base else None,
        below=below.path,
        below_format=below.format,
    )


def _paths(images: t.Iterable[Image]) -> list[str]:
    return [image.path for image in images]
