# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A new image: made in a hidden directory beside its place, verified there, and put in place in one step.

qemu-img overwrites what exists and deletes it when it fails (HAZARDS A2, A3), so it never gets a name that anybody
else uses. Inside the directory (stage) the file has its final name already, since some formats (VMDK) write it into
themselves. The directory belongs to the record of the operation (_lock): found without a live record, it was left
by a run that died, and is removed.

A file that is replaced stays in that directory, as a hard link, until the operation commits. So whatever the moment
of a kill, one of two whole files stands in the place: the old one, or the new one that was verified before. Removing
the directory is the right end for both; put_back() is for a run that knows, from the record, that it wants the old.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import typing as t
from contextlib import contextmanager, suppress
from functools import partial

from ansible_collections.kvmops.disk.plugins.module_utils._errors import (
    DiskError,
    InvalidRequest,
    NotPermitted,
    UnsafeImage,
)
from ansible_collections.kvmops.disk.plugins.module_utils._files import stage as _stage
from ansible_collections.kvmops.disk.plugins.module_utils._files.beside import sibling_name
from ansible_collections.kvmops.disk.plugins.module_utils._host import block_device as _block_device
from ansible_collections.kvmops.disk.plugins.module_utils._host import inode as _inode
from ansible_collections.kvmops.disk.plugins.module_utils._host.opened import Directory
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Step
from ansible_collections.kvmops.disk.plugins.module_utils._signals import put_off, refuse

_KEPT_SUFFIX = ".old"
_LIST_SUFFIX = ".moves"
#: What link(2) says where there are no hard links, or no more of them.
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK)
#: libvirt's own bookkeeping of owners and labels (HAZARDS G16): true of the old file only.
_NOT_OURS = ("trusted.libvirt.",)
_OWNER = "trusted.libvirt.security.dac"
_CONTEXT, _REMEMBERED_CONTEXT = "security.selinux", "trusted.libvirt.security.selinux"
_SYNC_EVERY = 0.25
_OWNER_SHAPE = rb"\+(\d+):\+(\d+)\0?"


def require_directory(path: str, what: str) -> None:
    """Raises InvalidRequest where a file could not be made at *path*, for want of a directory, and NotPermitted where
    we may not write there."""
    directory = os.path.dirname(path)
    require_writable_directory(directory, what, path)
    if len(os.fsencode(os.path.basename(path))) > 255:
        raise InvalidRequest(f"{what}: the file name has more than 255 bytes: {os.path.basename(path)}", path=path)


def require_writable_directory(directory: str, what: str, path: str | None = None) -> None:
    """Raises InvalidRequest where *directory*, which the option *what* means, is none, NotPermitted where we may not
    write there; with *path*, the file that is to be made in it, as a fact."""
    facts = {"path": path or directory, "directory": directory}
    if not os.path.isdir(directory):
        if os.path.exists(directory):
            raise InvalidRequest(f"{what}: {directory} is not a directory: name one that is", **facts)
        raise InvalidRequest(f"{what}: the directory {directory} does not exist: create it first", **facts)
    if not os.access(directory, os.W_OK | os.X_OK, effective_ids=True):
        raise NotPermitted(f"{what}: no permission to write in {directory}", **facts)


class NewFile:
    """A file on its way to *path*: begun, filled by somebody at ``name``, then published where nothing is, or put in
    the place of another file; or withdrawn at any moment."""

    def __init__(self, path: str, model: str | None = None, *, nocow: bool = False) -> None:
        """*model* is the file that the new one is to be like; resemble() gives it what can be given later. *nocow*: its
        data is written in place, on a file system that would copy it."""
        self.path = path
        self._model = model
        self._nocow = nocow
        self._own: list[int] | None = None
        self._replaces = False
        self._beside: Directory | None = None
        self._inside: Directory | None = None

    @property
    def name(self) -> str:
        """Where the file is made, from begin() until it is committed or withdrawn."""
        return t.cast(Directory, self._inside).join(os.path.basename(self.path))

    @property
    def _place(self) -> str:
        """Its place, in the directory that begin() has found there."""
        return self._beside.join(os.path.basename(self.path)) if self._beside else self.path

    def begin(self) -> None:
        """Makes the staging directory. Hold the record of the path: what a dead run left in it is removed."""
        discard(self.path)
        try:
            self._beside = Directory(os.path.dirname(self.path), follow=True)
            self._inside = _stage.make(self._place)
        except OSError as error:
            raise DiskError(
                f"{self.path}: cannot stage a new file beside it: {error.strerror}",
                path=self.path,
                directory=os.path.dirname(self.path),
            ) from error
        _inode.prepare(self._inside.path, self._model, nocow=self._nocow)

    def names(self) -> list[str]:
        """Of what files it consists: this one."""
        return [self.name]

    def identity(self) -> list[int]:
        """Device and inode of the new file, which publishing does not change: by them a record knows it again."""
        return file_identity(self.name)

    def publish(self) -> None:
        """Puts the file in its place, durably, and never over anything that stands there.

        Raises DiskError where a file appeared there meanwhile.
        """
        sync(self.name)
        self._own = self.identity()
        move_where_nothing_is(self.name, self._place)
        self.commit()

    def replace(self, expected: t.Any) -> None:
        """Puts the file in the place of the one whose identity is *expected*, in one step and durably.

        The old one is kept until commit(), and withdraw() puts it back. A file system without hard links cannot keep
        it: there, withdraw() leaves the new one. Make sure beforehand that nobody has the old one open (HAZARDS A8).
        Raises DiskError where another file stands there now, or none: nothing is replaced then.
        """
        sync(self.name)
        self._own, self._replaces = self.identity(), True
        _keep(self._place, kept(self.path, os.path.dirname(self.name)))
        if not is_file(self._place, expected):
            raise replaced_meanwhile(self.path)
        try:
            os.rename(self.name, self._place)
        except OSError as error:
            raise DiskError(
                f"{self.path}: cannot put the new file in its place: {error.strerror}", path=self.path
            ) from error
        sync(os.path.dirname(self._place))

    def commit(self) -> None:
        """Lets go of a file that was replaced, and of the staging directory; after publish() that is done."""
        self._leave()
        sync(os.path.dirname(self.path))

    def withdraw(self) -> None:
        """Removes all that there is of the file; one that it replaced is put back, unless that is committed."""
        if self._own is not None and is_file(self._place, self._own):
            if not self._replaces:
                remove(self._place)
            elif self._inside is not None:
                put_back_from(self._inside.path, self._place)
        self._leave()

    def _leave(self) -> None:
        """Removes what is in the staging directory, wherever that is by now, and the one that is found at its name."""
        if self._inside is not None:
            _stage.empty(self._inside)
        discard(self._place)
        self._close()

    def _close(self) -> None:
        for directory in (self._inside, self._beside):
            if directory is not None:
                directory.close()
        self._inside = self._beside = None


def file_identity(path: str) -> list[int]:
    """Device and inode, in a shape that a record can hold."""
    status = os.stat(path, follow_symlinks=False)
    return [status.st_dev, status.st_ino]


def last_write(path: str) -> tuple[int, int]:
    """When the file at *path* was last written to (ns), and its length, or what has been written to the block device
    there: equal as long as nobody writes."""
    if _block_device.is_block_device(path):
        return _block_device.last_write(path)
    status = os.stat(path)
    return status.st_mtime_ns, status.st_size


def is_file(path: str, identity: object) -> bool:
    """Whether the file at *path* is the one that had *identity*."""
    try:
        return bool(file_identity(path) == identity)
    except (FileNotFoundError, NotADirectoryError):
        return False


def discard(path: str) -> None:
    """Removes the staging directory for *path*, and what is in it; nothing to do where there is none.

    Raises UnsafeImage where a run died while it moved several files from there: in it may be all that there is of them;
    NotBelieved where somebody else may have made it.
    """
    with _stage.found(path) as inside:
        if inside is not None and os.path.lexists(move_list(path, inside.path)):
            raise UnsafeImage(
                f"{path}: a run was interrupted while it put the files of an image in their places: run it again "
                "(kvmops.disk.qcow2_convert), which finishes that or puts the old ones back",
                path=path,
            )
    _stage.remove(path)


def discarding(half_made: t.Iterable[str]) -> tuple[Step, ...]:
    """The steps that remove the directories with new files that dead runs left for those images."""
    return tuple(
        Step(
            f"remove the unfinished image that an interrupted run left for {path}",
            partial(discard, os.path.realpath(path)),
        )
        for path in half_made
    )


def kept(path: str, inside: str | None = None) -> str:
    """Where the file that a new one replaces at *path* is kept; the name is never that of the new one. *inside* is the
    staging directory, where that is open."""
    return os.path.join(inside or _stage.inside(path), sibling_name(os.path.basename(path), _KEPT_SUFFIX))


def move_list(path: str, inside: str | None = None) -> str:
    """Where the list of several files stands while they are put in their places (_file_set). *inside*: as of kept()."""
    return os.path.join(inside or _stage.inside(path), sibling_name(os.path.basename(path), _LIST_SUFFIX))


def put_back(path: str) -> bool:
    """Puts the file that was replaced at *path* in its place again, durably; False where none was kept."""
    with _stage.found(path) as inside:
        return inside is not None and put_back_from(inside.path, path)


def put_back_from(inside: str, path: str) -> bool:
    """The same from the open staging directory *inside*."""
    old = kept(path, inside)
    try:
        os.rename(old, path)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise DiskError(f"{path}: the old file cannot be put back from {old}: {error.strerror}", path=path) from error
    sync(os.path.dirname(path))
    return True


@contextmanager
def syncing(path: str) -> t.Iterator[None]:
    """Brings *path* to stable storage while the block runs, which only reads: the disk writes meanwhile."""
    from concurrent.futures import ThreadPoolExecutor  # loaded where there is work, not for a run without a change

    with ThreadPoolExecutor(max_workers=1, initializer=refuse) as writer:
        written = writer.submit(sync, path)
        yield
        written.result()


@contextmanager
def syncing_steadily(path: str) -> t.Iterator[None]:
    """Brings to stable storage what somebody else writes to *path* while the block runs, again and again."""
    import threading  # loaded where there is work, not for a run without a change

    done = threading.Event()

    def write() -> None:
        with suppress(DiskError, OSError):  # whoever relies on it calls sync() afterwards
            while not done.wait(_SYNC_EVERY):
                sync(path)

    writer = threading.Thread(target=write, daemon=True)
    with put_off():  # they are for the thread that can act on them
        writer.start()
    try:
        yield
    finally:
        done.set()
        writer.join()


def sync(path: str) -> None:
    """Brings a file or a directory to stable storage."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        raise DiskError(f"{path}: cannot be brought to stable storage: {error.strerror}", path=path) from error
    finally:
        os.close(descriptor)


def sync_before_reading(*paths: str) -> None:
    """Brings the files that are to be read to stable storage: some file systems tell holes truly only of what is there
    (HAZARDS P6). On one that is only read (EINVAL: it knows no such call), all is."""
    for path in paths:
        try:
            sync(path)
        except DiskError as error:
            if not isinstance(error.__cause__, OSError) or error.__cause__.errno not in (errno.EINVAL, errno.EROFS):
                raise


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


def _has_categories(context: bytes) -> bool:
    """Whether a context, such as ``system_u:object_r:svirt_image_t:s0:c151,c487``, is for some categories alone."""
    return len(context.split(b":", 4)) > 4


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


def has_no_holes(path: str) -> bool:
    """Whether the file at *path* occupies all of its length."""
    status = os.stat(path)
    return status.st_blocks * 512 >= status.st_size > 0


def reserve(path: str) -> None:
    """Reserves the blocks of all holes in *path*; what anybody reads there, or writes meanwhile, stays.

    Not by posix_fallocate, which writes where a file system cannot reserve: that would cross a guest's own writes.
    """
    import ctypes

    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        length = os.fstat(descriptor).st_size
        if libc.fallocate64(descriptor, 0, ctypes.c_int64(0), ctypes.c_int64(length)):
            code = ctypes.get_errno()
            raise DiskError(f"{path}: its space cannot be reserved: {os.strerror(code)}", path=path)
    finally:
        os.close(descriptor)


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


def remove(path: str) -> None:
    """Unlinks *path*, durably; nothing to do where it is gone."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise DiskError(f"{path}: cannot be removed: {error.strerror}", path=path) from error
    sync(os.path.dirname(path))


def remove_image(path: str) -> None:
    """Removes the file that *path* means, durably, and the links by which it leads there, the file first: whoever is
    killed in between finds the rest by *path*."""
    names = [path]
    while os.path.islink(names[-1]):
        names.append(os.path.join(os.path.dirname(names[-1]), os.readlink(names[-1])))
    for name in reversed(names):
        remove(name)


def _keep(path: str, second: str) -> None:
    """A *second* name for the file at *path*, where the file system has such; nothing where no file is."""
    try:
        os.link(path, second, follow_symlinks=False)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise DiskError(f"{path}: the old file cannot be kept: {error.strerror}", path=path) from error


def move_where_nothing_is(name: str, path: str) -> None:
    """Gives the file at *name* its place at *path*; the old name may stay. Raises DiskError where a file is there.

    link(2) fails where the new name exists, which rename(2) does not."""
    try:
        os.link(name, path, follow_symlinks=False)
        return
    except FileExistsError:
        raise _appeared(path) from None
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise DiskError(f"{path}: cannot put the new file in place: {error.strerror}", path=path) from error
    if os.path.lexists(
        path
    ):  # a file system without hard links: the record keeps other runs away, the look keeps us off
        raise _appeared(path)
    os.rename(name, path)


def replaced_meanwhile(path: str) -> DiskError:
    """What to say where another file stands at *path* than the one that was looked at."""
    return DiskError(
        f"{path}: is no longer the file that was looked at: what stands there now is left alone: run again",
        path=path,
    )


def _appeared(path: str) -> DiskError:
    return DiskError(f"{path}: a file appeared here in the meantime, and is left alone", path=path)
