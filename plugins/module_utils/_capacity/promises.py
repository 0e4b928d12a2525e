# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What each image may come to occupy on its file system: what it promises.

- An image that can still grow promises the size of its disk, or what it occupies, where that is more (with internal
  snapshots, or thickly allocated with its tables).
- An image that others have as their backing file is not written any more, and holds what it occupies. So does one
  whose data lie in a file of their own: that one grows. Where a running domain has a backing file as its disk, that
  grows all the same.
- Each file counts once, whatever names lead to it. Of the extents that files share, those that are only held count
  once; a file that can still grow may part from the others any time, and counts as if it shared nothing.
"""

from __future__ import annotations

import os
import stat
import typing as t
from collections import defaultdict
from functools import lru_cache

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass, replace
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError
from ansible_collections.kvmops.disk.plugins.module_utils._files import base_note as _base_note
from ansible_collections.kvmops.disk.plugins.module_utils._formats import headers as _headers
from ansible_collections.kvmops.disk.plugins.module_utils._formats.references import Identity, identity
from ansible_collections.kvmops.disk.plugins.module_utils._host import extents as _extents
from ansible_collections.kvmops.disk.plugins.module_utils._image import image as _image
from ansible_collections.kvmops.disk.plugins.module_utils._parallel import in_parallel
from ansible_collections.kvmops.disk.plugins.module_utils._size import SECTOR

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg
    from ansible_collections.kvmops.disk.plugins.module_utils._usage.users import User

_WRITABLE = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True)
class SeenFile:
    """A file as it is found; sizes in bytes.

    *occupied* are its blocks. *format*, *virtual_size* and the files that it points to are None where it was not
    opened, or is no image that can be read: *problem* says why then. *noted* are overlays of which a note beside it
    tells.
    """

    path: str
    identity: tuple[int, int]
    length: int
    occupied: int
    mode: int = 0o600
    format: str | None = None
    virtual_size: int | None = None
    backing_file: str | None = None
    backing_format: str | None = None
    data_files: tuple[str, ...] = ()
    noted: tuple[str, ...] = ()
    problem: str | None = None


@dataclass(frozen=True)
class Promise:
    """An image on a file system, and what it may come to occupy there; sizes in bytes.

    *held* is what it occupies now, less what another image that is only held has counted already; *shared_size* is how
    much of it other files share, None where the file system does not tell. *dependents* are the images that have it as
    their backing file; *missing* are files that it needs itself. *writable*: its mode lets somebody write it.
    """

    path: str
    identity: tuple[int, int]
    virtual_size: int | None
    actual_size: int
    format: str | None = None
    grows: bool = True
    held: int = 0
    shared_size: int | None = None
    backing_file: str | None = None
    dependents: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    writable: bool = True
    problem: str | None = None

    @property
    def promised(self) -> int:
        return max(self.virtual_size or 0, self.actual_size) if self.grows else self.held

    def facts(self) -> dict[str, t.Any]:
        """The image as storage_capacity_info returns it."""
        names = ("path", "format", "virtual_size", "actual_size", "shared_size", "promised", "grows")
        facts = {name: getattr(self, name) for name in (*names, "backing_file", "writable", "problem")}
        lists = {name: list(getattr(self, name)) for name in ("dependents", "domains", "missing")}
        return {**facts, **lists}


def look(
    paths: t.Iterable[str], users: t.Collection[User], qemu_img: QemuImg, is_meant: t.Callable[[str, int], bool]
) -> list[SeenFile]:
    """The files at *paths* that are there, each once, and those that they point to, which are not opened.

    Left out are those that are no images, and that nobody names.

    What a domain says that it reads a file as holds; then what an overlay says of its backing file. What a guest may
    have written is believed only where nobody says anything. *is_meant* tells of a path and its device whether its
    size matters; of the other files no more is read than what they point to.
    """

    def one_look(item: tuple[tuple[int, int], tuple[str, os.stat_result]]) -> SeenFile:
        known, (path, status) = item
        return _seen(path, status, said.get(known), qemu_img if is_meant(path, status.st_dev) else None)

    found: dict[tuple[int, int], tuple[str, os.stat_result]] = {}
    for path in paths:
        status = _status(path)
        if status:
            found.setdefault((status.st_dev, status.st_ino), (path, status))
    said = {(status.st_dev, status.st_ino): form for status, form in map(_said, users) if status and form}
    seen = in_parallel(one_look, sorted(found.items(), key=lambda item: item[1][0]))
    files = {one.identity: one for one in seen}
    status_of = lru_cache(maxsize=None)(_status)  # a thousand clones have one base
    for one in seen:
        status = status_of(one.backing_file) if one.backing_file else None
        if one.backing_file and status:
            base = files.get((status.st_dev, status.st_ino))
            if base and one.backing_format == "raw" and base.format != "raw" and base.identity not in said:
                files[base.identity] = _seen(base.path, status, "raw", None)
    for one in list(files.values()):
        for path in filter(None, (one.backing_file, *one.data_files)):
            status = status_of(path)
            if status:
                files.setdefault((status.st_dev, status.st_ino), _unopened(path, status))
    needed = {path for one in seen for path in (one.backing_file, *one.data_files) if path}
    named = set(map(identity, needed.union(user.path for user in users)))
    return [one for one in files.values() if one.identity in named or not _is_no_image(one)]


def count(
    files: t.Sequence[SeenFile],
    users: t.Iterable[User],
    *,
    bases: t.Container[Identity] = (),
    extents: t.Callable[[SeenFile], t.Sequence[_extents.Extent] | None] = lambda _file: None,
) -> list[Promise]:
    """What *files* promise, in their order. *bases* are known to be backing files; *extents* asks the file system."""
    overlays: dict[Identity, list[str]] = defaultdict(list)
    carriers: set[Identity] = set()
    file_at, is_missing = lru_cache(maxsize=None)(identity), lru_cache(maxsize=None)(_is_missing)
    for one in files:
        if one.backing_file:
            overlays[file_at(one.backing_file)].append(one.path)
        carriers.update(map(file_at, one.data_files))
    domains, based, writing = _by_domains(users)
    places = _extents.Places()
    promises = []
    for one in files:
        readers = {*overlays.get(one.identity, ()), *one.noted}
        is_base = bool(readers) or one.identity in based or one.identity in bases
        known = extents(one)
        missing = tuple(filter(is_missing, filter(None, (one.backing_file, *one.data_files))))
        grows = (not is_base and not one.data_files) or one.identity in writing
        promise = Promise(
            path=one.path,
            identity=one.identity,
            virtual_size=one.length if one.identity in carriers and one.virtual_size is None else one.virtual_size,
            actual_size=one.occupied,
            format=one.format,
            grows=grows,
            held=one.occupied,
            shared_size=None if known is None else _extents.shared_bytes(known),
            backing_file=one.backing_file,
            dependents=tuple(sorted(readers)),
            domains=tuple(sorted(domains.get(one.identity, ()))),
            missing=missing,
            writable=bool(one.mode & _WRITABLE),
            problem=one.problem or (f"{one.path}: it needs {missing[0]}, which is missing" if missing else None),
        )
        if known and not grows:
            promise = replace(promise, held=max(0, one.occupied - places.add(known)))
        promises.append(promise)
    return promises


def _is_no_image(one: SeenFile) -> bool:
    """Whether a file that nobody names is none: it has no header of a format, and ends within a sector. Notes, lists
    and other files lie beside images."""
    return one.format == "raw" and not (one.problem or one.noted) and bool(one.length % SECTOR)


def _status(path: str) -> os.stat_result | None:
    """What the kernel says of a regular file; None for all else."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status if stat.S_ISREG(status.st_mode) else None


def _said(user: User) -> tuple[os.stat_result | None, str | None]:
    return _status(user.path), user.format


def _unopened(path: str, status: os.stat_result, **known: t.Any) -> SeenFile:
    """A file as the kernel describes it, with what else is *known* of it."""
    own = (status.st_dev, status.st_ino)
    return SeenFile(path, own, status.st_size, status.st_blocks * 512, stat.S_IMODE(status.st_mode), **known)


def _seen(path: str, status: os.stat_result, image_format: str | None, qemu_img: QemuImg | None) -> SeenFile:
    """A file as its header describes it; *qemu_img* is asked for the size of the disk where that leaves a doubt."""
    try:
        looked = _image.first_look(path, image_format)
        image = _image.described(qemu_img, path, looked) if qemu_img else None
    except DiskError as error:
        return _unopened(path, status, virtual_size=status.st_size, problem=str(error))
    except OSError as error:
        reason = f"{path}: cannot be read: {error.strerror}"
        return _unopened(path, status, virtual_size=status.st_size, problem=reason)
    found_format, points_to, _header = looked
    backing_file = points_to.backing_file
    noted, problem = _noted(path)
    return _unopened(
        path,
        status,
        format=found_format,
        virtual_size=image.virtual_size if image else status.st_size,
        backing_file=_headers.resolve(backing_file, path) if backing_file else None,
        backing_format=points_to.backing_format,
        data_files=tuple(filter(None, (_headers.resolve(name, path) for name in points_to.data_files))),
        noted=noted,
        problem=problem,
    )


def _noted(path: str) -> tuple[tuple[str, ...], str | None]:
    """The overlays that are noted beside a base, and why that cannot be read."""
    try:
        return tuple(_base_note.noted_dependents(path)), None
    except DiskError as error:
        return (), str(error)


def _is_missing(path: str) -> bool:
    return not os.path.lexists(os.path.realpath(path))


def _by_domains(users: t.Iterable[User]) -> tuple[dict[Identity, set[str]], set[Identity], set[Identity]]:
    """The domains that name each file; the files that they read as backing files; those that running ones write."""
    domains: dict[Identity, set[str]] = defaultdict(set)
    based: set[Identity] = set()
    writing: set[Identity] = set()
    for user in users:
        named = identity(user.path)
        domains[named].add(user.domain)
        if user.role == "backing file of":
            based.add(named)
        if user.running and user.role == "disk":
            writing.add(named)
    return domains, based, writing
