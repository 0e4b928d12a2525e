# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What headers say and QEMU does not read: parents, sizes, logs, extensions. What it would lose is refused.

After the published descriptions of VHD, VHDX, VDI, VMDK and Parallels, held against block/vpc.c, vhdx.c, vdi.c, vmdk.c
and parallels.c of QEMU. Of qcow2, qcow, qed, luks and bochs, QEMU reads or refuses everything that changes content.
"""

from __future__ import annotations

import os
import re
import struct
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._errors import UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._formats import headers as _headers
from ansible_collections.kvmops.disk.plugins.module_utils._formats import qcow2 as _qcow2
from ansible_collections.kvmops.disk.plugins.module_utils._formats import vmdk as _vmdk

_VPC_COOKIE = b"conectix"
_VPC_FOOTER = struct.Struct(">8s40xQ4xI")  # the cookie, the current size, the type of the disk
_VPC_DIFFERENCING = 4
_VDI_TYPE = 0x4C
_VDI_WHOLE = (1, 2)  # dynamic and static; the others are undo and differencing images
_VHDX_HEADERS = (64 << 10, 128 << 10)
_VHDX_HEADER = struct.Struct("<4sIQ32x16s")  # the signature, the checksum, the sequence number, the log's GUID
_PARALLELS_EXTENSION = struct.Struct("<56xQ")
_VMDK_PARENT_ID = r"(?m)^\s*parentCID\s*=\s*([0-9a-fA-F]+)"
_VMDK_NO_PARENT = 0xFFFF_FFFF


def require_nothing_unread(stream: t.BinaryIO, image_format: str, path: str) -> None:
    """Raises UnsafeImage where the image open as *stream* has content that QEMU does not see."""
    check = _CHECKS.get(image_format)
    if check is not None:
        check(stream, path)


def names_log(stream: t.BinaryIO) -> bool:
    """Whether the VHDX image open as *stream* names a log. QEMU opens it if there is nothing in that."""
    newest: tuple[int, bytes] = (-1, bytes(16))
    for at in _VHDX_HEADERS:
        signature, _checksum, number, guid = _fields(stream, at, _VHDX_HEADER)
        if signature == b"head":
            newest = max(newest, (number, guid))
    return any(newest[1])


def not_replayed(path: str) -> UnsafeImage:
    """The error for a VHDX image of which nothing can be read before its log is replayed (HAZARDS P5)."""
    return UnsafeImage(
        f"{path}: was not closed: its log holds writes that are not in their place yet: have it replayed with "
        "kvmops.disk.qcow2_check and repair=all, which writes to the image",
        path=path,
    )


def has_extension(stream: t.BinaryIO) -> bool:
    """Whether the Parallels image open as *stream* has an extension, which QEMU's repair cuts off (HAZARDS P4)."""
    return bool(_fields(stream, 0, _PARALLELS_EXTENSION)[0])


def require_true_size(stream: t.BinaryIO, virtual_size: int, path: str) -> None:
    """Raises UnsafeImage where a VHD is larger than the *virtual_size* that QEMU finds by its geometry (HAZARDS P3)."""
    size = _vpc_footer(stream)[0]
    if size > virtual_size:
        raise UnsafeImage(
            f"{path}: its footer says {size} bytes, and QEMU reads {virtual_size} of them, by its geometry: the end "
            "would be lost: have the program that made it convert it to a VHDX or a raw image",
            path=path,
            size=size,
            virtual_size=virtual_size,
        )


def _require_whole_vpc(stream: t.BinaryIO, path: str) -> None:
    if _vpc_footer(stream)[1] == _VPC_DIFFERENCING:
        raise _with_parent("VHD", path)


def _require_whole_vdi(stream: t.BinaryIO, path: str) -> None:
    (kind,) = _fields(stream, _VDI_TYPE, struct.Struct("<I"))
    if kind not in _VDI_WHOLE:
        raise _with_parent("VDI", path)


def _require_whole_vmdk(stream: t.BinaryIO, path: str) -> None:
    _require_named_parent(stream, path)
    _read, misread = _vmdk.extents(stream, path)
    if misread:
        raise UnsafeImage(
            f"{path}: its descriptor has the extent {misread[0]!r}, which QEMU passes over as it stands there, or "
            "reads twice: it would be lost, or what follows would be at another place: have the program "
            "that made it convert it to a VMDK of a single file, or to a raw image",
            path=path,
        )


def _require_named_parent(stream: t.BinaryIO, path: str) -> None:
    found = re.search(_VMDK_PARENT_ID, _vmdk.text_with_parent(stream))
    differs = found is not None and int(found[1], 16) & _VMDK_NO_PARENT != _VMDK_NO_PARENT
    if differs and _headers.references(stream, "vmdk", path).backing_file is None:
        raise _with_parent("VMDK", path)


def _with_parent(kind: str, path: str) -> UnsafeImage:
    return UnsafeImage(
        f"{path}: is a differencing {kind}: it holds what differs from a parent, which QEMU does not read: merge it "
        "into its parent with the program that made it, and use that image",
        path=path,
    )


def _vpc_footer(stream: t.BinaryIO) -> tuple[int, int]:
    """The current size, and the type of the disk. A copy of the footer begins an image that is not of a fixed size."""
    length = stream.seek(0, os.SEEK_END)
    for at in (0, length - 512):
        cookie, size, kind = _fields(stream, at, _VPC_FOOTER)
        if cookie == _VPC_COOKIE:
            return size, kind
    return 0, 0


def _fields(stream: t.BinaryIO, at: int, fields: struct.Struct) -> tuple[t.Any, ...]:
    return fields.unpack(_qcow2.read_at(stream, max(at, 0), fields.size).ljust(fields.size, b"\0"))


_CHECKS: dict[str, t.Callable[[t.BinaryIO, str], None]] = {
    "vpc": _require_whole_vpc,
    "vdi": _require_whole_vdi,
    "vmdk": _require_whole_vmdk,
}
