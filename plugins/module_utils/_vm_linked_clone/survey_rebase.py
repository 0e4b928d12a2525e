# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The clones that are to have another base, that base, and who uses what."""

from __future__ import annotations

import os
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._capacity import space as _space
from ansible_collections.kvmops.disk.plugins.module_utils._content import rebase as _rebase
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._domain import disk_chain as _disk_chain
from ansible_collections.kvmops.disk.plugins.module_utils._domain import domain as _domain
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError
from ansible_collections.kvmops.disk.plugins.module_utils._files import base_note as _base_note
from ansible_collections.kvmops.disk.plugins.module_utils._files.names import Names, looked_up
from ansible_collections.kvmops.disk.plugins.module_utils._formats.references import identity
from ansible_collections.kvmops.disk.plugins.module_utils._image import image as _image
from ansible_collections.kvmops.disk.plugins.module_utils._task import still as _still
from ansible_collections.kvmops.disk.plugins.module_utils._task.surroundings import Surroundings
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import survey as _survey

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainDisk, DomainState
    from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.connection import Hypervisor
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg
    from ansible_collections.kvmops.disk.plugins.module_utils._usage.dependents import Dependents
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_rebase import Move
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_source import Source, SourceDisk
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.wish_rebase import MoveWish
    from ansible_collections.kvmops.disk.plugins.module_utils._xml.identity import MarkedDisk


@dataclass(frozen=True)
class Survey:
    """Looks at clones that are to become clones of *target*."""

    hypervisor: Hypervisor
    qemu_img: QemuImg
    wish: MoveWish
    surroundings: Surroundings
    target: Source

    def state(self, name: str) -> DomainState:
        """A clone as it is now. Raises DiskError where there is none."""
        domain = self.hypervisor.find(name)
        if domain is None:
            raise DiskError(
                f"{name}: no domain of this name: rebase_to moves existing clones: make it as a clone of "
                f"{self.target.state.name} (source, without rebase_to)"
            )
        return _domain.observe(self.hypervisor, domain)

    def names(self, state: DomainState, marked: MarkedDisk, *more: str | None) -> Names:
        """The names that a disk of a clone, its image and its bases have."""
        disk = state.disk(marked.target)
        own = [disk.path, *(link.path for link in disk.chain or ())] if disk is not None else []
        bases = [one.path for one in self.target.disks]
        return looked_up([*own, marked.path, marked.base, *bases, *more], identity)

    def images(self, state: DomainState, disk: DomainDisk, base: SourceDisk) -> tuple[_image.Image, ...]:
        """The images of a disk, as far as its definition names them: none below one that reads *base* already."""
        image = _image.inspect(self.qemu_img, t.cast(str, disk.path), disk.format)
        if image.backing_file is None or looked_up([image.backing_file, base.path], identity).same(
            image.backing_file, base.path
        ):
            return (image,)
        images = _disk_chain.followed(self.qemu_img, state, disk, image, trusted=self.wish.wish.trusted)
        _disk_chain.require_same_chain(state, disk, images)
        return images

    def require_possible(self, name: str, moves: t.Iterable[Move]) -> None:
        """Raises ImageInUse or NotEnoughSpace where the images of the clone *name* cannot be replaced."""
        demands = []
        for move in moves:
            self.surroundings.require_unused(move.path, "give it another base", lambda claim: claim.domain != name)
            if move.rebase:
                for below in move.rebase.below:
                    _still.require_unwritten(below)
                options = {"cluster_size": str(move.rebase.image.cluster_size)}
                measured = self.qemu_img.measure(move.path, move.disk.format, "qcow2", options).required
                demands.append((os.path.realpath(move.path), _rebase.bytes_needed(move.rebase, measured)))
        _space.require_space(demands)

    def old_bases(self, moves: t.Iterable[Move]) -> set[str]:
        """The bases that clones were made from, and the images of their source, which they may have left earlier."""
        found = {move.before for move in moves}
        source = self.hypervisor.find(self.wish.wish.source)
        if source is not None:
            found |= {disk.path for disk in _domain.observe(self.hypervisor, source).disks if disk.path is not None}
        return {path for path in found - {disk.path for disk in self.target.disks} if os.path.isfile(path)}

    def unused(self, bases: t.Iterable[str], readers: Dependents, going: t.Collection[str]) -> list[str]:
        """The protected ones among *bases* that nothing reads when the images *going* have moved."""
        return [path for path in sorted(bases) if _base_note.is_in_use(path) and not {*readers.of(path)} - {*going}]


def look(hypervisor: Hypervisor, qemu_img: QemuImg, wish: MoveWish, warn: t.Callable[[str], None]) -> Survey:
    """Looks at the new base. Raises DiskError where nothing can become a clone of it."""
    target = _survey.look_at_source(hypervisor, qemu_img, wish.target)
    for disk in target.disks:
        for image in disk.images:
            _still.require_unwritten(image)
    surroundings = Surroundings.of(hypervisor, wish.wish.search_paths, warn=warn)
    return Survey(hypervisor, qemu_img, wish, surroundings, target)
