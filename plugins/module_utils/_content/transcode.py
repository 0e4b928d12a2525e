# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a guest sees in one image, made into another: staged, filled, and compared before anybody may believe it."""

from __future__ import annotations

import os
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._content import comparison as _comparison
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass, field
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError
from ansible_collections.kvmops.disk.plugins.module_utils._files import durable as _durable
from ansible_collections.kvmops.disk.plugins.module_utils._files import same_file as _same_file
from ansible_collections.kvmops.disk.plugins.module_utils._files.beside import sibling_name
from ansible_collections.kvmops.disk.plugins.module_utils._image import graph as _graph
from ansible_collections.kvmops.disk.plugins.module_utils._image import image as _image
from ansible_collections.kvmops.disk.plugins.module_utils._image.creation import creation_options
from ansible_collections.kvmops.disk.plugins.module_utils._qemu.secrets import Layer
from ansible_collections.kvmops.disk.plugins.module_utils._size import rounded_up

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._files.staging import NewFile
    from ansible_collections.kvmops.disk.plugins.module_utils._image.encryption import EncryptionWish
    from ansible_collections.kvmops.disk.plugins.module_utils._image.layout import Layout
    from ansible_collections.kvmops.disk.plugins.module_utils._progress import Phases
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.runner import Report


@dataclass(frozen=True)
class Recipe:
    """What is to be made of what.

    *snapshot* is the ID and the name of an internal snapshot of the source, to be read instead of what it is now.
    *base* is the backing file of the new image, and its format; *reads_base*: the source itself reads it directly, so
    that only what lies in the source is copied. *rate* is in bytes in a second. *encryption* is that of the new image,
    whose size is rounded up to a multiple of *step* bytes. *looks* are what the files were before they
    were looked at, as far as others may exchange them.
    """

    source: str
    source_format: str
    layout: Layout
    snapshot: tuple[str, str] | None = None
    base: tuple[str, str] | None = None
    reads_base: bool = False
    compress: bool = False
    bitmaps: bool = False
    rate: int | None = None
    verify: bool = True
    encryption: EncryptionWish | None = None
    step: int = 1
    looks: _graph.Looks = field(default_factory=dict)

    @property
    def options(self) -> dict[str, str]:
        """The options of ``qemu-img create`` for the new image."""
        return creation_options(self.layout, self.encryption)

    @property
    def out_of_order(self) -> bool:
        """Whether data may be written in another order than it has: it then is compressed by many at once.

        An image in which each piece has its place anyway, or is found by tables, does not suffer; a stream does, and a
        qcow2 image that is not compressed would lie scattered.
        """
        return self.layout.format in ("raw", "luks") or (self.compress and self.layout.format == "qcow2")


def make(
    qemu_img: QemuImg,
    recipe: Recipe,
    source: t.Sequence[_image.Image],
    size: int,
    new_file: NewFile,
    phases: Phases,
) -> _image.Image:
    """Makes the image in *new_file*, as large as the source's *size*, and compares it where that is asked.

    *source* has the images that are read, top first. The new one neither is put in its place nor looks like its model
    yet. Raises DiskError where it is not what was to be made, or where the source was written to meanwhile; to
    withdraw the file is up to the caller.
    """
    _durable.sync_before_reading(*(file for image in source for file in image.files))
    as_read = [_same_file.last_write(file) for file in source[0].files]
    looks = {**_graph.looks_of(file for image in source for file in image.files), **recipe.looks}
    _graph.require_as_looked_at(source)
    new_file.begin()
    qemu_img = qemu_img.unlocking(_layers(qemu_img, recipe, new_file.name))
    with phases("convert", occupied(source)) as phase:
        _fill(qemu_img, recipe, source[0].virtual_size, new_file, phase.percent)
    wanted = rounded_up(size, recipe.step)
    _fit(qemu_img, recipe, new_file.name, source[0].virtual_size, size)
    image = _image.inspect(qemu_img, new_file.name, recipe.layout.format)
    _require_whole(new_file.path, image.virtual_size, wanted)
    if recipe.verify:
        with phases("compare", size) as phase, _durable.syncing(new_file.name):
            same = same_content(qemu_img, recipe, new_file.name, phase.percent)
        if not same:
            raise DiskError(
                f"{new_file.path}: the new image has other content than {recipe.source}: it was removed, and the "
                "source is as it was",
                path=new_file.path,
            )
    if [_same_file.last_write(file) for file in source[0].files] != as_read:
        raise DiskError(
            f"{recipe.source}: was written to while it was converted: the new image was removed: run again",
            path=recipe.source,
        )
    _graph.require_unmoved(looks)
    return image


def same_content(qemu_img: QemuImg, recipe: Recipe, path: str, report: Report | None = None) -> bool:
    """Whether a guest would see in the image at *path* what *recipe* reads."""
    source, target = (recipe.source, recipe.source_format), (path, recipe.layout.format)
    return _comparison.same_content(qemu_img, source, target, snapshot=recipe.snapshot, report=report)


def occupied(images: t.Sequence[_image.Image]) -> int:
    """The bytes that a conversion reads of *images*, a chain, as its files tell: without holes."""
    return min(images[0].virtual_size, sum(each.actual_size for each in images))


def _layers(qemu_img: QemuImg, recipe: Recipe, name: str) -> tuple[Layer, ...]:
    """The new image under *name*, and its backing file where that is encrypted, with the secrets that open them."""
    below = qemu_img.unlocked.get(recipe.base[0], ()) if recipe.base else ()
    return (Layer(name, recipe.layout.format, recipe.encryption.secret if recipe.encryption else None), *below)


def _fill(qemu_img: QemuImg, recipe: Recipe, size: int, new_file: NewFile, report: Report) -> None:
    if recipe.base is not None and not recipe.reads_base:
        _fill_with_differences(qemu_img, recipe, size, recipe.base, new_file, report)
        return
    qemu_img.convert(
        recipe.source,
        recipe.source_format,
        new_file.name,
        recipe.layout.format,
        recipe.options,
        compress=recipe.compress,
        out_of_order=recipe.out_of_order,
        snapshot=recipe.snapshot,
        backing=recipe.base,
        bitmaps=recipe.bitmaps,
        rate=recipe.rate,
        report=report,
    )


def _fill_with_differences(
    qemu_img: QemuImg, recipe: Recipe, size: int, base: tuple[str, str], new_file: NewFile, report: Report
) -> None:
    """Fills the file with what the source has otherwise than *base*.

    ``convert -B`` would copy all of a source that does not read *base* itself. An empty overlay of the source that is
    rebased gets the differences alone; ``rebase`` cannot compress them, so that they are copied once more then.
    """
    options = recipe.options
    name, image_format = new_file.name, recipe.layout.format
    if recipe.compress:
        name = os.path.join(os.path.dirname(new_file.name), sibling_name(os.path.basename(new_file.name), ".plain"))
    qemu_img.create(name, image_format, size, options, (recipe.source, recipe.source_format), unopened=True)
    top = _layers(qemu_img, recipe, name)[:1]
    below = qemu_img.unlocked.get(recipe.source, ())
    qemu_img.unlocking([*top, *below]).rebase(name, image_format, base, report=report)
    if recipe.compress:
        qemu_img.convert(
            name,
            image_format,
            new_file.name,
            image_format,
            options,
            compress=True,
            out_of_order=recipe.out_of_order,
            backing=base,
        )


def _fit(qemu_img: QemuImg, recipe: Recipe, name: str, found: int, size: int) -> None:
    """Gives the new image, which has *found* bytes, its own size. A snapshot, which has *size* bytes, was read at the
    size that its image has now; where that is less, nothing is made up for it."""
    wanted = rounded_up(size, recipe.step)
    if found != wanted and found >= size and (recipe.snapshot or recipe.step > 1):
        qemu_img.resize(name, recipe.layout.format, wanted, shrink=found > wanted)


def _require_whole(path: str, found: int, wanted: int) -> None:
    if found < wanted:
        raise DiskError(
            f"{path}: the new image has {found} bytes, wanted {wanted}: the formats do not fit: choose another",
            path=path,
        )
