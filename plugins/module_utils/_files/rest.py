# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Owner, mode and labels of a file at rest: as they are while no guest runs on it.

libvirt lends an image to QEMU's user, with the label of its guest, and remembers what it was before in extended
attributes (HAZARDS G16). What is made like such a file is made like the file at rest.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import typing as t
from contextlib import contextmanager

from ansible_collections.kvmops.disk.plugins.module_utils._host import block_device as _block_device
from ansible_collections.kvmops.disk.plugins.module_utils._host import inode as _inode

#: libvirt's own bookkeeping of owners and labels: true of the old file only.
_NOT_OURS = ("trusted.libvirt.",)
_OWNER = "trusted.libvirt.security.dac"
_OWNER_SHAPE = rb"\+(\d+):\+(\d+)\0?"
_CONTEXT, _REMEMBERED_CONTEXT = "security.selinux", "trusted.libvirt.security.selinux"


def resemble(path: str, model: str) -> None:
    """Gives *path* the owner, group, mode, flags, project and extended attributes (SELinux context and ACLs among them)
    of *model*.

    Where a guest runs on *model*, libvirt has lent it to QEMU's user, with that guest's label: owner and label are
    those that it gets back then. What an unprivileged user may not give is left: the file then is that user's own. Of a
    block device it takes owner, group and mode alone.
    """
    _inode.resemble(path, model)
    lay_to_rest(path, at_rest(model))
    for name, value in attributes_at_rest(_attributes(model)).items():
        _set_attribute(path, name, value)


def attributes_at_rest(found: t.Mapping[str, bytes]) -> dict[str, bytes]:
    """Of the extended attributes of a file those that a new file like it gets: as they are while no guest runs on it.

    The SELinux context is the one that libvirt remembers. Where it remembers none, a context with categories is that of
    one guest, or of one that ran when the host went down: the new file keeps the one that the policy gives to new files
    in its directory.
    """
    own = {name: value for name, value in found.items() if not name.startswith(_NOT_OURS)}
    if _REMEMBERED_CONTEXT in found:
        own[_CONTEXT] = found[_REMEMBERED_CONTEXT].rstrip(b"\0") + b"\0"
    elif _has_categories(own.get(_CONTEXT, b"")):
        del own[_CONTEXT]
    return own


def at_rest(path: str) -> tuple[int, int, int]:
    """Owner, group and mode that a file has while no guest runs on it."""
    status = os.stat(path)
    return (*(remembered_owner(path) or (status.st_uid, status.st_gid)), stat.S_IMODE(status.st_mode))


def remembered_owner(path: str) -> tuple[int, int] | None:
    """The owner that libvirt will give back to an image which it has lent to QEMU; None where it has not, or for others
    than root."""
    try:
        remembered = os.getxattr(path, _OWNER)
    except OSError:
        return None
    found = re.fullmatch(_OWNER_SHAPE, remembered)
    return (int(found[1]), int(found[2])) if found else None


def lay_to_rest(path: str, wanted: tuple[int, int, int]) -> None:
    """Gives *path*, on which no guest runs, owner, group and mode as at_rest() found them, as far as this user may."""
    found = os.stat(path)
    if (found.st_uid, found.st_gid) != wanted[:2]:
        try:
            os.chown(path, *wanted[:2])
        except PermissionError:
            if os.geteuid() == 0:
                raise
    os.chmod(path, wanted[2] & 0o777)  # never a set-user-ID bit, whoever gave the model one


def owners(paths: t.Iterable[str]) -> dict[str, tuple[int, int]]:
    """Owner and group of each of the files at *paths*."""
    return {path: (status.st_uid, status.st_gid) for path in paths for status in [os.stat(path)]}


def give_back(wanted: t.Mapping[str, tuple[int, int]]) -> None:
    """Gives files the owners that owners() found, where libvirt gave them others.

    It remembers the owner of a disk's own image, but not those of the files below it (HAZARDS G16). What is no image
    any more, a link or a file with several names, is left.
    """
    if os.geteuid() != 0:
        return
    for path, owner in wanted.items():
        try:
            descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            status = os.fstat(descriptor)
            is_alone = stat.S_ISREG(status.st_mode) and status.st_nlink == 1
            if (is_alone or stat.S_ISBLK(status.st_mode)) and (status.st_uid, status.st_gid) != tuple(owner):
                os.chown(f"/proc/self/fd/{descriptor}", *owner)  # fchown(2) takes no descriptor of this kind
        finally:
            os.close(descriptor)


def _has_categories(context: bytes) -> bool:
    """Whether a context, such as ``system_u:object_r:svirt_image_t:s0:c151,c487``, is for some categories alone."""
    return len(context.split(b":", 4)) > 4


def _attributes(model: str) -> dict[str, bytes]:
    """The extended attributes of a file; none of a block device."""
    found = {}
    for name in os.listxattr(model) if not _block_device.is_block_device(model) else ():
        with _where_possible():
            found[name] = os.getxattr(model, name)
    return found


def _set_attribute(path: str, name: str, value: bytes) -> None:
    with _where_possible():
        os.setxattr(path, name, value)


@contextmanager
def _where_possible() -> t.Iterator[None]:
    """An extended attribute that this file system, or this user, cannot have is left."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOTSUP, errno.ENODATA, errno.EPERM, errno.EACCES):
            raise
