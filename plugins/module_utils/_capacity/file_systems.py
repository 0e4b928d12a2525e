# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""File systems, the images that lie on them, and how much these may promise together."""

from __future__ import annotations

import itertools
import os
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._capacity import promises as _promises
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._errors import MissingImage, NotEnoughSpace
from ansible_collections.kvmops.disk.plugins.module_utils._files.beside import SUFFIX
from ansible_collections.kvmops.disk.plugins.module_utils._formats.references import Identity, identity
from ansible_collections.kvmops.disk.plugins.module_utils._host import extents as _extents
from ansible_collections.kvmops.disk.plugins.module_utils._host import file_systems as _host_file_systems
from ansible_collections.kvmops.disk.plugins.module_utils._host.mounts import Mount, Mounts
from ansible_collections.kvmops.disk.plugins.module_utils._size import format_size

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._capacity.promises import Promise, SeenFile
    from ansible_collections.kvmops.disk.plugins.module_utils._capacity.space import NewImage
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg
    from ansible_collections.kvmops.disk.plugins.module_utils._usage.users import User


@dataclass(frozen=True)
class FileSystem:
    """The file system of *directories*, and the images that are known to lie on it; sizes in bytes.

    *size*, *used* and *available*, which users without rights, QEMU's for one, may still write, are None where it does
    not tell.
    """

    directories: tuple[str, ...]
    size: int | None
    promises: tuple[Promise, ...] = ()
    used: int | None = 0
    available: int | None = 0
    mount: Mount | None = None

    @property
    def promised(self) -> int:
        return sum(promise.promised for promise in self.promises)

    def require_room(self, new: t.Sequence[NewImage], ratio: float, gone: t.Iterable[str] = ()) -> None:
        """Raises NotEnoughSpace where the images *new* promise too much, with those that stay.

        All promises together may be *ratio* times what the file system has; nothing is known of one that does not tell
        that. What stands at a place of one of *new* is replaced by it, or grows into it; *gone* are the files that go
        when it is there.
        """
        if self.size is None:
            return
        replaced = set(map(identity, (*(one.path for one in new), *gone)))
        others = [one for one in self.promises if one.identity not in replaced]
        asked = sum(one.size for one in new)
        taken = sum(one.promised for one in others)
        required, limit = taken + asked, int(self.size * ratio)
        if required > limit:
            room = max(0, limit - taken)
            what = new[0].path + (f" and {len(new) - 1} more" if len(new) > 1 else "")
            raise NotEnoughSpace(
                f"{what}: with {format_size(asked)} for {'it' if len(new) == 1 else 'them'}, "
                f"{len(others) + len(new)} image(s) on the file system of "
                f"{self.directories[0]} may come to need {format_size(required)} ({required} bytes), which is "
                f"{required / max(1, self.size):.2f} times the {format_size(self.size)} ({self.size} bytes) that it "
                f"has, and max_overcommit is {ratio:g}: ask for {format_size(room)} or less, add space, or raise "
                "max_overcommit",
                required_bytes=asked,
                available_bytes=room,
                promised_bytes=self.promised,
                filesystem_bytes=self.size,
                max_overcommit=ratio,
            )


def require_ratio_for(
    new: t.Sequence[NewImage],
    ratio: float | None,
    directories: t.Iterable[str],
    users: t.Collection[User],
    qemu_img: QemuImg,
    *,
    gone: t.Iterable[str] = (),
) -> None:
    """Raises NotEnoughSpace where a file system would promise more than *ratio* times its size with the images *new*.

    One look for any number of them; none at all where *ratio* is None. *directories* and *users* are where images are
    known to lie (directories_to_search and domain_users). The backing files of *new* only hold what they occupy
    from now on. *gone* are files that go when the new ones are there.
    """
    if ratio is None or not new:
        return
    places = {one.path: os.path.dirname(os.path.realpath(one.path)) for one in new}
    bases = {identity(one.backing_file) for one in new if one.backing_file}
    gone = tuple(gone)
    for system in file_systems(places.values(), directories, users, qemu_img, bases=bases):
        system.require_room([one for one in new if places[one.path] in system.directories], ratio, gone)


def file_systems(
    places: t.Iterable[str],
    directories: t.Iterable[str],
    users: t.Collection[User],
    qemu_img: QemuImg,
    *,
    bases: t.Container[Identity] = (),
) -> list[FileSystem]:
    """The file systems of the directories *places*, with the images on them.

    These are the files of *users*, and all files in *places*, in *directories* and beside those of *users*. Raises
    MissingImage where one of *places* is not there.
    """
    devices = _Devices()
    meant: dict[t.Hashable, list[str]] = {}
    for place in dict.fromkeys(places):
        meant.setdefault(devices.key(place, _device(place)), []).append(place)
    named = [user.path for user in users if os.path.isfile(user.path)]
    beside = sorted({*itertools.chain(*meant.values()), *directories, *map(os.path.dirname, named)})
    paths = [*named, *(path for directory in beside for path in _files(directory))]
    seen = _promises.look(paths, users, qemu_img, lambda path, device: devices.key(path, device) in meant)
    keys = {one.identity: devices.key(one.path, one.identity[0]) for one in seen}
    sharing = {key for key in meant if (mount := devices.mounts.get(key)) and mount.type in _extents.SHARING}

    def extents(one: SeenFile) -> list[_extents.Extent] | None:
        return _extents.extents(one.path) if keys[one.identity] in sharing else None

    promises = sorted(_promises.count(seen, users, bases=bases, extents=extents), key=lambda one: one.path)
    return [
        _measured(
            tuple(directories_on_it),
            devices.mounts.get(key),
            tuple(promise for promise in promises if keys[promise.identity] == key),
        )
        for key, directories_on_it in meant.items()
    ]


def directories_below(directory: str) -> tuple[list[str], list[tuple[str, str]]]:
    """*directory* and those below it on the same file system; and those that cannot be read, each with the reason.

    Symbolic links are not followed.
    """
    devices = _Devices()
    key = devices.key(directory, _device(directory))
    found: list[str] = []
    failed: list[tuple[str, str]] = []
    for parent, names, _files_in_it in os.walk(
        directory, onerror=lambda error: failed.append((str(error.filename), str(error.strerror)))
    ):
        found.append(parent)
        names[:] = [name for name in sorted(names) if _is_on(devices, key, os.path.join(parent, name))]
    return found, failed


class _Devices:
    """Which file system the files of a device number lie on: several numbers may mean one (subvolumes of btrfs)."""

    def __init__(self) -> None:
        self.mounts: dict[t.Hashable, Mount] = {}
        self._all = Mounts.now()
        self._keys: dict[int, t.Hashable] = {}

    def key(self, path: str, device: int) -> t.Hashable:
        """The same for all files of one file system."""
        if device not in self._keys:
            mount = self._all.of(path, device)
            self._keys[device] = mount.number if mount else device
            if mount:
                self.mounts.setdefault(mount.number, mount)
        return self._keys[device]


def _is_on(devices: _Devices, key: t.Hashable, directory: str) -> bool:
    try:
        return devices.key(directory, os.lstat(directory).st_dev) == key
    except OSError:
        return False


def _measured(directories: tuple[str, ...], mount: Mount | None, promises: tuple[Promise, ...]) -> FileSystem:
    room = _host_file_systems.room(directories[0])
    return FileSystem(
        directories,
        size=room.size if room else None,
        promises=promises,
        used=room.used if room else None,
        available=room.available if room else None,
        mount=mount,
    )


def _device(directory: str) -> int:
    try:
        return os.stat(directory).st_dev
    except OSError as error:
        raise MissingImage(f"{directory}: cannot be looked at: {error.strerror}", path=directory) from error


def _files(directory: str) -> list[str]:
    """The files of a directory, without our records."""
    try:
        with os.scandir(directory) as entries:
            return [entry.path for entry in entries if entry.is_file() and not _is_record(entry.name)]
    except OSError:
        return []


def _is_record(name: str) -> bool:
    """Whether a file is one of our own: the record of an operation, or what is noted of a base."""
    return name.startswith(".") and SUFFIX in name
