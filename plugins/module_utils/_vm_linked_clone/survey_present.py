# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is true of the source of clones, and of the place where they are to lie: looked at once for all of them."""

from __future__ import annotations

import os
import typing as t
from functools import cached_property

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, ImageInUse
from ansible_collections.kvmops.disk.plugins.module_utils._files import beside as _beside
from ansible_collections.kvmops.disk.plugins.module_utils._files import staging as _staging
from ansible_collections.kvmops.disk.plugins.module_utils._host import access as _access
from ansible_collections.kvmops.disk.plugins.module_utils._host.file_copy import can_reflink
from ansible_collections.kvmops.disk.plugins.module_utils._image import image as _image
from ansible_collections.kvmops.disk.plugins.module_utils._image import links as _links
from ansible_collections.kvmops.disk.plugins.module_utils._recovery import traces as _traces
from ansible_collections.kvmops.disk.plugins.module_utils._task import still as _still
from ansible_collections.kvmops.disk.plugins.module_utils._task.surroundings import Surroundings
from ansible_collections.kvmops.disk.plugins.module_utils._usage.users import is_same_file
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import decision_source as _decision_source
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import leftovers as _leftovers
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import survey as _survey
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_existing import (
    Existing,
    ExistingDisk,
    Neighbour,
    NeighbourDisk,
)
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_seed import Seed
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.leftovers import MAKE, Left
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.wish import REFLINK, CloneSpec, CloneWish

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.connection import Hypervisor
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_blueprint import Setting
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_source import Source
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_taken import Taken
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.survey_room import Room


@dataclass
class Survey:
    """The source, its neighbours, and the *directory* in which its clones are made in *mode*.

    *left*: what dead runs left of clones, by the names of these.
    """

    hypervisor: Hypervisor
    qemu_img: QemuImg
    wish: CloneWish
    source: Source
    neighbours: t.Sequence[Neighbour]
    directory: str
    mode: str
    left: t.Mapping[str, t.Sequence[Left]]
    warn: t.Callable[[str], None]

    @cached_property
    def known(self) -> dict[str, Neighbour]:
        """All domains by their names."""
        return {neighbour.looks.name: neighbour for neighbour in self.neighbours}

    @cached_property
    def taken(self) -> Taken:
        """What other domains have for themselves, and the clones that are decided on."""
        from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_taken import Taken

        files: dict[str, str] = {}
        for other in self.neighbours:
            own = [*(disk.path for disk in other.disks), *([other.looks.nvram] if other.looks.nvram else [])]
            files.update((os.path.realpath(path), other.looks.name) for path in own)
        return Taken.by(self.neighbours, files)

    @property
    def places(self) -> set[str]:
        """The directories in which files of clones come to lie."""
        nvram = self.source.looks.nvram
        return {self.directory, *([os.path.dirname(nvram)] if nvram else [])}

    @property
    def setting(self) -> Setting:
        """Where, how and of what the clones are made."""
        from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_blueprint import Setting

        nvram = self.source.looks.nvram
        return Setting(self.directory, self.mode, has_store=bool(nvram and os.path.exists(nvram)))

    def room(self) -> Room:
        """A new look at what the file system of the new images has for them."""
        from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.survey_room import Room

        surroundings = Surroundings.of(self.hypervisor, self.wish.search_paths, warn=self.warn)
        return Room(surroundings, self.qemu_img, self.wish, self.source, self.setting)

    def existing(self, spec: CloneSpec, found: Neighbour) -> Existing:
        """The domain that has the name of a clone, as closely as *spec* and the source have it looked at."""
        bases = {disk.target: disk.path for disk in self.source.disks}
        disks = [disk for disk in found.disks if disk.target in bases or disk.target in spec.sizes]
        return Existing(
            found.looks,
            found.active,
            found.xml,
            tuple(self._existing(disk, bases.get(disk.target), sized=disk.target in spec.sizes) for disk in disks),
            _seed(spec.seed, [disk.path for disk in found.disks]),
        )

    def existing_now(self, spec: CloneSpec) -> Existing | None:
        """The domain that has the name of a clone by now."""
        domain = self.hypervisor.find(spec.name)
        return self.existing(spec, _survey.look_at(self.hypervisor, domain)) if domain is not None else None

    def seed(self, spec: CloneSpec) -> Seed | None:
        """The file that a new clone is to have in a drive of its own."""
        return _seed(spec.seed, [disk.element.source for disk in self.source.state.disks])

    def real_names(self, paths: t.Iterable[str]) -> dict[str, str]:
        """*paths*, each with its name without links."""
        return {path: os.path.realpath(path) for path in paths}

    def missing(self, seeds: t.Iterable[str | None]) -> list[str]:
        """Those of *seeds* that are not there."""
        return sorted({path for path in seeds if path is not None and not os.path.exists(path)})

    def appeared(self, spec: CloneSpec, paths: t.Iterable[str], ours: t.Container[str]) -> Existing | None:
        """The clone, where another run has made it since we looked.

        Raises DiskError where a file stands at one of its *paths* that no run of ours made. Where a run is about it,
        that is waited for later.
        """
        for path in paths:
            if path in ours or not os.path.lexists(path):
                continue
            found = self.existing_now(spec)
            if found is not None:
                return found
            if not (_beside.look(path) or {}).get("alive"):
                raise DiskError(
                    f"{spec.name}: {path} exists already: it was left alone: remove it, or choose another name or "
                    "disk_dir",
                    path=path,
                )
        return None

    def _existing(self, disk: NeighbourDisk, base: str | None, *, sized: bool) -> ExistingDisk:
        """A disk of a clone; *base* is the image of the source that it should read."""
        chain = tuple(path for path, _format in _links.Links().of(disk.path, disk.format))
        there, size = os.path.exists(disk.path), None
        if sized and there:
            size = _image.inspect(self.qemu_img, disk.path, disk.format).virtual_size
        over = _over(disk.path, chain, base) if base is not None else None
        return ExistingDisk(disk.target, disk.path, disk.format, there, chain, over, size)


def look(hypervisor: Hypervisor, qemu_img: QemuImg, wish: CloneWish, warn: t.Callable[[str], None]) -> Survey:
    """Looks around. Raises DiskError where the source cannot be cloned, or not as *wish* has it."""
    source = _survey.look_at_source(hypervisor, qemu_img, wish)
    _traces.require_own(wish.source, source.state.uuid, source.state.record, MAKE, _beside.notes(None))
    neighbours = _survey.look_around(hypervisor)
    _require_quiet(source, neighbours, qemu_img)
    directory = _decision_source.place(source, wish)
    _require_place(directory, hypervisor.qemu_user)
    mode = _decision_source.effective_mode(wish, directory, _not_reflinkable(source, wish, directory))
    for disk in source.disks:
        _decision_source.require_clonable_images(disk, mode)
    survey = Survey(hypervisor, qemu_img, wish, source, neighbours, directory, mode, {}, warn)
    survey.left = _leftovers.left_behind(survey.places, {spec.name for spec in wish.clones})
    return survey


def _require_quiet(source: Source, neighbours: t.Iterable[Neighbour], qemu_img: QemuImg) -> None:
    """Raises where an image of the source is not at rest, whoever works on it."""
    used = [(other, disk) for other in neighbours if other.active for disk in other.disks]
    for image in (image for disk in source.disks for image in disk.images):
        for other in [other for other, disk in used if is_same_file(disk.path, image.path)]:
            raise ImageInUse(
                f"{image.path}: is a disk of the running domain {other.looks.name}: asked to clone it: shut that down "
                "first",
                path=image.path,
                in_use_by=[{"domain": other.looks.name, "uuid": other.looks.uuid, "running": True}],
            )
        _still.require_unwritten(image)
        _still.require_settled(qemu_img, image.path, image.format, _beside.look(image.path))


def _require_place(directory: str, user: t.Callable[[], tuple[int, int] | None]) -> None:
    """Raises InvalidRequest where *directory* is none, cannot be written to, or QEMU's *user* cannot get to it."""
    _staging.require_writable_directory(directory, "disk_dir")
    _access.require(directory, user, "disk_dir")


def _not_reflinkable(source: Source, wish: CloneWish, directory: str) -> list[str]:
    """The images that cannot be reflinked into *directory*, where *wish* has them so."""
    disks = source.disks if wish.mode == REFLINK else ()
    return [disk.path for disk in disks if disk.block[0] or not can_reflink(disk.path, directory)]


def _seed(path: str | None, sources: t.Iterable[str | None]) -> Seed | None:
    """The file for a clone's drive, and which of *sources* mean it."""
    if path is None:
        return None
    drives = frozenset(name for name in sources if name is not None and is_same_file(name, path))
    return Seed(path, os.path.lexists(path), os.path.isfile(path), drives)


def _over(top: str, chain: t.Iterable[str], base: str) -> str | None:
    """The image of a chain that reads *base* itself; None where none does."""
    above = top
    for path in chain:
        if is_same_file(path, base):
            return above
        above = path
    return None
