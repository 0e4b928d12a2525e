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
import re
import stat
import struct
import typing as t
from dataclasses import dataclass

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
_VMDK_HEADER = struct.Struct("<4sIIQQQQ")
_VMDK_DESCRIPTOR_LIMIT = 1024 * 1024  # vmdk_read_desc in block/vmdk.c
_VMDK_PARENT_LIMIT = 20 * 512  # DESC_SIZE there
_VMDK_LONGEST_BLANKS = 4096
_VMDK_PARENT = "parentFileNameHint"
# Whatever QEMU's sscanf would take for an extent, and a little more: space may be missing around the type. Each part
# ends where the next begins, so that no text takes more than one pass.
_VMDK_EXTENT = re.compile(r'(?<!\S)(?:RW|RDONLY|NOACCESS)\s+[+-]?\d+\s*[^\s"]{1,10}?\s*"([^"\r\n]*)')
# How VMware, and QEMU after it, name the extents of NAME.vmdk.
_VMDK_OWN_EXTENT = re.compile(r"-(?:flat|delta|sesparse|[fs]\d{3,})")
_PROTOCOL = re.compile(r"[^/]*:")


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
        return os.fdopen(descriptor, "rb", buffering=0)
    os.close(descriptor)
    raise UnsafeImage(f"{path}: neither a regular file nor a block device, so it cannot hold a disk", path=path)


def length(path: str) -> int:
    """The bytes of the file or block device at *path*; a file is not opened for that.

    Raises as open_image does.
    """
    try:
        status = os.stat(path)
    except OSError:
        status = None
    if status is not None and stat.S_ISREG(status.st_mode):
        return status.st_size
    with open_image(path) as stream:
        return stream.seek(0, os.SEEK_END)


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
        header = _qcow2.read_header(stream, path)
        data = (header.data_file,) if header.external_data and header.data_file is not None else ()
        return References(header.backing_file, header.backing_format, data)
    if image_format == "qcow":
        return References(_qcow1_backing_file(stream))
    if image_format == "qed":
        return References(*_qed_backing_file(stream, path))
    if image_format == "vmdk":
        return _vmdk_references(stream, path)
    return References()


def resolve(reference: str, image: str) -> str | None:
    """The absolute path that *reference* means inside *image*; None where it is a protocol and not a file.

    A relative name counts from the directory of the name that the image was opened by; QEMU does not resolve
    symbolic links in it first (path_combine in block.c). To QEMU a name ends before its first NUL.
    """
    reference = reference.partition("\0")[0]
    if reference.startswith("file:") and not reference.startswith("file://"):
        reference = reference[len("file:") :]
    elif _PROTOCOL.match(reference):
        return None
    return os.path.normpath(os.path.join(os.path.dirname(image), reference))


def is_own_extent(extent: str, descriptor: str) -> bool:
    """Whether *extent*, as written in the VMDK descriptor at that path, is a plain file beside it that bears its name.

    Any other file beside it may be somebody else's disk (HAZARDS F5).
    """
    return bears_name_of(extent, descriptor) and not os.path.islink(os.path.join(os.path.dirname(descriptor), extent))


def bears_name_of(name: str, descriptor: str) -> bool:
    """Whether *name* is one that an extent of the VMDK descriptor at that path may have."""
    stem, suffix = os.path.splitext(os.path.basename(descriptor))
    middle = name[len(stem) : len(name) - len(suffix)]
    return name == f"{stem}{middle}{suffix}" and bool(_VMDK_OWN_EXTENT.fullmatch(middle))


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


def _vmdk_references(stream: t.BinaryIO, path: str) -> References:
    """The extents and the parent that a VMDK descriptor names."""
    return References(*_vmdk_parent(stream), tuple(_VMDK_EXTENT.findall(vmdk_descriptor(stream, path))))


def vmdk_descriptor(stream: t.BinaryIO, path: str) -> str:
    """The text in which the VMDK open as *stream* names its extents; empty where it is its only one.

    A sparse file with a capacity is. Raises UnsafeImage for a text that QEMU reads for hours: at each line it skips all
    blanks to the next word.
    """
    at = 0
    if _is_vmdk_sparse(stream):
        head = _qcow2.read_at(stream, 0, _VMDK_HEADER.size)
        if not head.startswith(b"KDMV") or len(head) < _VMDK_HEADER.size:
            return ""
        _magic, _version, _flags, capacity, _grain, descriptor_sector, _length = _VMDK_HEADER.unpack(head)
        if capacity or not descriptor_sector:
            return ""
        at = descriptor_sector * 512 % (1 << 64)
    text = _text_at(stream, at, _VMDK_DESCRIPTOR_LIMIT)
    if any(len(blanks[0]) > _VMDK_LONGEST_BLANKS for blanks in re.finditer(r"\s+", text)):
        raise UnsafeImage(f"{path}: its descriptor holds more than {_VMDK_LONGEST_BLANKS} blanks in a row: not read")
    return text


def _is_vmdk_sparse(stream: t.BinaryIO) -> bool:
    return _qcow2.read_at(stream, 0, 4) in (b"KDMV", b"COWD")


def _vmdk_parent(stream: t.BinaryIO) -> tuple[str | None, str | None]:
    """The parent and its format: what stands between quotation marks after the first mention of its key."""
    _before, key, after = vmdk_text(stream).partition(_VMDK_PARENT)
    return (after[2:].partition('"')[0], "vmdk") if key else (None, None)


def vmdk_text(stream: t.BinaryIO) -> str:
    """Where QEMU looks for the parent of the VMDK open as *stream*: behind the header of a sparse file, wherever its
    descriptor is (vmdk_parent_open in block/vmdk.c)."""
    return _text_at(stream, 512 if _is_vmdk_sparse(stream) else 0, _VMDK_PARENT_LIMIT)


def _text_at(stream: t.BinaryIO, at: int, most: int) -> str:
    return _qcow2.read_at(stream, at, most).split(b"\0", 1)[0].decode(errors="surrogateescape")


def _name_at(stream: t.BinaryIO, offset: int, length: int) -> str:
    return _qcow2.read_at(stream, offset, min(length, 4096)).decode(errors="surrogateescape")
