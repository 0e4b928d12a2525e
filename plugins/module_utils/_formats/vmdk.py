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
# How VMware, and QEMU after it, name the extents of NAME.vmdk.
_OWN_EXTENT = r"-(?:flat|delta|sesparse|[fs]\d{3,})"


def references(stream: t.BinaryIO, path: str) -> tuple[str | None, str | None, tuple[str, ...]]:
    """The parent that the descriptor names, its format, and the extents; a sparse file with a capacity is its own.

    QEMU looks for the parent behind the header of a sparse file, wherever its descriptor is (vmdk_open and
    vmdk_parent_open in block/vmdk.c).
    """
    stream.seek(0)
    head = stream.read(_HEADER.size)
    if not head.startswith((b"KDMV", b"COWD")):
        return (*_parent(stream, 0), _extents(stream, 0, path))
    extents: tuple[str, ...] = ()
    if head.startswith(b"KDMV") and len(head) == _HEADER.size:
        _magic, _version, _flags, capacity, _grain, descriptor_sector, _length = _HEADER.unpack(head)
        if capacity == 0 and descriptor_sector:
            extents = _extents(stream, descriptor_sector * 512 % (1 << 64), path)
    return (*_parent(stream, 512), extents)


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


def _extents(stream: t.BinaryIO, at: int, path: str) -> tuple[str, ...]:
    """Raises UnsafeImage for a text that QEMU reads for hours: at each line it skips all blanks to the next word."""
    text = _text_at(stream, at, _DESCRIPTOR_LIMIT)
    if any(len(blanks[0]) > _LONGEST_BLANKS for blanks in re.finditer(r"\s+", text)):
        raise UnsafeImage(f"{path}: its descriptor holds more than {_LONGEST_BLANKS} blanks in a row: not read")
    return tuple(re.findall(_EXTENT, text))


def _parent(stream: t.BinaryIO, at: int) -> tuple[str | None, str | None]:
    """The parent and its format: what stands between quotation marks after the first mention of its key."""
    _before, key, after = _text_at(stream, at, _PARENT_LIMIT).partition(_PARENT)
    return (after[2:].partition('"')[0], "vmdk") if key else (None, None)


def _text_at(stream: t.BinaryIO, at: int, most: int) -> str:
    return read_at(stream, at, most).split(b"\0", 1)[0].decode(errors="surrogateescape")
