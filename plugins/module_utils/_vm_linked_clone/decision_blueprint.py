# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What will be made: images and definitions of clones, before anything is there. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass, replace
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import (
    decision_definition as _decision_definition,
)
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import decision_names as _decision_names
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import decision_seed as _decision_seed
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_definition import (
    CloneDisk,
    Definition,
    Identity,
    IdentityChange,
)
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_source import (
    Source,
    SourceDisk,
    size_of,
)
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.wish import LINKED, CloneSpec, CloneWish
from ansible_collections.kvmops.disk.plugins.module_utils._xml import identity as _identity
from ansible_collections.kvmops.disk.plugins.module_utils._xml.identity import Mark, MarkedDisk

if TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_seed import Seed


@dataclass(frozen=True)
class Setting:
    """Where and how clones are made: the *directory* of their images, the *mode* (linked, full, reflink), and whether
    the source has a variable store to be copied."""

    directory: str
    mode: str
    has_store: bool = False


@dataclass(frozen=True)
class Numbers:
    """The random numbers of a clone: they say that it is another machine."""

    uuid: str
    genid: str


@dataclass(frozen=True)
class NewImage:
    """An image to be made at *path* for a disk of the source, with *size* bytes, in *format*."""

    disk: SourceDisk
    path: str
    size: int
    format: str


@dataclass(frozen=True)
class Outline:
    """What a clone has for itself: its *images*, the addresses of its interfaces, the path of its variable store."""

    images: tuple[NewImage, ...]
    macs: tuple[str, ...]
    nvram: str | None = None

    @property
    def paths(self) -> list[str]:
        return [*(image.path for image in self.images), *([self.nvram] if self.nvram else [])]


@dataclass(frozen=True)
class Blueprint:
    """A clone that is to be made. *nvram*: the source's variable store and the clone's, where there is one to copy.

    *left*: where a dead run was at work, and *debris*, where it left something that is removed first. *validate*:
    libvirt is to check the definition by its schema.
    """

    spec: CloneSpec
    identity: Identity
    definition: Definition
    images: tuple[NewImage, ...]
    nvram: tuple[str, str] | None = None
    left: tuple[str, ...] = ()
    debris: tuple[str, ...] = ()
    validate: bool = False

    @property
    def paths(self) -> list[str]:
        """The files that are the clone's own, to be held while it is made."""
        return [*(image.path for image in self.images), *([self.nvram[1]] if self.nvram else []), *self.left]

    @property
    def random(self) -> set[str]:
        """What it says though it is random, so that another run will have something else."""
        return {self.identity.genid, *([self.identity.uuid] if self.spec.uuid is None else [])}


def outline(spec: CloneSpec, source: Source, setting: Setting) -> Outline:
    """What a clone of *source* is to have for itself. Raises InvalidRequest where the source has no place for it."""
    count, nvram = len(source.disks), source.looks.nvram
    images = []
    for disk in source.disks:
        image_format = "qcow2" if setting.mode == LINKED else disk.format
        path = _decision_names.image_path(setting.directory, spec.name, disk.target, image_format, count)
        images.append(NewImage(disk, path, size_of(disk, spec.name, spec.sizes), image_format))
    own_nvram = _decision_definition.own_path(nvram, source.state.name, spec.name) if nvram else None
    return Outline(tuple(images), _decision_names.macs_of(spec, len(source.looks.macs)), own_nvram)


def blueprint(
    spec: CloneSpec,
    wish: CloneWish,
    source: Source,
    setting: Setting,
    own: Outline,
    numbers: Numbers,
    seed: Seed | None,
) -> Blueprint:
    """How the clone that *spec* asks for is made, which has its *own* things.

    Raises InvalidRequest, or DiskError, where the source's definition has no place for what is asked.
    """
    identity = _identity_of(spec, wish, source, setting, own, numbers)
    definition = _decision_definition.cloned(source.definition, identity)
    if seed is not None:
        definition = seeded(definition, seed, wish.seed_bus)
    nvram = source.looks.nvram
    copied = (nvram, own.nvram) if nvram and own.nvram and setting.has_store else None
    return Blueprint(spec, identity, definition, own.images, copied)


def seeded(definition: Definition, seed: Seed, bus: str) -> Definition:
    """The definition in which a drive holds *seed*, with that among the changes that it tells of."""
    before = _decision_seed.of(definition.xml, _identity.looks(definition.xml).mark)
    xml = _decision_seed.with_seed(definition.xml, seed, bus)
    if xml == definition.xml:
        return definition
    return replace(definition, xml=xml, changes=(*definition.changes, IdentityChange("seed", before, seed.path)))


def _identity_of(
    spec: CloneSpec, wish: CloneWish, source: Source, setting: Setting, own: Outline, numbers: Numbers
) -> Identity:
    state, mark = source.state, source.looks.mark
    made = tuple(MarkedDisk(image.disk.target, image.path, image.disk.path) for image in own.images)
    seed = mark.seed if mark is not None else None
    return Identity(
        name=spec.name,
        uuid=numbers.uuid,
        genid=numbers.genid,
        macs=own.macs,
        disks=tuple(_clone_disk(image, spec.name, setting.mode, unique=wish.unique_serials) for image in own.images),
        mark=Mark(state.name, state.uuid, setting.mode, made, own.nvram, seed),
        nvram=own.nvram,
        **{name: getattr(spec, name) for name in ("memory", "vcpus", "description", "metadata")},
    )


def _clone_disk(image: NewImage, name: str, mode: str, *, unique: bool) -> CloneDisk:
    target = image.disk.target
    return CloneDisk(
        target,
        image.path,
        image.format,
        image.disk.chain(mode),
        _decision_names.derived_serial(name, target) if unique else None,
        _decision_names.derived_wwn(name, target) if unique and image.disk.wwn else None,
    )
