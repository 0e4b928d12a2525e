# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What has to be true of the world before the disks of a domain are converted: images, users, dependents, space."""

from __future__ import annotations

import functools
import os
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._capacity import space as _space
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass, field, replace
from ansible_collections.kvmops.disk.plugins.module_utils._domain import disk_chain as _disk_chain
from ansible_collections.kvmops.disk.plugins.module_utils._files import file_set as _file_set
from ansible_collections.kvmops.disk.plugins.module_utils._files import staging as _staging
from ansible_collections.kvmops.disk.plugins.module_utils._formats.bitmaps import bitmaps_of
from ansible_collections.kvmops.disk.plugins.module_utils._host import access as _access
from ansible_collections.kvmops.disk.plugins.module_utils._host import block_device as _block_device
from ansible_collections.kvmops.disk.plugins.module_utils._image import alignment as _alignment
from ansible_collections.kvmops.disk.plugins.module_utils._image import image as _image
from ansible_collections.kvmops.disk.plugins.module_utils._image.creation import Estimate, bytes_needed, file_length
from ansible_collections.kvmops.disk.plugins.module_utils._usage import unused as _unused
from ansible_collections.kvmops.disk.plugins.module_utils._usage import users as _users
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert import (
    decision_conversion as _decision_conversion,
)
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert import decision_obstacles as _obstacles
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert.decision_obstacles import Place
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disks as _disks
from ansible_collections.kvmops.disk.plugins.module_utils._xml import document as _document

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._content.bitmaps import Carried
    from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainState
    from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.connection import Hypervisor
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg
    from ansible_collections.kvmops.disk.plugins.module_utils._task.surroundings import Surroundings
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert.decision import Conversion
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert.wish import ConvertWish


@dataclass
class Survey:
    """One look at everything around the disks of *state* that *wish* means.

    *images* are the sources by target, *chains* those with what is below them, *bitmaps* what becomes of theirs.
    """

    hypervisor: Hypervisor
    surroundings: Surroundings
    qemu_img: QemuImg
    state: DomainState
    wish: ConvertWish
    images: dict[str, _image.Image] = field(default_factory=dict, init=False)
    chains: dict[str, tuple[_image.Image, ...]] = field(default_factory=dict, init=False)
    bitmaps: dict[str, Carried] = field(default_factory=dict, init=False)

    def examined(self, item: Conversion) -> Conversion:
        """The conversion with what its image says of it. Raises DiskError where the image cannot be converted."""
        self._require_source(item)
        _document.require_expressible(item.dest, "dest")
        if not self.wish.block_device:
            _staging.require_directory(item.dest, "dest")
            self._require_passable(item)
        image = _image.inspect(self.qemu_img, item.source, item.source_format)
        images = _disk_chain.followed(self.qemu_img, self.state, item.disk, image, trusted=self.wish.trusted)
        _disk_chain.require_same_chain(self.state, item.disk, images)
        _obstacles.require_convertible_image(item, image, self.wish.keep_source)
        self.images[item.target], self.chains[item.target] = image, images
        item = self._fitting(item, image.virtual_size)
        if not (self.wish.shallow and image.backing_file):
            return item
        return replace(item, backing=_decision_conversion.kept_backing(self.state, item, image, self.wish.layout))

    def _require_source(self, item: Conversion) -> None:
        """Raises DiskError where the source is neither a file nor a block device that may be read."""
        if item.disk.element.type != "block" and not _block_device.is_block_device(item.source):
            _image.require_regular_file(item.source)
            return
        _obstacles.require_convertible_device(item, self.wish)
        if not self.state.active:
            _block_device.require_idle(item.source)

    def look_at_bitmaps(self, conversions: t.Iterable[Conversion], mode: str) -> None:
        """Finds out what becomes of dirty bitmaps. Raises DiskError where one would be lost that is required."""
        for item in conversions:
            found = bitmaps_of(item.source, item.source_format)
            if self.state.active:  # its own QEMU has them open, and writes them back as it ends
                found = tuple(replace(bitmap, in_use=False) for bitmap in found)
            self.bitmaps[item.target] = _decision_conversion.carried_bitmaps(item, found, self.wish, mode)

    def _require_passable(self, item: Conversion) -> None:
        """Raises InvalidRequest where QEMU's user cannot get to the new image: in another directory than it knows, and
        where the domain has no user of its own."""
        directory = os.path.dirname(item.dest)
        if directory != os.path.dirname(item.source) and not _disks.has_own_user(self.state.definition):
            _access.require(directory, self.hypervisor.qemu_user, "dest")

    def _fitting(self, item: Conversion, size: int) -> Conversion:
        """The conversion to an image that the domain can open in the disk's cache mode. Raises DiskError where a task
        has to say how."""
        image_format, cache = self.wish.layout.format, item.disk.element.cache
        if self.wish.block_device or not (self.wish.align_size or cache in _alignment.PAST_THE_CACHE):
            return item
        found = _alignment.misfit(item.dest, image_format, size)
        if found is not None and self.wish.align_size and _obstacles.way(self.state, self.wish) == "offline":
            return replace(item, step=found.step)
        what, way_out = f"{self.state.name}: {item.target}", _obstacles.way_to_fit(self.wish)
        _alignment.require_openable(item.dest, image_format, size, cache, what, way_out)
        return item

    def places(self, conversions: t.Iterable[Conversion], doomed: t.Container[str]) -> dict[str, Place]:
        """What is where the new images are to be, by target; *doomed* is what is about to be removed there."""
        return {item.target: _place(item, doomed) for item in conversions}

    def require_unused(self, conversions: t.Sequence[Conversion]) -> None:
        """Raises ImageInUse or HasDependents where somebody else has to do with a source or a destination."""
        for item in conversions:
            is_other = functools.partial(self._is_other, item)
            others = [user for user in self.surroundings.users if is_other(user)]
            for path in (*_file_set.files_meant(item.source), item.dest):
                to_do = "put a new image there" if path == item.dest else "convert it"
                _unused.require_unused(path, others, to_do, locks=not self.state.active)
                self.surroundings.require_resolved(path, to_do, is_other)
            if not self.wish.keep_source:
                to_do = "remove it after its conversion (keep_source=false)"
                self.surroundings.require_no_dependents(item.source, to_do, "keep the source")

    def require_space(self, conversions: t.Sequence[Conversion], filled: t.Container[str] = ()) -> None:
        """Raises NotEnoughSpace. Beside a running guest the figures are of the moment.

        *filled*: the targets whose new image will have no holes, though the task wants them.
        """
        layout = self.wish.layout
        for item in conversions if not self.wish.block_device else ():
            _space.require_length(item.dest, file_length(layout, self.images[item.target].virtual_size))
        if self.wish.compress:
            return
        demands = []
        for item in conversions:
            image = self.images[item.target]
            if item.backing:  # only what the overlay itself holds is copied
                demands.append((item.dest, image.actual_size))
                continue
            options = layout.options() if layout.format == "qcow2" else {}
            measured = self.qemu_img.measure(item.source, item.source_format, "qcow2", options)
            estimate = Estimate(measured.required, measured.data(image.virtual_size))
            if self.wish.block_device:
                available = _block_device.free_bytes(item.dest)
                needed = measured.required if layout.format == "qcow2" else image.virtual_size
                _obstacles.require_fitting_device(item, self.wish, needed, image.virtual_size, available)
                continue
            bitmaps = self.bitmaps[item.target].bytes_needed(image.virtual_size, layout.cluster_size)
            needed = bytes_needed(layout, image.virtual_size, estimate)
            demands.append((item.dest, image.virtual_size if item.target in filled else needed + bitmaps))
        _space.require_space(demands)

    def require_promise(self, conversions: t.Sequence[Conversion]) -> None:
        """Raises NotEnoughSpace where a file system would promise more than the task allows."""
        if self.wish.max_overcommit is None or self.wish.block_device:
            return
        new = [
            _space.NewImage(
                item.dest, self.images[item.target].virtual_size, item.backing.path if item.backing else None
            )
            for item in conversions
        ]
        gone = [] if self.wish.keep_source else [item.source for item in conversions]
        self.surroundings.require_promises(new, self.wish.max_overcommit, self.qemu_img, gone=gone)

    def removable(self, sources: t.Iterable[str]) -> list[str]:
        """Those of *sources* that are there and that nobody uses."""
        users = self.surroundings.users
        return [
            source
            for source in sources
            if os.path.lexists(source)
            and not _users.users_of(source, users)
            and not any(claim.may_be(source) for claim in self.surroundings.unresolved)
            and not self.surroundings.readers([source]).of(source)
        ]

    def _is_other(self, item: Conversion, claim: _users.Claim) -> bool:
        """Whether a claim is not that of the disk that is converted, nor one through it."""
        return (claim.uuid, claim.target) != (self.state.uuid, item.target)


def _place(item: Conversion, doomed: t.Container[str]) -> Place:
    file = os.path.realpath(item.dest)
    return Place(
        file,
        is_source=file == os.path.realpath(item.source),
        is_block_device=_block_device.is_block_device(item.dest),
        exists=os.path.lexists(item.dest) and item.dest not in doomed,
    )
