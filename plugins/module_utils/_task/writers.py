# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How root changes an image in place that somebody else may write, or exchange: as the one file that was opened, with
the rights of its owner. Whatever its header says by then, nothing is written that its owner may not write."""

from __future__ import annotations

import os
import stat
import typing as t
from contextlib import contextmanager

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._errors import UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._formats import headers as _headers
from ansible_collections.kvmops.disk.plugins.module_utils._host import opened as _opened
from ansible_collections.kvmops.disk.plugins.module_utils._host.strangers import open_directory
from ansible_collections.kvmops.disk.plugins.module_utils._qemu.runner import BY_NAME, Writer

_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


@contextmanager
def writing(paths: t.Sequence[str], image_format: str, *, trusts: bool) -> t.Iterator[Writer]:
    """The way to change the first of *paths*, an image of *image_format*, together with the others, for the length of
    the block.

    *trusts*: the task trusts everybody who may write in the directories. Raises UnsafeImage where it does not, and
    somebody else could lead the writing elsewhere.
    """
    if len(paths) > 1:
        yield Writer(_owner_of_all(paths, trusts=trusts))
        return
    with _opened.opened_file(paths[0]) as descriptor:
        found = _Found.at(paths[0], descriptor)
        yield found.writer(image_format, trusts=trusts) if found.is_somebody_elses else BY_NAME


@dataclass(frozen=True)
class _Found:
    """An image that was opened. *directory*: the uppermost one above it in which others may exchange names."""

    path: str
    descriptor: int
    status: os.stat_result
    directory: str | None

    @classmethod
    def at(cls, path: str, descriptor: int) -> _Found:
        return cls(path, descriptor, os.fstat(descriptor), open_directory(os.path.realpath(path)))

    @property
    def owner(self) -> tuple[int, int] | None:
        """The user and the group, by their numbers; None for root."""
        return (self.status.st_uid, self.status.st_gid) if self.status.st_uid else None

    @property
    def is_somebody_elses(self) -> bool:
        """Whether somebody else decides what stands at its name, or in it."""
        is_file = stat.S_ISREG(self.status.st_mode) and not _opened.is_within(self.path)
        return is_file and (self.directory is not None or self.owner is not None)

    def writer(self, image_format: str, *, trusts: bool) -> Writer:
        references = self._references(image_format)
        if self.directory is None:  # names are safe there, and its owner may have to do without what only root reads
            is_his = self.status.st_mode & stat.S_IWUSR and references == _headers.References()
            return Writer(self.owner, self.descriptor) if is_his else BY_NAME
        below = self._below(references)
        is_told = not references.data_files and (below is not None) == (references.backing_file is not None)
        if self.owner is not None:
            return Writer(self.owner, self.descriptor, below) if is_told else Writer(self.owner)
        is_roots = is_told and self.status.st_nlink == 1 and not self.status.st_mode & _WRITABLE_BY_OTHERS
        if not is_roots and not trusts:
            raise _unsafe(self.path, self.directory, "may be written by others than root, or refers to other files")
        return Writer(None, self.descriptor, below) if is_told else BY_NAME

    def _references(self, image_format: str) -> _headers.References:
        with _headers.open_image(_opened.own_name(self.descriptor)) as stream:
            return _headers.references(stream, image_format, self.path)

    def _below(self, references: _headers.References) -> tuple[str, str] | None:
        """The backing file and its format, where both can be told to QEMU."""
        if references.backing_file is None or references.backing_format is None:
            return None
        path = _headers.resolve(references.backing_file, os.path.realpath(self.path))
        return (path, references.backing_format) if path is not None else None


def _owner_of_all(paths: t.Sequence[str], *, trusts: bool) -> tuple[int, int] | None:
    """The user and the group who own the files at *paths*, where others may exchange these; None where nobody may."""
    directories = {path: open_directory(os.path.realpath(path)) for path in paths}
    directory = next(filter(None, directories.values()), None)
    if directory is None:
        return None
    owners = {(status.st_uid, status.st_gid) for status in map(os.stat, paths)}
    if None not in directories.values() and len(owners) == 1 and (0, 0) not in owners:
        return owners.pop()
    if not trusts:
        raise _unsafe(paths[0], directory, "is merged by names, and the images do not all belong to one other user")
    return None


def _unsafe(path: str, directory: str, reason: str) -> UnsafeImage:
    return UnsafeImage(
        f"{path}: lies where others than root may exchange names ({directory}), and {reason}: with another file at its "
        "name, they could lead the writing to any file of this host: give all its images to the user whose directory "
        "it is, or to root in a directory of root, or set trust_directories=true where you trust all users who may "
        "write there",
        path=path,
        directory=directory,
    )
