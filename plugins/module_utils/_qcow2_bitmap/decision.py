# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The decision about a dirty bitmap of an image: there, gone, counting or not, without a bit, with those of others."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._formats.bitmaps import MOST_BITMAPS, Bitmap
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan, Step
from ansible_collections.kvmops.disk.plugins.module_utils._size import format_size

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
    from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_bitmap.wish import BitmapWish

STATES = ("present", "absent", "enabled", "disabled", "cleared", "merged")

#: QEMU's choice where nobody says one: a cluster, within these (bdrv_get_default_bitmap_granularity).
_USUAL = (4096, 65536)


class Work(t.Protocol):
    """What can be done to the bitmap of a task."""

    def act(self, *actions: str) -> None:
        """Does *actions* of ``qemu-img bitmap``, in order."""

    def verify(self) -> None:
        """Raises DiskError where the bitmap then is not as wanted."""


@dataclass(frozen=True)
class Source:
    """The image at *path* that bitmaps are to be merged from, and those that it has.

    *covered* are the names of those of which the bitmap that they are merged into has all.
    """

    path: str
    virtual_size: int
    bitmaps: tuple[Bitmap, ...]
    covered: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Observed:
    """The image and its bitmaps. *dirty*: the bytes of the disk that a bitmap has set, by its name; None where it says
    nothing. *source* is where bitmaps are merged from, None where nothing is."""

    image: Image
    bitmaps: tuple[Bitmap, ...]
    dirty: t.Mapping[bytes, int | None]
    source: Source | None = None

    def find(self, name: str) -> Bitmap | None:
        return _find(self.bitmaps, name)

    def facts(self, bitmap: Bitmap) -> dict[str, t.Any]:
        """A bitmap as a module returns it."""
        return {
            "name": bitmap.text,
            "granularity": bitmap.granularity,
            "flags": bitmap.flags(),
            "dirty_bytes": self.dirty.get(bitmap.name),
        }


def plan_bitmap(wish: BitmapWish, observed: Observed, work: t.Callable[[], Work]) -> Plan:
    """The plan that brings the bitmap to what is wanted; *work* is asked for where something is done.

    Raises DiskError where there is no such bitmap, or one that says nothing any more, or has another granularity.
    """
    found = observed.find(wish.name)
    before = {"bitmap": observed.facts(found) if found else None}
    actions = _actions(wish, observed, found)
    if not actions:
        return Plan(before, before)
    steps = (Step(_summary(wish), lambda: work().act(*actions)), Step("", lambda: work().verify()))
    return Plan(before, {"bitmap": predicted(wish, observed)}, steps)


def predicted(wish: BitmapWish, observed: Observed) -> dict[str, t.Any] | None:
    """The facts of the bitmap once it is as wanted; how much is dirty after a merge is not known before."""
    if wish.state == "absent":
        return None
    found = observed.find(wish.name)
    if found is None:
        smallest, largest = _USUAL
        usual = max(smallest, min(observed.image.cluster_size or largest, largest))
        return {"name": wish.name, "granularity": wish.granularity or usual, "flags": ["auto"], "dirty_bytes": 0}
    changes: dict[str, dict[str, t.Any]] = {
        "enabled": {"flags": ["auto"]},
        "disabled": {"flags": []},
        "cleared": {"dirty_bytes": 0},
        "merged": {"dirty_bytes": None},
    }
    return {**observed.facts(found), **changes.get(wish.state, {})}


def bytes_needed(wish: BitmapWish, observed: Observed) -> int:
    """What the file may have to take more: the bits of a bitmap, its table, the directory, some counts."""
    found, image = observed.find(wish.name), observed.image
    granularity = found.granularity if found else wish.granularity or _USUAL[0]
    cluster = image.cluster_size or 65536
    bits = -(-image.virtual_size // (8 * granularity)) if wish.state == "merged" else 0
    return (-(-bits // cluster) + 6) * cluster


def require_bitmaps(image: Image) -> None:
    """Raises DiskError where an image cannot have bitmaps."""
    if image.compat == "0.10":
        raise DiskError(
            f"{image.path}: an image of compat 0.10 has no dirty bitmaps: bring it to compat 1.1 with "
            "kvmops.disk.qcow2_image",
            compat=image.compat,
        )


def _actions(wish: BitmapWish, observed: Observed, found: Bitmap | None) -> list[str]:
    """What ``qemu-img bitmap`` has to do; nothing where the bitmap is as wanted."""
    path = observed.image.path
    if wish.state == "absent":
        return ["remove"] if found else []
    if found is None:
        if wish.state != "present":
            raise _missing(path, wish.name, observed.bitmaps)
        if len(observed.bitmaps) >= MOST_BITMAPS:
            raise DiskError(f"{path}: has {len(observed.bitmaps)} bitmaps, as many as an image can have: remove some")
        return ["add"]
    _require_meaning(path, found, f"have it {wish.state}")
    if wish.granularity not in (None, found.granularity):
        raise DiskError(
            f"{path}: its bitmap {wish.name!r} has a granularity of {format_size(found.granularity)}, asked for "
            f"{format_size(wish.granularity or 0)}: it cannot be changed: remove the bitmap, and make a new one",
            granularity=found.granularity,
        )
    if wish.state == "merged":
        return [f"merge={name}" for name in _missing_sources(wish, observed)]
    wanted = {"enabled": found.enabled, "disabled": not found.enabled, "cleared": not observed.dirty[found.name]}
    action = {"enabled": "enable", "disabled": "disable", "cleared": "clear"}
    return [] if wanted.get(wish.state, True) else [action[wish.state]]


def _missing_sources(wish: BitmapWish, observed: Observed) -> list[str]:
    """Those that are to be merged of which the bitmap does not have all. Raises DiskError where one cannot be."""
    source = observed.source
    if source is None:
        return []
    for name in wish.sources:
        bitmap = _find(source.bitmaps, name)
        if bitmap is None:
            raise _missing(source.path, name, source.bitmaps)
        _require_meaning(source.path, bitmap, "merge it")
        if source.virtual_size != observed.image.virtual_size:
            raise DiskError(
                f"{source.path}: has {source.virtual_size} bytes, {wish.path} has {observed.image.virtual_size}: "
                "bitmaps are only merged between disks of the same size: resize one of them",
                virtual_size=source.virtual_size,
            )
    return [name for name in wish.sources if name not in source.covered]


def _summary(wish: BitmapWish) -> str:
    of = f"bitmap {wish.name} of {wish.path}"
    if wish.state == "merged":
        other = f" of {wish.file}" if wish.file else ""
        return f"merge {', '.join(wish.sources)}{other} into {of}"
    verbs = {"present": "add", "absent": "remove", "enabled": "enable", "disabled": "disable", "cleared": "clear"}
    return f"{verbs[wish.state]} {of}"


def _find(bitmaps: t.Iterable[Bitmap], name: str) -> Bitmap | None:
    return next((one for one in bitmaps if one.name == name.encode()), None)


def _missing(path: str, name: str, known: t.Iterable[Bitmap]) -> DiskError:
    names = [one.text for one in known]
    return DiskError(
        f"{path}: has no bitmap {name!r}; it has: {', '.join(map(repr, names)) or 'none'}: add it with state=present",
        bitmaps=names,
    )


def _require_meaning(path: str, bitmap: Bitmap, to_do: str) -> None:
    if bitmap.in_use:
        raise UnsafeImage(
            f"{path}: its bitmap {bitmap.text!r} is marked in use: a program ended without writing it back from "
            f"memory, so it is invalid: asked to {to_do}: remove it (state=absent), make a new one, and begin with a "
            "full backup",
            path=path,
            bitmap=bitmap.text,
        )
