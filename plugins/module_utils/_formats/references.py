# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which files an image points to, by its first bytes alone, and when two names are one file.

Thousands of images are looked at before a base is written. So one read decides for nearly all of them, and what is
read is the image itself: never what it points to.
"""

from __future__ import annotations

import json
import os
import stat
import struct
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._errors import UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._formats import headers as _headers
from ansible_collections.kvmops.disk.plugins.module_utils._formats import qcow2 as _qcow2

#: Device and inode; a canonical name where nothing is there.
Identity = t.Union[tuple[int, int], str]

#: The whole header of nearly every qcow2 image: QEMU writes the name of the backing file right behind it.
_HEAD = 4096
#: Magic, version, offset and length of the backing file's name; the incompatible features of version 3.
_QCOW2 = struct.Struct(">4sIQI52xQ")
_EXTERNAL_DATA = 1 << 2
_LONGEST_NAME = 1023
#: How images of the other formats with references begin. A qcow image begins as a qcow2 one.
_OTHERS = (b"QED\0", b"KDMV", b"COWD", b"# Disk DescriptorFile")
_DISKS = (stat.S_IFREG, stat.S_IFBLK)
_TO_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


def identity(path: str) -> Identity:
    """Device and inode of the file at *path*, through links; its name made canonical where nothing is there yet."""
    try:
        status = os.stat(path)
    except OSError:
        return os.path.realpath(path)
    return status.st_dev, status.st_ino


def pointed_to(path: str) -> list[str]:
    """The files of this host that the image at *path* points to, as absolute names: backing, data and extent files.

    None where it is no image. Raises as written() does.
    """
    return [name for reference in written(path)[1] for name in meant(reference, os.path.dirname(path))]


def written(path: str) -> tuple[tuple[int, int], t.Sequence[str]]:
    """Device and inode of the image at *path*, and its references as they are written in it.

    Raises OSError where it cannot be read, UnsafeImage where its header is damaged or it is neither a regular file nor
    a block device: QEMU does not read such a one either.
    """
    descriptor = os.open(path, _TO_READ)
    try:
        status = os.fstat(descriptor)
        if stat.S_IFMT(status.st_mode) not in _DISKS:
            raise UnsafeImage(f"{path}: neither a regular file nor a block device, so it cannot hold a disk", path=path)
        head = os.read(descriptor, _HEAD)
    finally:
        os.close(descriptor)
    own = status.st_dev, status.st_ino
    if head.startswith(_qcow2.MAGIC):
        backing = _backing_file(head)
        if backing is None:
            return own, _all_references(path)
        return own, (backing,) if backing else ()
    return own, _all_references(path) if head.startswith(_OTHERS) else ()


def meant(reference: str, directory: str) -> list[str]:
    """The files that *reference* means inside an image in *directory*; none where it leaves this host.

    QEMU also takes options in JSON for a name; whatever they call a file name is taken for one.
    """
    if reference.startswith("json:"):
        try:
            return [os.path.join(directory, name) for name in _file_names(json.loads(reference[5:]))]
        except ValueError:
            return []
    if reference.startswith("file:"):
        reference = reference[5:]
    resolved = _headers.resolve(reference, os.path.join(directory, "image"))
    return [resolved] if resolved else []


def _backing_file(head: bytes) -> str | None:
    """The name of the backing file in a qcow2 header, empty for none; None where *head* alone does not say it all."""
    if len(head) < _QCOW2.size:
        return None
    _magic, version, offset, length, incompatible = _QCOW2.unpack_from(head)
    if version not in (2, 3) or (version == 3 and incompatible & _EXTERNAL_DATA):
        return None
    if not offset:
        return ""
    if not 0 < length <= _LONGEST_NAME or offset + length > len(head):
        return None
    return head[offset : offset + length].decode(errors="surrogateescape")


def _file_names(options: t.Any) -> t.Iterator[str]:
    for key, value in options.items() if isinstance(options, dict) else ():
        if isinstance(value, str) and key.rpartition(".")[2] == "filename":
            yield from [value[5:] if value.startswith("file:") else value]
        yield from _file_names(value)


def _all_references(path: str) -> list[str]:
    with _headers.open_image(path) as stream:
        claimed = _headers.recognise(stream)
        found = _headers.references(stream, claimed, path) if claimed else _headers.References()
    return [name for name in (found.backing_file, *found.data_files) if name]
