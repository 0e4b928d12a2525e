# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A look at many images: which files they are, and the facts of each."""

from __future__ import annotations

import glob
import os
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._content import reclaimable as _reclaimable
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, ImageInUse, UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._files import base_note as _base_note
from ansible_collections.kvmops.disk.plugins.module_utils._image import anew as _anew
from ansible_collections.kvmops.disk.plugins.module_utils._image import image as _image
from ansible_collections.kvmops.disk.plugins.module_utils._image.trust import Trust
from ansible_collections.kvmops.disk.plugins.module_utils._parallel import once
from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import CheckResult, QemuImg
from ansible_collections.kvmops.disk.plugins.module_utils._recovery.repair import CHECKED_FORMATS, Finding, cut_of
from ansible_collections.kvmops.disk.plugins.module_utils._task import still as _still

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_image_info.wish import InfoWish
    from ansible_collections.kvmops.disk.plugins.module_utils._usage.dependents import Dependents

#: More ranges than these are no answer for a playbook, which would hold each of them as a dictionary.
MOST_RANGES = 100_000

Chain = tuple[_image.Image, ...]
Facts = dict[str, t.Any]


class NeedsSecret(DiskError):
    """An image is encrypted, so that nothing but its header can be read."""


def files_meant(paths: t.Iterable[str], recurse: bool) -> dict[str, bool]:
    """The files that *paths* mean, in order; the value tells whether the task names the file itself."""
    found: dict[str, bool] = {}
    for path in paths:
        if os.path.isdir(path):
            found.update({name: found.get(name, False) for name in sorted(_files(path, recurse))})
        elif os.path.lexists(path) or not glob.has_magic(path):
            found[path] = True
        else:
            for name in sorted(glob.glob(path, recursive=recurse)):
                if os.path.isfile(name):
                    found.setdefault(name, False)
    return found


class Survey:
    """The facts that *wish* wants of each image; of what images refer to, only the *files* that it means are opened.

    *dependents* are asked about each image, where they were looked for.
    """

    def __init__(
        self, qemu_img: QemuImg, wish: InfoWish, files: t.Iterable[str], dependents: Dependents | None = None
    ) -> None:
        self.qemu_img = qemu_img
        self.wish = wish
        self.dependents = dependents
        self.trust = Trust(wish.trusted, tuple(files))
        self._inspected = once(self._inspect)  # a thousand clones have one base, which may itself be asked for

    def facts_of(self, path: str) -> Facts:
        """The facts of one image. Raises DiskError where what is asked for cannot be had.

        That somebody writes to it, or that it is encrypted, is no error: what cannot be known for that reason is None.
        """
        wish = self.wish
        image = self._top(path)
        if wish.by_content:
            self.trust.require_believable(image)
        chain = self._chain(image) if wish.needs_chain else (image,)
        facts = self._facts(image)
        if wish.backing_chain:
            facts["backing_chain"] = [self._facts(link) for link in chain]
        if self.dependents is not None:
            facts.update(_as_base(path, self.dependents.of(path)))
        return {**facts, **self._by_content(wish.by_content, chain)} if wish.by_content else facts

    def _top(self, path: str) -> _image.Image:
        """The image at *path*. Where no chain is wanted, nobody asks for it again, and its header is read once."""
        if self.wish.needs_chain:
            return self._inspected((path, self.wish.format or _image.claimed_format(path)))
        return self._inspect((path, self.wish.format))

    def _inspect(self, named: tuple[str, str | None]) -> _image.Image:
        path, image_format = named
        return _image.inspect(self.qemu_img, path, image_format, knows=self.trust.knows)

    def _facts(self, image: _image.Image) -> Facts:
        facts = image.facts()
        return facts if self.wish.snapshots else {**facts, "snapshots": None}

    def _chain(self, image: _image.Image) -> Chain:
        """*image* and those below it. All may have been planted, so that the task has to know each of them."""
        self.trust.require_harmless(image.path, image.format)

        def look(path: str, image_format: str) -> _image.Image:
            self.trust.require_harmless(path, image_format)
            return self._inspected((path, image_format))

        return _image.chain(self.qemu_img, image, look)

    def _by_content(self, names: t.Iterable[str], chain: Chain) -> Facts:
        """The facts of those *names*, for which more than a header is read; ``problems`` say what is lacking."""
        ways: dict[str, t.Callable[[Chain], t.Any]] = {
            "map": self._map,
            "measure": self._measure,
            "check": self._check,
            "reclaimable": self._reclaimable,
        }
        facts: Facts = {}
        problems = []
        for name in names:
            try:
                facts[name] = ways[name](chain)
            except (ImageInUse, NeedsSecret) as error:
                facts[name] = None
                problems.append(f"{name}: {error}")
        return {**facts, "problems": problems}

    def _map(self, chain: Chain) -> list[Facts]:
        _require_no_secret(chain)
        ranges = self.qemu_img.map(chain[0].path, chain[0].format)
        if len(ranges) > MOST_RANGES:
            raise DiskError(
                f"{chain[0].path}: its map has {len(ranges)} ranges, and up to {MOST_RANGES} are returned: leave out "
                "map, or make a copy of the image that is less scattered (kvmops.disk.qcow2_convert)",
                path=chain[0].path,
            )
        return [dict(vars(found)) for found in ranges]

    def _measure(self, chain: Chain) -> Facts:
        """What the content would take as raw is the size of the disk (raw_measure in block/raw-format.c)."""
        _require_no_secret(chain)
        top = chain[0]
        as_qcow2 = self.qemu_img.measure(top.path, top.format, "qcow2", {})
        as_raw = {"required": top.virtual_size, "fully_allocated": top.virtual_size}
        return {"raw": as_raw, "qcow2": dict(vars(as_qcow2))}

    def _check(self, chain: Chain) -> Facts:
        """As qcow2_check finds it; nothing but the image is opened."""
        image = chain[0]
        cut = cut_of(image.path, image.format)
        if cut is not None or image.format not in CHECKED_FORMATS:
            return Finding(CheckResult("unsupported"), cut=cut).facts()
        _require_no_secret((image,))
        _still.require_unwritten(image)
        external_data = image.format == "qcow2" and image.data_file is not None
        found = self.qemu_img.check(image.path, image.format, external_data=external_data)
        return Finding(found, image.format, image.corrupt, image.dirty, external_data, cut).facts()

    def _reclaimable(self, chain: Chain) -> int | None:
        """What a rewrite would give back, by the tables of the image alone; None where it would not be rewritten."""
        image = chain[0]
        _require_no_secret((image,))
        if not _reclaimable.is_foretold(image):
            return None
        rows = self.qemu_img.own_map(image.path, image.format)
        return _anew.at_least(image, _reclaimable.most_by_tables(image, rows))


def _files(directory: str, recurse: bool) -> t.Iterator[str]:
    """The files in *directory*, hidden ones aside, by what it says of them itself: nobody asks for each."""
    try:
        with os.scandir(directory) as entries:
            found = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise UnsafeImage(
            f"{error.filename}: cannot be searched for images: {error.strerror}", path=error.filename
        ) from error
    for entry in found:
        if _is_file(entry):
            yield entry.path
        elif recurse and entry.is_dir(follow_symlinks=False):
            yield from _files(entry.path, recurse)


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link in a circle, or into a directory that is closed
        return False


def _as_base(path: str, dependents: list[str]) -> Facts:
    """What depends on the image at *path*, and whether it is known to have been made a base."""
    note = _base_note.own_note(path)
    unused = note is not None and not dependents
    return {
        "dependents": dependents,
        "protected_base": note is not None and note.mode is not None,
        "unused_base": unused,
        "unused_since": note.unused_since if note is not None and unused else None,
    }


def _require_no_secret(chain: Chain) -> None:
    for image in chain:
        if image.encrypted:
            raise NeedsSecret(f"{image.path}: is encrypted, and only its header can be read without its secret")
