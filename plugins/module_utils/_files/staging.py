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
import typing as t
from functools import partial

from ansible_collections.kvmops.disk.plugins.module_utils._errors import (
    DiskError,
    InvalidRequest,
    NotPermitted,
    UnsafeImage,
)
from ansible_collections.kvmops.disk.plugins.module_utils._files import durable as _durable
from ansible_collections.kvmops.disk.plugins.module_utils._files import same_file as _same_file
from ansible_collections.kvmops.disk.plugins.module_utils._files import stage as _stage
from ansible_collections.kvmops.disk.plugins.module_utils._files.beside import sibling_name
from ansible_collections.kvmops.disk.plugins.module_utils._host import inode as _inode
from ansible_collections.kvmops.disk.plugins.module_utils._host.opened import Directory
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Step

_KEPT_SUFFIX = ".old"
_LIST_SUFFIX = ".moves"
#: What link(2) says where there are no hard links, or no more of them.
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK)


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
        """*model* is the file that the new one is to be like; resemble() (_rest) gives it what can be given later.
        *nocow*: its data is written in place, on a file system that would copy it."""
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
        return _same_file.file_identity(self.name)

    def publish(self) -> None:
        """Puts the file in its place, durably, and never over anything that stands there.

        Raises DiskError where a file appeared there meanwhile.
        """
        _durable.sync(self.name)
        self._own = self.identity()
        move_where_nothing_is(self.name, self._place)
        self.commit()

    def replace(self, expected: t.Any) -> None:
        """Puts the file in the place of the one whose identity is *expected*, in one step and durably.

        The old one is kept until commit(), and withdraw() puts it back. A file system without hard links cannot keep
        it: there, withdraw() leaves the new one. Make sure beforehand that nobody has the old one open (HAZARDS A8).
        Raises DiskError where another file stands there now, or none: nothing is replaced then.
        """
        _durable.sync(self.name)
        self._own, self._replaces = self.identity(), True
        _keep(self._place, kept(self.path, os.path.dirname(self.name)))
        if not _same_file.is_file(self._place, expected):
            raise _same_file.replaced_meanwhile(self.path)
        try:
            os.rename(self.name, self._place)
        except OSError as error:
            raise DiskError(
                f"{self.path}: cannot put the new file in its place: {error.strerror}", path=self.path
            ) from error
        _durable.sync(os.path.dirname(self._place))

    def commit(self) -> None:
        """Lets go of a file that was replaced, and of the staging directory; after publish() that is done."""
        self._leave()
        _durable.sync(os.path.dirname(self.path))

    def withdraw(self) -> None:
        """Removes all that there is of the file; one that it replaced is put back, unless that is committed."""
        if self._own is not None and _same_file.is_file(self._place, self._own):
            if not self._replaces:
                _durable.remove(self._place)
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
    _durable.sync(os.path.dirname(path))
    return True


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
    # On a file system without hard links, the record keeps other runs away, and the look keeps us off.
    if os.path.lexists(path):
        raise _appeared(path)
    os.rename(name, path)


def _appeared(path: str) -> DiskError:
    return DiskError(f"{path}: a file appeared here in the meantime, and is left alone", path=path)
