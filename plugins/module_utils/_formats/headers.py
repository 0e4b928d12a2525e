# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a file says it is, and what it points to, by its own first bytes.

qemu-img finds a format out by the same bytes, but opens what they point to on the way. Here nothing is opened but
the file itself. What a guest can write is never a reason to *choose* a format (a raw disk may begin with anything):
the answers serve to refuse, to describe, and to find overlays.
"""

from __future__ import annotations

import os
import stat
import struct
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._errors import MissingImage, UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._formats import qcow2 as _qcow2

_MAGIC = (
    (0, b"QED\0", "qed"),
    (0, b"KDMV", "vmdk"),
    (0, b"COWD", "vmdk"),
    (0, b"# Disk DescriptorFile", "vmdk"),
    (0, b"vhdxfile", "vhdx"),
    (0, b"conectix", "vpc"),
    (0, b"LUKS\xba\xbe", "luks"),
    (0, b"WithoutFreeSpace", "parallels"),
    (0, b"WithouFreSpacExt", "parallels"),
    (0x40, b"\x7f\x10\xda\xbe", "vdi"),
    (0, b"Bochs Virtual HD Image\0", "bochs"),
    (0, b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 ", "cloop"),
)
#: What begins the last sector: a fixed-size VHD has nothing else, nor has Apple's disk image.
_TRAILERS = ((b"conectix", "vpc"), (b"koly\0\0\0\4", "dmg"))
_QED_HEADER = struct.Struct("<4sIIIQQQQQII")
_QED_BACKING = 1
#: A header is read in many small pieces: one system call has nearly always all of them.
_AT_ONCE = 4096


@dataclass(frozen=True)
class References:
    """What an image needs besides itself, as written in it: a backing file, and files that hold its data."""

    backing_file: str | None = None
    backing_format: str | None = None
    data_files: tuple[str, ...] = ()


def open_image(path: str) -> t.BinaryIO:
    """*path* open for reading, where it is a regular file or a block device; a FIFO or a tty never blocks us.

    Raises MissingImage where nothing is there, UnsafeImage where something else is, or it cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except (FileNotFoundError, NotADirectoryError):
        raise MissingImage(f"{path}: no such image", path=path) from None
    except OSError as error:
        raise UnsafeImage(f"{path}: cannot be read: {error.strerror}", path=path) from error
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode) or stat.S_ISBLK(mode):
        return os.fdopen(descriptor, "rb", buffering=_AT_ONCE)
    os.close(descriptor)
    raise no_image(path, mode)


def no_image(path: str, mode: int) -> UnsafeImage:
    """The error for what stands at *path*, with *mode*, and is no image: a directory most of the time."""
    if stat.S_ISDIR(mode):
        return UnsafeImage(
            f"{path}: is a directory, neither a regular file nor a block device: name the image in it", path=path
        )
    return UnsafeImage(f"{path}: neither a regular file nor a block device, so it cannot hold a disk", path=path)


def is_unreadable(error: Exception) -> bool:
    """Whether *error* says that a file is there and cannot be read: not that it is gone, or no sound image."""
    cause = error if isinstance(error, OSError) else error.__cause__
    return isinstance(cause, OSError) and not isinstance(cause, (FileNotFoundError, NotADirectoryError))


def recognise(stream: t.BinaryIO) -> str | None:
    """The format that the first bytes of *stream* claim, in QEMU's word for it; None where they claim none (raw)."""
    stream.seek(0)
    head = stream.read(512)
    if head.startswith(_qcow2.MAGIC):
        return "qcow" if head[4:8] == b"\0\0\0\x01" else "qcow2"
    for offset, magic, name in _MAGIC:
        if head[offset : offset + len(magic)] == magic:
            return name
    length = stream.seek(0, os.SEEK_END)
    if length >= 512:
        stream.seek(length - 512)
        last = stream.read(8)
        for magic, name in _TRAILERS:
            if last == magic:
                return name
    return None


def references(stream: t.BinaryIO, image_format: str, path: str) -> References:
    """What the image open as *stream* points to, read as *image_format*; formats without references have none.

    Raises UnsafeImage where its header is damaged.
    """
    if image_format == "qcow2":
        return references_in(_qcow2.read_header(stream, path))
    if image_format == "qcow":
        return References(_qcow1_backing_file(stream))
    if image_format == "qed":
        return References(*_qed_backing_file(stream, path))
    if image_format == "vmdk":
        from ansible_collections.kvmops.disk.plugins.module_utils._formats import vmdk as _vmdk

        return References(*_vmdk.references(stream, path))
    return References()


def references_in(header: _qcow2.Header) -> References:
    """What a qcow2 image points to, by its *header*."""
    data = (header.data_file,) if header.external_data and header.data_file is not None else ()
    return References(header.backing_file, header.backing_format, data)


def resolve(reference: str, image: str) -> str | None:
    """The absolute path that *reference* means inside *image*; None where it is a protocol and not a file.

    A relative name counts from the directory of the name that the image was opened by; QEMU does not resolve
    symbolic links in it first (path_combine in block.c). To QEMU a name ends before its first NUL.
    """
    reference = reference.partition("\0")[0]
    if reference.startswith("file:") and not reference.startswith("file://"):
        reference = reference[len("file:") :]
    elif ":" in reference.partition("/")[0]:
        return None
    return os.path.normpath(os.path.join(os.path.dirname(image), reference))


def _qcow1_backing_file(stream: t.BinaryIO) -> str | None:
    stream.seek(8)
    offset, length = struct.unpack(">QI", stream.read(12).ljust(12, b"\0"))
    return _name_at(stream, offset, length) if offset else None


def _qed_backing_file(stream: t.BinaryIO, path: str) -> tuple[str | None, str | None]:
    """QEMU docs/interop/qed_spec: feature bit 0 says that there is a backing file, bit 2 that it is raw."""
    stream.seek(0)
    head = stream.read(_QED_HEADER.size)
    if len(head) < _QED_HEADER.size:
        raise UnsafeImage(f"{path}: the qed header is cut off after {len(head)} bytes")
    fields = _QED_HEADER.unpack(head)
    features, offset, length = fields[4], fields[9], fields[10]
    if not features & _QED_BACKING:
        return None, None
    return _name_at(stream, offset, length), "raw" if features & 4 else None


def _name_at(stream: t.BinaryIO, offset: int, length: int) -> str:
    return _qcow2.read_at(stream, offset, min(length, 4096)).decode(errors="surrogateescape")
