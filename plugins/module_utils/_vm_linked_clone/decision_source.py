# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The decision whether a domain can be cloned, and which of its disks a clone gets its own images of. Pure."""

from __future__ import annotations

import os
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, ImageInUse, InvalidRequest
from ansible_collections.kvmops.disk.plugins.module_utils._image.choices import OVERLAY_FORMATS
from ansible_collections.kvmops.disk.plugins.module_utils._image.creation import require_usable_base
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.wish import FULL, LINKED, REFLINK, CloneWish
from ansible_collections.kvmops.disk.plugins.module_utils._xml import document as _document
from ansible_collections.kvmops.disk.plugins.module_utils._xml.disks import ChainLink

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainDisk, DomainState
    from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
    from ansible_collections.kvmops.disk.plugins.module_utils._xml.identity import Looks

#: The kinds of sources that are, or mean, a file or a block device of this host.
_LOCAL = ("file", "block", "volume")


@dataclass(frozen=True)
class SourceDisk:
    """A disk of the source that a clone has its own image of; *images* are its chain, top first.

    *block*: which of them are block devices. *mode* are the permissions of the top one, those before it was protected.
    *wwn*: the disk has a world wide name.
    """

    target: str
    images: tuple[Image, ...]
    block: tuple[bool, ...]
    mode: int = 0o600
    wwn: bool = False

    @property
    def path(self) -> str:
        return self.images[0].path

    @property
    def format(self) -> str:
        return self.images[0].format

    @property
    def size(self) -> int:
        return self.images[0].virtual_size

    def chain(self, mode: str) -> tuple[ChainLink, ...]:
        """The backing files of a clone's image: the source's image and what is below it, or only the latter."""
        links = [ChainLink(image.path, image.format, block=block) for image, block in zip(self.images, self.block)]
        return tuple(links if mode == LINKED else () if mode == FULL else links[1:])


@dataclass(frozen=True)
class Source:
    """The domain that is cloned: as it is defined, what that says of its identity, and the disks to be cloned."""

    state: DomainState
    looks: Looks
    disks: tuple[SourceDisk, ...]

    @property
    def definition(self) -> str:
        return self.state.definition


def require_clonable(state: DomainState, wish: CloneWish) -> None:
    """Raises DiskError where the domain is in no state to be cloned."""
    name = state.name
    if state.active:
        why = (
            "a clone would read a disk that changes under it, and protect_base forbids that"
            if wish.mode == LINKED
            else ("a copy of a disk that changes is inconsistent")
        )
        raise ImageInUse(
            f"{name}: is {state.state}: asked to clone it: {why}: shut it down first",
            in_use_by=[{"domain": name, "uuid": state.uuid, "running": True}],
        )
    if state.managed_save:
        raise DiskError(
            f"{name}: has a managed-save image: what its disks hold is only half of its state, and it would resume by "
            "writing to them: start the domain and shut it down, or drop the image with virsh managedsave-remove"
        )
    if state.snapshots:
        raise DiskError(
            f"{name}: has {len(state.snapshots)} snapshot(s) ({', '.join(state.snapshots)}): going back to one would "
            "change what its clones read, and a clone has none of them: delete them first",
            snapshots=list(state.snapshots),
        )
    if state.checkpoints:
        raise DiskError(
            f"{name}: has checkpoints ({', '.join(state.checkpoints)}), which a clone cannot have: delete them first"
        )
    _require_clonable_devices(state, wish)


def _require_clonable_devices(state: DomainState, wish: CloneWish) -> None:
    domain = _document.parse(state.definition)
    if domain.find("./devices/tpm/backend[@type='external']") is not None:
        raise DiskError(f"{state.name}: has a TPM that another program emulates, which only one domain can use")
    if domain.find("./devices/tpm/backend[@type='emulator']") is not None and wish.vtpm == "refuse":
        raise DiskError(
            f"{state.name}: has an emulated TPM, whose keys no clone can have: set vtpm=drop if its clones may begin "
            "with an empty one (a disk that is sealed to it does not open then)"
        )
    for memory in domain.iterfind("./devices/memory"):
        path = memory.findtext("source/path")
        if path and memory.find("readonly") is None:
            raise DiskError(
                f"{state.name}: has a {memory.get('model')} that writes to {path}: it would be shared with its clones: "
                "take it out of the definition first"
            )
    store = domain.find("./os/nvram/source") if domain.find("./os/nvram[@type]") is not None else None
    if store is not None and not store.get("file"):
        raise DiskError(f"{state.name}: keeps its UEFI variables elsewhere than in a file of this host: not cloned")


def own_disks(state: DomainState, wish: CloneWish) -> list[DomainDisk]:
    """The disks of which a clone needs images of its own; all others (drives, read-only and shareable disks) it has in
    common with its source. Raises DiskError for a disk that is neither, or where there is none."""
    found = []
    for disk in state.disks:
        element, what = disk.element, f"{state.name}: {disk.target}"
        if element.device == "cdrom" or element.readonly or element.shareable:
            continue
        if element.type == "file" and element.source is None:
            continue
        if element.device == "lun":
            raise DiskError(f"{what}: passes a SCSI device through to the guest, which only one domain can have")
        if disk.problem is not None:
            raise DiskError(f"{what}: {disk.problem}")
        if element.type not in _LOCAL or disk.path is None:
            raise DiskError(
                f"{what}: its source is of type {element.type}: only image files, block devices and storage volumes of "
                "this host are cloned"
            )
        if element.encrypted:
            raise DiskError(f"{what}: is encrypted: a clone would hold its changes, or all of it, unencrypted")
        if element.sliced:
            raise DiskError(f"{what}: is a slice of {disk.path}, and only whole images are cloned")
        found.append(disk)
    if not found:
        raise DiskError(f"{state.name}: has no disk that a clone would get an image for: there is nothing to clone")
    known = {disk.target for disk in found}
    for spec in wish.clones:
        strange = sorted(set(spec.sizes) - known)
        if strange:
            raise InvalidRequest(
                f"{spec.name}: disk_sizes: {', '.join(strange)}: {state.name} has no such disk to clone: it has "
                f"{', '.join(sorted(known))}"
            )
    return found


def require_clonable_images(disk: SourceDisk, mode: str) -> None:
    """Raises where an image of the disk cannot be read by a clone, or not be copied."""
    for image in disk.images:
        require_usable_base(image)
    if mode not in (LINKED, FULL) and disk.images[0].backing_file and disk.format not in OVERLAY_FORMATS:
        raise DiskError(f"{disk.path}: is of format {disk.format}, whose reference to a backing file cannot be written")


def size_of(disk: SourceDisk, name: str, sizes: t.Mapping[str, int]) -> int:
    """The bytes of a clone's disk. Raises InvalidRequest where they are less than what the source's has (A16)."""
    wanted = sizes.get(disk.target, disk.size)
    if wanted < disk.size:
        raise InvalidRequest(
            f"{name}: disk_sizes: {disk.target}: asked for {wanted} bytes, but {disk.path} has {disk.size}: a smaller "
            "disk cuts off its end: ask for as much or more",
            virtual_size=disk.size,
        )
    return wanted


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


def effective_mode(wish: CloneWish, directory: str, unable: t.Sequence[str]) -> str:
    """How the clones are made: as asked for, or as the task wants it where the images *unable* cannot be reflinked into
    *directory*. Raises DiskError where it says nothing of that."""
    if wish.mode != REFLINK or not unable:
        return wish.mode
    if wish.fallback is not None:
        return wish.fallback
    raise DiskError(
        f"{', '.join(unable)}: cannot be reflinked into {directory}: both have to lie on one file system that knows "
        "reflinks (XFS, Btrfs and the like): choose another disk_dir, or give fallback, another way to make the "
        "clones",
        path=unable[0],
    )
