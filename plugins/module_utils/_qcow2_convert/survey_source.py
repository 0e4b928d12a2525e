# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a conversion reads: looked at, compared with what stands at the destination, and whom it would hurt."""

from __future__ import annotations

import os
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._capacity import space as _space
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError
from ansible_collections.kvmops.disk.plugins.module_utils._files import file_set as _file_set
from ansible_collections.kvmops.disk.plugins.module_utils._files import lock as _lock
from ansible_collections.kvmops.disk.plugins.module_utils._files import same_file as _same_file
from ansible_collections.kvmops.disk.plugins.module_utils._files import staging as _staging
from ansible_collections.kvmops.disk.plugins.module_utils._files.names import Names, looked_up
from ansible_collections.kvmops.disk.plugins.module_utils._formats.bitmaps import bitmaps_of
from ansible_collections.kvmops.disk.plugins.module_utils._host import block_device as _block_device
from ansible_collections.kvmops.disk.plugins.module_utils._host.direct_io import alignment
from ansible_collections.kvmops.disk.plugins.module_utils._image import encryption as _encryption
from ansible_collections.kvmops.disk.plugins.module_utils._image import graph as _graph
from ansible_collections.kvmops.disk.plugins.module_utils._image import key_slots as _key_slots
from ansible_collections.kvmops.disk.plugins.module_utils._image.creation import Estimate, file_length
from ansible_collections.kvmops.disk.plugins.module_utils._image.encryption import Openers
from ansible_collections.kvmops.disk.plugins.module_utils._image.trust import Trust
from ansible_collections.kvmops.disk.plugins.module_utils._image.whole import require_whole
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_convert import decision_image as _decision_image
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_convert import decision_obstacles as _obstacles
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_convert.decision_image import Observed, SourceFiles
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_convert.survey_comparison import Comparison, file_state
from ansible_collections.kvmops.disk.plugins.module_utils._task import still as _still
from ansible_collections.kvmops.disk.plugins.module_utils._usage import counting as _counting

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._formats.bitmaps import Bitmap
    from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
    from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_convert.wish import ImageConvertWish
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg
    from ansible_collections.kvmops.disk.plugins.module_utils._task.surroundings import Surroundings

#: The formats that no QEMU is built without.
_ALWAYS_THERE = ("raw", "qcow2", "luks")


class SourceSurvey:
    """A look at the source, and at what the new image is to stand on, in the light of *dest*, which stands there.

    *note* is what the record of a run says beside the source. *qemu_img* opens what was looked at with its secrets.
    """

    def __init__(
        self,
        wish: ImageConvertWish,
        dest: Image | None,
        qemu_img: QemuImg,
        surroundings: Surroundings,
        comparison: Comparison,
        note: dict[str, t.Any] | None,
    ) -> None:
        self.qemu_img = qemu_img
        self._wish = wish
        self._dest = dest
        self._surroundings = surroundings
        self._comparison = comparison
        self._note = note
        self._trust = Trust(wish.trusted, tuple(filter(None, [wish.backing_file])))
        self._found: Observed | None = None

    @property
    def found(self) -> Observed:
        """What the conversion starts from, looked at once. Raises DiskError where it cannot be read, or converted."""
        if self._found is None:
            self._found = self._observe()
        return self._found

    def difference(self, dest: Image) -> str | None:
        """Why *dest*, which stands there, does not do as the wanted image; None where it does."""
        found, wish = self.found, self._wish
        _obstacles.require_replaceable(wish, dest)
        if wish.update == "always":
            return _decision_image.IS_THERE
        seen = _decision_image.visible_difference(wish, found, dest)
        return seen or (None if self._has_content(dest) else _decision_image.HAS_OTHER_CONTENT)

    def require_possible(self) -> None:
        """Raises DiskError where the image cannot be made, or where that would hurt somebody."""
        wish, dest = self._wish, self._dest
        _staging.require_directory(wish.dest, "dest")
        if wish.layout.has_extents:
            _file_set.require_free_places(wish.dest, dest.extents if dest else ())
        found = self.found
        self._require_unused()
        self._require_space(found)
        self._require_promise(found)

    def require_source_same(self, dest: Image) -> None:
        """Raises DiskError where the source may not be removed, or *dest* has not its content."""
        found, wish = self.found, self._wish
        self._require_source_removable()
        if _decision_image.visible_difference(wish, found, dest) or not self._has_content(dest):
            raise DiskError(
                f"{wish.src}: asked to remove it, but {dest.path} has other content, which update=missing leaves "
                "alone: set update to changed, or keep the source",
                path=wish.src,
            )

    def replaced(self) -> list[int] | None:
        """The identity of the file that the new image replaces; None where nothing is there."""
        return _same_file.file_identity(_file_set.stands_at(self._wish.dest)) if self._dest else None

    def _observe(self) -> Observed:
        wish = self._wish
        for path, image_format in ((wish.src, wish.src_format), (wish.dest, wish.layout.format)):
            if image_format not in _ALWAYS_THERE:
                self.qemu_img.require_driver(image_format, path)
        base: tuple[Image, ...] = ()
        if wish.backing_file is not None:  # first, since the source may refer to it
            base = self._trust.look(self.qemu_img, wish.backing_file, t.cast(str, wish.backing_format))
            self.qemu_img = _graph.following(self.qemu_img, base)
            self._unlock_below(base)
        if _block_device.is_block_device(wish.src):
            _obstacles.require_readable_device(wish)
            _block_device.require_idle(wish.src)
        looks = _graph.looks_of([wish.src])
        source = self._trust.look(self.qemu_img, wish.src, wish.src_format, devices=True)
        self.qemu_img = _graph.following(self.qemu_img, source)
        require_whole((*source, *base))
        self._unlock(source)
        _still.require_settled(self.qemu_img, wish.src, wish.src_format, self._note)
        snapshot = _obstacles.find_snapshot(source[0], wish.snapshot) if wish.snapshot is not None else None
        bitmaps = bitmaps_of(wish.src, wish.src_format)
        found = Observed(source, base, snapshot, self._names(source, base), bitmaps, self._step(), looks)
        _obstacles.require_convertible(wish, found)
        for image in (*source, *base):
            _still.require_unwritten(image)
        return found

    def _step(self) -> int:
        """Of how many bytes the size of the new image is to be a multiple."""
        wanted = self._wish.align_size and self._wish.layout.format == "raw"
        return alignment(os.path.realpath(self._wish.dest)) if wanted else 1

    def _names(self, source: t.Sequence[Image], base: t.Sequence[Image]) -> Names:
        read = [image.path for image in (*source, *base)]
        below = [source[0].backing_file, self._dest.backing_file if self._dest else None]
        return looked_up([*read, *below, self._wish.src, self._wish.dest])

    def _unlock(self, source: t.Sequence[Image]) -> None:
        """Has the source opened with its secrets from now on. Raises DiskError where it may not be, or they do not."""
        _obstacles.require_decryptable(self._wish, source)
        if self._wish.openers is not None:
            self.qemu_img = _key_slots.unlocked(self.qemu_img, source, self._wish.openers)

    def _unlock_below(self, base: t.Sequence[Image]) -> None:
        """Has the wanted backing file opened with the secret that the task gives for it."""
        if self._wish.encryption is not None:
            below = Openers(self._wish.encryption.below, self._wish.encryption.below)
            self.qemu_img = _key_slots.unlocked(self.qemu_img, base, below)

    def _has_content(self, dest: Image) -> bool:
        """Whether *dest* has the content of the source, by the files, which nobody writes."""
        path = _file_set.stands_at(dest.path)
        own = Trust(self._trust.trusted, (*self._trust.declared, *_file_set.files(path)[1:]))
        chain = own.look(self.qemu_img, path, dest.format)
        self.qemu_img = _graph.following(self.qemu_img, chain)
        openers = self._wish.encryption.openers if self._wish.encryption else None
        if openers is not None:
            self.qemu_img = _key_slots.unlocked(self.qemu_img, chain, openers)
        _encryption.require_secret(chain, openers, "compare it")
        _still.require_unwritten(chain[0])
        found = self.found
        recipe = _decision_image.recipe(self._wish, found)
        return self._comparison.compare(self.qemu_img, recipe, found.size, found.source, chain)

    def _require_unused(self) -> None:
        """Raises where reading the source, or writing the destination, would hurt somebody."""
        wish, around = self._wish, self._surroundings
        around.require_unused(wish.src, "convert it", _counting.running_as_disk, locks=False)
        around.require_unused(wish.dest, "put a new image there", _counting.running, locks=False)
        if self._dest is not None:
            _still.require_unlocked(wish.dest, "replace it", _lock.PATIENCE)
            around.require_no_saved_state(wish.dest, "replace it")
            around.require_no_dependents(wish.dest, "replace it", "choose another dest")
        if wish.remove_src:
            self._require_source_removable()

    def _require_source_removable(self) -> None:
        to_do = "remove it after its conversion (remove_src)"
        self._surroundings.require_unused(self._wish.src, to_do)
        self._surroundings.require_no_dependents(self._wish.src, to_do, "keep the source")

    def _require_space(self, found: Observed) -> None:
        """Raises NotEnoughSpace, as far as it can be known: not how far something shrinks, nor how much differs."""
        wish = self._wish
        _space.require_length(wish.dest, file_length(wish.layout, found.size))
        if wish.compress or (found.base and not found.reads_base):
            return
        recipe = _decision_image.recipe(wish, found)
        options = wish.layout.options() if wish.layout.format == "qcow2" else {}
        measured = self.qemu_img.measure(
            wish.src, wish.src_format, "qcow2", options, snapshot=recipe.snapshot, alone=found.reads_base
        )
        estimate = Estimate(measured.required, measured.data(found.size))
        _space.require_space([(wish.dest, _decision_image.space(wish, found, estimate))])

    def _require_promise(self, found: Observed) -> None:
        """Raises NotEnoughSpace where the file system would promise too much with the new image."""
        wish = self._wish
        new = _space.NewImage(wish.dest, found.size, wish.backing_file)
        gone = [wish.src] if wish.remove_src else []
        self._surroundings.require_promises([new], wish.max_overcommit, self.qemu_img, gone=gone)


def dest_bitmaps(dest: Image) -> tuple[Bitmap, ...]:
    """The dirty bitmaps of the image that stands at the destination."""
    return bitmaps_of(_file_set.stands_at(dest.path), dest.format)


def source_files(wish: ImageConvertWish) -> SourceFiles:
    """The files of the source as they are now."""
    paths = _file_set.files(wish.src)
    return SourceFiles(paths, tuple(map(file_state, paths)))
