# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The descriptor of a VMDK: the files that hold its data, and its parent, as they are written there."""

from __future__ import annotations

import os
import re
import struct
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._errors import UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._formats.qcow2 import read_at

_HEADER = struct.Struct("<4sIIQQQQ")
_DESCRIPTOR_LIMIT = 1024 * 1024  # vmdk_read_desc in block/vmdk.c
_PARENT_LIMIT = 20 * 512  # DESC_SIZE there
_LONGEST_BLANKS = 4096
_PARENT = "parentFileNameHint"
# Whatever QEMU's sscanf would take for an extent, and a little more: space may be missing around the type. Each part
# ends where the next begins, so that no text takes more than one pass.
_EXTENT = r'(?<!\S)(?:RW|RDONLY|NOACCESS)\s+[+-]?\d+\s*[^\s"]{1,10}?\s*"([^"\r\n]*)'
# An extent as QEMU reads it: its sectors, then its type, its file, and the sector of the file at which it begins.
_READ_EXTENT = re.compile(
    r"\s*RW\s+(\d+)\s+"
    r'(?:(FLAT)\s+"([^"\r\n]+)"\s+(\d+)|(VMFS|SPARSE|VMFSSPARSE|SESPARSE)\s+"([^"\r\n]+)")(?:\s[^\r]*)?\r?'
)
_BEGINS_AS_EXTENT = re.compile(r"\s*(?:RW|RDONLY|NOACCESS)(?!\S)", re.IGNORECASE)
# How VMware, and QEMU after it, name the extents of NAME.vmdk.
_OWN_EXTENT = r"-(?:flat|delta|sesparse|[fs]\d{3,})"


class Extent(t.NamedTuple):
    """A part of a disk, in sectors, and where it is: behind the sector *first* of *file*, as it is named there."""

    sectors: int
    kind: str
    file: str
    first: int


def references(stream: t.BinaryIO, path: str) -> tuple[str | None, str | None, tuple[str, ...]]:
    """The parent that the VMDK open as *stream* names, its format, and the extents that it names."""
    return (*_parent(stream), tuple(re.findall(_EXTENT, descriptor(stream, path))))


def extents(stream: t.BinaryIO, path: str) -> tuple[list[Extent], list[str]]:
    """The extents that QEMU reads of those in the VMDK open as *stream*, and the lines of those that it passes over, or
    reads twice, as it does after an empty line.

    Raises UnsafeImage as descriptor does.
    """
    read, misread = [], []
    before = "#"
    for line in descriptor(stream, path).split("\n"):
        found = _READ_EXTENT.fullmatch(line)
        if found and before.strip():
            sectors, flat, flat_file, first, kind, file = found.groups()
            read.append(Extent(int(sectors), flat or kind, flat_file or file, int(first or 0)))
        elif found or _BEGINS_AS_EXTENT.match(line):
            misread.append(line.strip())
        before = line
    return read, misread


def descriptor(stream: t.BinaryIO, path: str) -> str:
    """The text in which the VMDK open as *stream* names its extents; empty where it is its only one.

    A sparse file with a capacity is. Raises UnsafeImage for a text that QEMU reads for hours: at each line it skips all
    blanks to the next word.
    """
    at = 0
    if _is_sparse(stream):
        head = read_at(stream, 0, _HEADER.size)
        if not head.startswith(b"KDMV") or len(head) < _HEADER.size:
            return ""
        _magic, _version, _flags, capacity, _grain, descriptor_sector, _length = _HEADER.unpack(head)
        if capacity or not descriptor_sector:
            return ""
        at = descriptor_sector * 512 % (1 << 64)
    text = _text_at(stream, at, _DESCRIPTOR_LIMIT)
    if any(len(blanks[0]) > _LONGEST_BLANKS for blanks in re.finditer(r"\s+", text)):
        raise UnsafeImage(f"{path}: its descriptor holds more than {_LONGEST_BLANKS} blanks in a row: not read")
    return text


def text_with_parent(stream: t.BinaryIO) -> str:
    """Where QEMU looks for the parent of the VMDK open as *stream*: behind the header of a sparse file, wherever its
    descriptor is (vmdk_parent_open in block/vmdk.c)."""
    return _text_at(stream, 512 if _is_sparse(stream) else 0, _PARENT_LIMIT)


def is_own_extent(extent: str, descriptor: str) -> bool:
    """Whether *extent*, as written in the VMDK descriptor at that path, is a plain file beside it that bears its name.

    Any other file beside it may be somebody else's disk (HAZARDS F5).
    """
    return bears_name_of(extent, descriptor) and not os.path.islink(os.path.join(os.path.dirname(descriptor), extent))


def bears_name_of(name: str, descriptor: str) -> bool:
    """Whether *name* is one that an extent of the VMDK descriptor at that path may have."""
    stem, suffix = os.path.splitext(os.path.basename(descriptor))
    middle = name[len(stem) : len(name) - len(suffix)]
    return name == f"{stem}{middle}{suffix}" and bool(re.fullmatch(_OWN_EXTENT, middle))


def _is_sparse(stream: t.BinaryIO) -> bool:
    return read_at(stream, 0, 4) in (b"KDMV", b"COWD")


def _parent(stream: t.BinaryIO) -> tuple[str | None, str | None]:
    """The parent and its format: what stands between quotation marks after the first mention of its key."""
    _before, key, after = text_with_parent(stream).partition(_PARENT)
    return (after[2:].partition('"')[0], "vmdk") if key else (None, None)


def _text_at(stream: t.BinaryIO, at: int, most: int) -> str:
    return read_at(stream, at, most).split(b"\0", 1)[0].decode(errors="surrogateescape")
