# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What may be followed in an image that a guest or a stranger wrote: what the task names itself, and nothing else.

A reference in an image is read by QEMU with the rights of whoever runs it, so a planted one copies a foreign file into
the result (HAZARDS A7, F). It is looked for in the header, before qemu-img gets to see the image.
"""

from __future__ import annotations

import functools
import os
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._errors import UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._formats import headers as _headers
from ansible_collections.kvmops.disk.plugins.module_utils._formats import qcow2 as _qcow2
from ansible_collections.kvmops.disk.plugins.module_utils._host import block_device as _block_device
from ansible_collections.kvmops.disk.plugins.module_utils._image import image as _image
from ansible_collections.kvmops.disk.plugins.module_utils._size import exact_size, format_size

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg

#: A disk larger than this is no sound one, unless the task says so: even an empty one keeps qemu-img busy for long.
LARGEST = 64 * 1024**4
#: Nor has a sound one more internal snapshots than these: qemu-img reads all of them each time (HAZARDS F6).
MOST_SNAPSHOTS = 1024


@dataclass(frozen=True)
class Trust:
    """Whether the task trusts the images, and the files that it *declared*, which they may refer to anyway."""

    trusted: bool
    declared: tuple[str, ...] = ()

    def look(
        self, qemu_img: QemuImg, path: str, image_format: str, *, devices: bool = False
    ) -> tuple[_image.Image, ...]:
        """The image at *path*, and those below it; *qemu_img* gets to see only what may be followed.

        What is below a declared backing file belongs to that and is followed. Raises UnsafeImage where something is
        not to be followed, where the disk is larger than any sound one, where a raw image does not look like one, or
        where it is no file, nor, with *devices*, a block device; and what _image.inspect and _image.chain raise.
        """
        if not (devices and _block_device.is_block_device(path)):
            _image.require_regular_file(path)
        _image.require_format(path, image_format)
        self.require_harmless(path, image_format)
        look = functools.partial(_image.inspect, qemu_img, knows=self.knows)
        image = look(path, image_format)
        self.require_believable(image)
        return _image.chain(qemu_img, image, look)

    def knows(self, path: str) -> bool:
        """Whether an image may refer to the file at *path*, by whatever name."""
        return self.trusted or os.path.realpath(path) in self._real_names

    def require_harmless(self, path: str, image_format: str) -> None:
        """Raises UnsafeImage where the header refers to a file that the task does not name, or exaggerates."""
        with _headers.open_image(path) as stream:
            if self.trusted or (_headers.recognise(stream) or "raw") != image_format:
                return
            header = _qcow2.read_header(stream, path) if image_format == "qcow2" else None
            found = _headers.references_in(header) if header else _headers.references(stream, image_format, path)
        snapshots = header.snapshot_count if header else 0
        self._require_few_snapshots(path, snapshots)
        for name in found.data_files:
            self._require_known(name, path, f"keeps data in another file, {name!r}")
        if found.backing_file is not None:
            self._require_known(found.backing_file, path, f"reads the backing file {found.backing_file!r}")

    def require_believable(self, image: _image.Image) -> None:
        """Raises UnsafeImage where *image* claims more than any sound one, and keeps qemu-img busy by that."""
        self._require_few_snapshots(image.path, len(image.snapshots))
        if image.virtual_size > LARGEST and not self.trusted:
            raise UnsafeImage(
                f"{image.path}: claims to be a disk of {exact_size(image.virtual_size)}, and up to "
                f"{format_size(LARGEST)} are believed: set trusted=true if that is right",
                path=image.path,
                virtual_size=image.virtual_size,
            )

    def _require_few_snapshots(self, path: str, count: int) -> None:
        if count > MOST_SNAPSHOTS and not self.trusted:
            raise UnsafeImage(
                f"{path}: claims to hold {count} snapshots, and up to {MOST_SNAPSHOTS} are believed: "
                "set trusted=true if that is right",
                path=path,
            )

    @functools.cached_property
    def _real_names(self) -> frozenset[str]:
        return frozenset(os.path.realpath(known) for known in self.declared)

    def _require_known(self, reference: str, path: str, points: str) -> None:
        file = _headers.resolve(reference, path)
        if file is None or not self.knows(file):
            raise UnsafeImage(
                f"{path}: {points}, which the task does not name: following it could copy a foreign file: set "
                "trusted=true if you know that it belongs there",
                path=path,
                reference=reference,
            )


def require_writable_alone(image: _image.Image) -> None:
    """Raises where qemu-img would refuse to write *image* by itself, or would follow what the task does not name."""
    path = image.path
    if image.data_file is not None:
        raise UnsafeImage(
            f"{path}: keeps its data in another file, {image.data_file}, which the task does not name: not followed",
            path=path,
        )
    if image.corrupt or image.dirty:
        found = "is marked corrupt" if image.corrupt else "was not closed properly"
        raise UnsafeImage(
            f"{path}: {found}: check and repair it first (kvmops.disk.qcow2_check with repair=all)", path=path
        )


def require_not_corrupt(images: t.Iterable[_image.Image]) -> None:
    """Raises UnsafeImage where one of *images* cannot be believed."""
    for image in images:
        if image.corrupt:
            raise UnsafeImage(f"{image.path}: is marked corrupt: check and repair it first", path=image.path)
