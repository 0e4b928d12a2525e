# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An image of several files, as VMDK has them: a descriptor, and the extents beside it that bear its name.

No call moves several files at once, so that the descriptor, by which alone the extents mean something, goes first and
comes last: where it stands, all that it names is there, and of one image. While files are moved, a list of them lies in
the staging directory (_staging), and what they replace stands there whole, as hard links. Whoever finds the list later
knows by it which files are the new ones, and finishes where the new descriptor is in its place, or puts back what was
there before.
"""

from __future__ import annotations

import json
import os
import stat
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import asdict, dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._errors import (
    DiskError,
    InvalidRequest,
    UnsafeImage,
)
from ansible_collections.kvmops.disk.plugins.module_utils._files import base_note as _base_note
from ansible_collections.kvmops.disk.plugins.module_utils._files import durable as _durable
from ansible_collections.kvmops.disk.plugins.module_utils._files import same_file as _same_file
from ansible_collections.kvmops.disk.plugins.module_utils._files import stage as _stage
from ansible_collections.kvmops.disk.plugins.module_utils._files import staging as _staging
from ansible_collections.kvmops.disk.plugins.module_utils._files import state as _state
from ansible_collections.kvmops.disk.plugins.module_utils._formats import headers as _headers
from ansible_collections.kvmops.disk.plugins.module_utils._formats import vmdk as _vmdk

#: What ends a name in a descriptor, or makes QEMU take it for a protocol.
_UNFIT = frozenset('"\r\n:')


def files(path: str) -> tuple[str, ...]:
    """The file at *path*, and where it is a VMDK of several files its own extents that are there, by its header alone.

    Extents that do not bear its name are somebody else's; a link is but a link.
    """
    try:
        if os.path.islink(path) or not stat.S_ISREG(os.stat(path).st_mode):
            return (path,)
        with _headers.open_image(path) as stream:
            vmdk = _headers.recognise(stream) == "vmdk"
            names = _headers.references(stream, "vmdk", path).data_files if vmdk else ()
    except (DiskError, OSError):
        return (path,)
    own = (_headers.resolve(name, path) for name in dict.fromkeys(names) if _vmdk.is_own_extent(name, path))
    return (path, *(name for name in own if name is not None and os.path.isfile(name)))


def files_meant(path: str) -> tuple[str, ...]:
    """The same, with the extents of the image that *path* is a link to: whoever uses them uses it."""
    return (path, *files(os.path.realpath(path))[1:])


def remove(path: str) -> None:
    """Removes the image at *path*, durably, its own extents first: whoever is killed in between finds the rest by
    *path*."""
    for extent in files(path)[1:]:
        _durable.remove(extent)
    _base_note.remove(path)


def remove_image(path: str) -> None:
    """As remove(), but with the file that a link leads to: QEMU looks for extents beside the link."""
    for extent in files(path)[1:]:
        _durable.remove(extent)
    _base_note.remove_image(path)


def require_fit_name(path: str) -> None:
    """Raises InvalidRequest where a descriptor at *path* could not name its extents."""
    name = os.path.basename(path)
    before, dot, _after = name.rpartition(".")  # QEMU puts its own words before the last dot, whatever that is
    if _UNFIT & {*name} or os.path.splitext(name)[0] != (before if dot else name):
        raise InvalidRequest(f"dest: {name!r} cannot be the name of an image of several files: choose another name")
    if len(os.fsencode(name)) > 255 - len("-s9999"):
        raise InvalidRequest(f"dest: the file names of the extents would have more than 255 bytes: {name}", path=path)


def require_free_places(path: str, replaced: t.Container[str]) -> None:
    """Raises DiskError where a file, other than those *replaced*, stands where a new image's extent may have to go."""
    directory = os.path.dirname(path)
    moves = _moves(path)
    for name in sorted(os.listdir(directory)):
        place = os.path.join(directory, name)
        ours = moves is not None and name in moves.new and _same_file.is_file(place, moves.new[name])
        if _vmdk.bears_name_of(name, path) and place not in replaced and not ours:
            raise DiskError(
                f"{path}: a file stands where an extent of the new image may have to go, {place}: move it away, or "
                "choose another dest",
                path=place,
            )


def stands_at(path: str) -> str:
    """Where the image of *path* can be looked at: there, or where a run that died while it replaced it keeps it."""
    moves = _moves(path)
    if moves is None or not moves.old or os.path.lexists(path):
        return path
    return os.path.join(_staging.kept(path), os.path.basename(path))


def settle(path: str) -> None:
    """Removes the staging directory for *path*; what a dead run began to move is finished or put back before."""
    moves = _moves(path)
    if moves is not None:
        if _same_file.is_file(path, moves.new[os.path.basename(path)]):
            _forget(path)
        else:
            _undo(path, moves)
    _staging.discard(path)


class NewFiles(_staging.NewFile):
    """As NewFile, for an image that may have extents, or that replaces one which has the extents *old*."""

    def __init__(self, path: str, model: str | None = None, old: t.Iterable[str] = ()) -> None:
        super().__init__(path, model)
        self._old = tuple(old)

    def begin(self) -> None:
        settle(self.path)
        super().begin()

    def names(self) -> list[str]:
        """The files that were made, the descriptor last. Raises UnsafeImage where there are others than its own."""
        directory = os.path.dirname(self.name)
        kept = _staging.kept(self.path, directory)
        made = {os.path.join(directory, name) for name in os.listdir(directory)} - {kept}
        own = files(self.name)
        if made != {*own}:
            raise UnsafeImage(
                f"{self.path}: qemu-img made other files than an image of this name has: "
                f"{', '.join(sorted(map(os.path.basename, made)))}",
                path=self.path,
            )
        return [*own[1:], self.name]

    def publish(self) -> None:
        self._put_in_place({})

    def replace(self, expected: t.Any) -> None:
        """As NewFile does; where there are no hard links, nothing is replaced."""
        directory = os.path.dirname(self._place)
        old = [os.path.basename(each) for each in (*self._old, self.path)]
        kept = _staging.kept(self.path, os.path.dirname(self.name))
        os.mkdir(kept, 0o700)
        for name in old:
            try:
                os.link(os.path.join(directory, name), os.path.join(kept, name), follow_symlinks=False)
            except OSError as error:
                raise DiskError(
                    f"{self.path}: the old files cannot be kept while new ones are put in their places: "
                    f"{os.path.join(directory, name)}: {error.strerror}: remove the old image, or choose another dest",
                    path=self.path,
                ) from error
        identities = {name: _same_file.file_identity(os.path.join(kept, name)) for name in old}
        if identities[os.path.basename(self.path)] != expected:
            raise _same_file.replaced_meanwhile(self.path)
        self._put_in_place(identities)

    def commit(self) -> None:
        settle(self._place)
        _durable.sync(os.path.dirname(self._place))
        self._close()

    def withdraw(self) -> None:
        moves = _moves(self._place)
        if moves is not None:
            _undo(self._place, moves)
        self._leave()

    def _put_in_place(self, old: dict[str, list[int]]) -> None:
        """Moves the files, after those that are *old* have gone; the image is there with the last of them."""
        directory = os.path.dirname(self._place)
        made = self.names()
        for name in made:
            _durable.sync(name)
        _write(
            self._place,
            os.path.dirname(self.name),
            _Moves({os.path.basename(name): _same_file.file_identity(name) for name in made}, old),
        )
        for name in reversed(old):  # the descriptor first
            place = os.path.join(directory, name)
            if not _same_file.is_file(place, old[name]):
                raise _same_file.replaced_meanwhile(place)
            _durable.remove(place)
        for name in made:
            if name == self.name:
                _durable.sync(directory)
            _staging.move_where_nothing_is(name, os.path.join(directory, os.path.basename(name)))
        _durable.sync(directory)
        if not old:
            self.commit()


@dataclass(frozen=True)
class _Moves:
    """What is being moved in the directory of an image: names of *new* and *old* files, each with its identity."""

    new: dict[str, list[int]]
    old: dict[str, list[int]]


def _moves(path: str) -> _Moves | None:
    """What is being moved, or was by a run that died; None where nothing is."""
    with _stage.found(path) as inside:
        return None if inside is None else _read(path, _staging.move_list(path, inside.path))


def _read(path: str, place: str) -> _Moves | None:
    """What the list at *place* says of the image of *path*; None where there is no list."""
    try:
        descriptor = _state.look(place)
        try:
            moves = _Moves(**_state.parsed(_state.content(descriptor, place)))
        finally:
            os.close(descriptor)
        # A list is only ever of files beside the image, and of that itself: it removes nothing elsewhere.
        if os.path.basename(path) not in moves.new or not _are_files(moves.new) or not _are_files(moves.old):
            raise ValueError("it does not list the files of this image")
        return moves
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise UnsafeImage(f"{place}: cannot be read: {error}", path=path) from error


def _are_files(listed: object) -> bool:
    """Whether that lists files of one directory, each with its identity."""
    return isinstance(listed, dict) and all(
        _state.is_name(f"/{name}") and "/" not in name and _state.is_identity(identity)
        for name, identity in listed.items()
    )


def _write(path: str, inside: str, moves: _Moves) -> None:
    """Writes the list into the staging directory *inside*, durably, whole or not at all."""
    place = _staging.move_list(path, inside)
    draft = f"{place}.new"
    with open(draft, "w", encoding="utf-8", errors="surrogateescape", opener=_open_own) as stream:
        json.dump(asdict(moves), stream)
    _durable.sync(draft)
    os.rename(draft, place)
    _durable.sync(os.path.dirname(place))
    _durable.sync(os.path.dirname(path))


def _open_own(name: str, flags: int) -> int:
    return os.open(name, flags, 0o600)  # whatever the umask: a list that others may write is not believed


def _undo(path: str, moves: _Moves) -> None:
    """Takes the new files away, and puts the old ones back, the descriptor first and last; then forgets the list.

    Raises DiskError where something else has come to stand there.
    """
    directory, own = os.path.split(path)
    for name in sorted(moves.new, key=lambda name: name != own):
        place = os.path.join(directory, name)
        if _same_file.is_file(place, moves.new[name]):
            _durable.remove(place)
    with _stage.found(path) as inside:
        kept = _staging.kept(path, inside.path) if inside is not None else ""
        for name in sorted(moves.old, key=lambda name: name == own):
            place = os.path.join(directory, name)
            if not _same_file.is_file(place, moves.old[name]):
                _staging.move_where_nothing_is(os.path.join(kept, name), place)
                _durable.sync(directory)
    _forget(path)


def _forget(path: str) -> None:
    """Removes the list: what it said is done."""
    with _stage.found(path) as inside:
        if inside is not None:
            _durable.remove(_staging.move_list(path, inside.path))
