# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Everything known about one image and the chain below it; looks only, and never at a file that was not named."""

from __future__ import annotations

import functools
import os
import stat
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._errors import QemuImgFailed, UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._formats import headers as _headers
from ansible_collections.kvmops.disk.plugins.module_utils._formats import qcow2 as _qcow2
from ansible_collections.kvmops.disk.plugins.module_utils._size import SECTOR

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._formats.snapshots import Snapshot
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg

#: A chain deeper than this is taken for a mistake or an attack; libvirt's own limit is 200, sane chains have a few.
DEEPEST_CHAIN = 64

#: Tells of a file that an image points to whether the task knows that it belongs there.
Knows = t.Callable[[str], bool]
#: The format of an image, what it points to, and its header where it is qcow2.
FirstLook = tuple[str, _headers.References, t.Optional[_qcow2.Header]]


@dataclass(frozen=True)
class Encryption:
    """How an image is encrypted, in QEMU's words; *format* is luks, or aes, which QEMU can only read any more.

    *taken_slots* are the numbers of those that hold a key.
    """

    format: str
    cipher_alg: str | None = None
    cipher_mode: str | None = None
    ivgen_alg: str | None = None
    ivgen_hash_alg: str | None = None
    hash_alg: str | None = None
    taken_slots: tuple[int, ...] = ()

    def facts(self) -> dict[str, t.Any]:
        """The encryption as a module returns it."""
        words = {name: value for name, value in vars(self).items() if name != "taken_slots"}
        return {**words, "key_slots": len(self.taken_slots)}


@dataclass(frozen=True)
class Image:
    """The facts of one image; sizes in bytes, paths absolute, None where the format does not know the thing.

    *backing_file* is the path that the image's own reference means; where that is no file but a protocol, it is the
    reference as written. *data_file* is the first file that holds data for it; *extents* are all of those of a VMDK.
    """

    path: str
    format: str
    virtual_size: int
    actual_size: int
    cluster_size: int | None = None
    compat: str | None = None
    lazy_refcounts: bool | None = None
    refcount_bits: int | None = None
    extended_l2: bool | None = None
    compression_type: str | None = None
    encrypted: bool = False
    encryption: Encryption | None = None
    dirty: bool = False
    corrupt: bool = False
    backing_file: str | None = None
    backing_format: str | None = None
    data_file: str | None = None
    extents: tuple[str, ...] = ()
    snapshots: tuple[Snapshot, ...] = ()

    @property
    def files(self) -> tuple[str, ...]:
        """The files in which it is, without those below it."""
        data = self.extents or ((self.data_file,) if self.data_file is not None else ())
        return (self.path, *data)

    @property
    def is_thick(self) -> bool:
        """Whether it occupies as much as its disk has: it was reserved, or written to the last cluster."""
        return self.actual_size >= self.virtual_size > 0

    def facts(self) -> dict[str, t.Any]:
        """The image as a module returns it."""
        own = {name: getattr(self, name) for name in self.__dataclass_fields__}
        own["encryption"] = self.encryption.facts() if self.encryption else None
        own["extents"] = list(self.extents)
        return {**own, "snapshots": [dict(vars(snapshot)) for snapshot in self.snapshots]}


def claimed_format(path: str) -> str:
    """The format that the first bytes of *path* claim; raw where they claim none."""
    with _headers.open_image(path) as stream:
        return _headers.recognise(stream) or "raw"


def require_format(path: str, image_format: str) -> None:
    """Raises UnsafeImage where *image_format* is raw and *path* begins like another format (HAZARDS A15).

    It may be a raw disk whose guest wrote such a header, or not a raw disk at all: nobody can tell from here.
    """
    if image_format != "raw":
        return
    claimed = claimed_format(path)
    if claimed != "raw":
        raise UnsafeImage(
            f"{path}: asked for a raw image, but its content begins like {claimed}: name that format if it is one; "
            "a raw disk whose guest wrote such a header is not touched by this module",
            path=path,
            format=claimed,
        )


def require_regular_file(path: str) -> None:
    """Raises UnsafeImage where *path* is a block device, which a file cannot replace one for one."""
    if os.path.isdir(path):
        raise _headers.no_image(path, stat.S_IFDIR)
    if os.path.exists(path) and not os.path.isfile(path):
        raise UnsafeImage(f"{path}: is not a regular file, and this is only done to image files", path=path)


def inspect(qemu_img: QemuImg, path: str, image_format: str | None = None, *, knows: Knows | None = None) -> Image:
    """The facts of the image at *path*, read as *image_format*, or as what its first bytes claim.

    *qemu_img* is asked only where the header leaves a doubt. *knows* is asked about the extents of a VMDK, which QEMU
    opens at a mere look; without it, those are taken that bear its name.

    Nothing but the file itself is opened, whatever it refers to. Raises MissingImage, UnsafeImage (another format
    than *image_format*, a damaged header, features that nobody knows, content that QEMU does not see, references that
    it would follow at a mere look), or QemuImgFailed.
    """
    return described(qemu_img, path, first_look(path, image_format, knows))


def described(qemu_img: QemuImg, path: str, looked: FirstLook) -> Image:
    """The facts of the image at *path* after a first look at it. Raises what inspect raises."""
    image_format, points_to, header = looked
    snapshots = _snapshots(path, header) if header and header.snapshot_count else ()
    told = _told_by_header(path, image_format, header) or _told(qemu_img, path, image_format)
    if image_format == "vpc":
        from ansible_collections.kvmops.disk.plugins.module_utils._image.foreign import require_true_size

        require_true_size(path, told["virtual-size"])
    data_files = tuple(_headers.resolve(name, path) or name for name in points_to.data_files)
    return Image(
        path=path,
        format=image_format,
        virtual_size=told["virtual-size"],
        actual_size=told["actual-size"],
        encrypted=bool(told.get("encrypted")),
        encryption=_encryption(told, image_format),
        backing_file=_resolved(points_to.backing_file, path),
        backing_format=points_to.backing_format,
        data_file=data_files[0] if data_files else None,
        extents=data_files if image_format == "vmdk" else (),
        snapshots=snapshots,
        **_specifics(told, header),
    )


def first_look(path: str, image_format: str | None = None, knows: Knows | None = None) -> FirstLook:
    """The format of the image at *path*, what it points to, and its header where it is qcow2, before qemu-img opens it.

    Raises MissingImage, or UnsafeImage as inspect does.
    """
    with _headers.open_image(path) as stream:
        claimed = _headers.recognise(stream) or "raw"
        image_format = image_format or claimed
        if image_format not in ("raw", claimed):
            raise UnsafeImage(
                f"{path}: found a {claimed} image, asked for {image_format}: name the right format, "
                "or convert the image",
                path=path,
                format=claimed,
            )
        header = _qcow2.read_header(stream, path) if image_format == "qcow2" else None
        points_to = _headers.references_in(header) if header else _headers.references(stream, image_format, path)
        if image_format not in ("raw", "qcow2"):
            from ansible_collections.kvmops.disk.plugins.module_utils._image.foreign import require_sound

            require_sound(stream, image_format, path, points_to.data_files, knows)
    if header and header.unknown_incompatible:
        raise UnsafeImage(
            f"{path}: the image needs features that no known QEMU has "
            f"(incompatible bits {header.unknown_incompatible:#x})",
            path=path,
        )
    return image_format, points_to, header


def chain(qemu_img: QemuImg, top: Image, look: t.Callable[[str, str], Image] | None = None) -> tuple[Image, ...]:
    """*top* and the images below it, as their headers name them. Each file is opened by itself, with its own format.

    *look* gives the image below at a path, in a format, or refuses it; without it, inspect does.

    Raises UnsafeImage where the chain runs in a circle, is deeper than 64, leaves the files of this host, or does
    not say a format; MissingImage where a file of it is missing.
    """
    return tuple(descent(top, look or functools.partial(inspect, qemu_img)))


def descent(top: Image, look: t.Callable[[str, str], Image]) -> t.Iterator[Image]:
    """The images of chain(), one after the other: the next one is not looked at before it is asked for."""
    above = top
    seen = {_identity(top.path)}
    yield top
    while above.backing_file is not None:
        below = above.backing_file
        if not os.path.isabs(below):
            raise UnsafeImage(f"{above.path}: its backing file {below!r} is not a file on this host", path=above.path)
        if above.backing_format is None:
            raise UnsafeImage(
                f"{above.path}: it does not say the format of its backing file {below}: QEMU would guess it from "
                "content that a guest may have written; record it with kvmops.disk.qcow2_image (backing_file and "
                "backing_format)",
                path=above.path,
            )
        image = look(below, above.backing_format)
        identity = _identity(below)
        if identity in seen:
            raise UnsafeImage(f"{top.path}: the backing chain runs in a circle at {below}", path=top.path)
        if len(seen) >= DEEPEST_CHAIN:
            raise UnsafeImage(f"{top.path}: the backing chain is deeper than {DEEPEST_CHAIN}", path=top.path)
        seen.add(identity)
        above = image
        yield image


def _identity(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _resolved(reference: str | None, path: str) -> str | None:
    return (_headers.resolve(reference, path) or reference) if reference is not None else None


def _snapshots(path: str, header: _qcow2.Header) -> tuple[Snapshot, ...]:
    from ansible_collections.kvmops.disk.plugins.module_utils._formats.snapshots import read_snapshots

    with _headers.open_image(path) as stream:
        return read_snapshots(stream, header, path)


def _told(qemu_img: QemuImg, path: str, image_format: str) -> dict[str, t.Any]:
    try:
        return qemu_img.info(path, image_format)
    except QemuImgFailed as error:
        from ansible_collections.kvmops.disk.plugins.module_utils._image.foreign import require_replayed
        from ansible_collections.kvmops.disk.plugins.module_utils._image.whole import cut_short, find_cut

        require_replayed(path, image_format, error)
        lost = None if image_format == "qcow2" else find_cut(path, image_format)  # what is wrong there, QEMU says
        if lost is not None:
            raise cut_short(path, lost) from error
        raise


def _told_by_header(path: str, image_format: str, header: _qcow2.Header | None) -> dict[str, t.Any] | None:
    """What qemu-img info would say of a raw file, or of a qcow2 image beyond doubt; None for all others."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        return None
    actual = {"actual-size": status.st_blocks * 512}
    if image_format == "raw":
        return {**actual, "virtual-size": -(-status.st_size // SECTOR) * SECTOR}
    if header is None or not header.is_beyond_doubt(status.st_size):
        return None
    specific = {"data": {"compression-type": header.compression_type}}
    return {
        **actual,
        "virtual-size": header.virtual_size,
        "cluster-size": header.cluster_size,
        "format-specific": specific,
    }


def _encryption(told: dict[str, t.Any], image_format: str) -> Encryption | None:
    """A header of LUKS says all but the keys; qemu-img needs none to read it."""
    specific = told.get("format-specific", {}).get("data", {})
    found = specific if image_format == "luks" else specific.get("encrypt")
    if found is None:
        return None
    words = ("cipher-alg", "cipher-mode", "ivgen-alg", "ivgen-hash-alg", "hash-alg")
    return Encryption(
        found.get("format", "luks"),
        **{word.replace("-", "_"): found.get(word) for word in words},
        taken_slots=tuple(number for number, slot in enumerate(found.get("slots", ())) if slot["active"]),
    )


def _specifics(told: dict[str, t.Any], header: _qcow2.Header | None) -> dict[str, t.Any]:
    """What only some formats have, under the names of the facts."""
    specific = told.get("format-specific", {}).get("data", {})
    known: dict[str, t.Any] = {"cluster_size": told.get("cluster-size")}
    if header is not None:
        known.update(
            compat=header.compat,
            lazy_refcounts=header.lazy_refcounts,
            refcount_bits=header.refcount_bits,
            extended_l2=header.extended_l2,
            compression_type=specific.get("compression-type", "zlib"),
            dirty=header.dirty,
            corrupt=header.corrupt,
        )
    return known
