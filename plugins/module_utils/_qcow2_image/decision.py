# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The decision to make an image, to change one as far as that can be done in place, or to remove one."""

from __future__ import annotations

import typing as t
from dataclasses import asdict, dataclass

from ansible_collections.kvmops.disk.plugins.module_utils._content.rebase import Rebase
from ansible_collections.kvmops.disk.plugins.module_utils._errors import (
    DiskError,
    ImageInUse,
    InvalidRequest,
    UnsafeImage,
)
from ansible_collections.kvmops.disk.plugins.module_utils._image import encryption as _encryption
from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
from ansible_collections.kvmops.disk.plugins.module_utils._image.layout import RESIZABLE_FORMATS, option_text
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan, Step
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_image.wish import ImageWish
from ansible_collections.kvmops.disk.plugins.module_utils._size import exact_size
from ansible_collections.kvmops.disk.plugins.module_utils._usage.users import User

_REWRITE = (
    "only a rewrite can change that: convert it into a new image (kvmops.disk.vm_disk_convert for a domain's disk)"
)


class Work(t.Protocol):
    """What can be done to the image of a task."""

    def create(self, size: int, backing: tuple[str, str] | None) -> None:
        """Makes an image of *size* bytes over *backing*, a file and its format, and puts it in its place."""

    def withdraw(self) -> None:
        """Removes what create() made."""

    def amend(self, options: dict[str, str]) -> None:
        """Gives the image other *options*."""

    def resize(self, size: int, *, shrink: bool, preallocation: str | None) -> None:
        """Gives the image another size, in bytes."""


def new_size(wish: ImageWish, base: Image | None) -> int:
    """The virtual size of the image to make. Raises InvalidRequest without any, or with one that cuts off the base."""
    if base is None:
        if wish.size is None:
            raise InvalidRequest(f"{wish.path}: does not exist: give the size to create it with")
        return wish.size
    if wish.size is not None and wish.size < base.virtual_size:
        raise InvalidRequest(
            f"{wish.path}: asked for {exact_size(wish.size)}, but its backing file {base.path} has "
            f"{exact_size(base.virtual_size)}: a smaller overlay cuts off the end of the disk: leave size out, "
            "or ask for as much or more",
            virtual_size=base.virtual_size,
        )
    return wish.size or base.virtual_size


def plan_create(wish: ImageWish, base: Image | None, work: Work) -> Plan:
    """The plan that makes the image, over *base* where there is one. Raises as new_size()."""
    size = new_size(wish, base)
    image_format = wish.layout.format
    backing = (base.path, base.format) if base else None
    kind = f"encrypted {image_format}" if wish.encryption else image_format
    over = f" over {base.path}" if base else ""
    policy = f", preallocation {wish.layout.preallocation}" if wish.layout.preallocation else ""
    step = Step(
        f"create {kind} image {wish.path} of {exact_size(size)}{over}{policy}",
        lambda: work.create(size, backing),
        work.withdraw,
    )
    after = {
        "path": wish.path,
        "state": "present",
        "format": image_format,
        "virtual_size": size,
        **({"backing_file": base.path, "backing_format": base.format} if base else {}),
        **wish.layout.choices(),
        **({"encrypted": True} if wish.encryption else {}),
    }
    return Plan({"path": wish.path, "state": "absent"}, after, (step,))


@dataclass(frozen=True)
class Change:
    """What *image* is to have otherwise: the options that are amended, and its size in bytes, None where that stays.

    False where there is nothing of that.
    """

    image: Image
    options: t.Mapping[str, t.Any]
    size: int | None = None

    def __bool__(self) -> bool:
        return bool(self.options) or self.size is not None

    @property
    def grows(self) -> bool:
        return self.size is not None and self.size > self.image.virtual_size


def change(wish: ImageWish, image: Image) -> Change:
    """How *image* differs from what the task wants.

    Raises DiskError where that cannot be changed, or would cut off data that nobody gave up.
    """
    amendable, fixed = wish.layout.differences(image)
    if fixed:
        found = ", ".join(f"{name} is {getattr(image, name)}, asked for {value}" for name, value in fixed.items())
        raise DiskError(f"{image.path}: {found}: {_REWRITE}", differences=sorted(fixed))
    _encryption.require_same_kind(wish.encryption, image)
    if wish.size is None or wish.size == image.virtual_size:
        return Change(image, amendable)
    _require_resizable(wish, image, wish.size)
    return Change(image, amendable, wish.size)


def plan_change(
    wish: ImageWish, wanted: Change, work: Work, *, keys: Plan | None = None, rebase: Plan | None = None
) -> Plan:
    """The plan that amends and resizes an image in place; empty where it is as wanted.

    *keys* is the part that changes its keys, after which the secret of the task opens it. *rebase* is the part that
    gives it another backing file. A rebase that copies comes last: an image grows over its old backing file, so that
    the new one shows nothing in what is added. Where only the reference is rewritten, the old backing file may not be
    there any more.
    Raises DiskError where the image cannot be written, or where that would open a file which the task does not name.
    """
    image = wanted.image
    steps = list(keys.steps) if keys else []
    before, after = dict(keys.before) if keys else {}, dict(keys.after) if keys else {}
    if wanted.options:
        steps.append(_amend(image, wanted.options, work))
        after.update(wanted.options)
    if wanted.size is not None:
        steps.append(_resize(wish, image, wanted.size, work))
        after["virtual_size"] = wanted.size
    if rebase:
        steps = [*rebase.steps, *steps] if wish.rebase == "unsafe" else [*steps, *rebase.steps]
        after.update(rebase.after)
        before.update(rebase.before)
    if steps:
        _require_changeable(wish, image, wanted.options)
    return Plan({name: before.get(name, getattr(image, name)) for name in after}, after, tuple(steps))


def require_no_cut(wish: ImageWish, image: Image, below: t.Sequence[Image]) -> None:
    """Raises InvalidRequest where shrinking *image* would cut off the backing file under it, the first of *below*."""
    if wish.size is not None and below and wish.size < min(image.virtual_size, below[0].virtual_size):
        raise InvalidRequest(
            f"{image.path}: asked for {exact_size(wish.size)}, but its backing file {below[0].path} has "
            f"{exact_size(below[0].virtual_size)}: a smaller overlay cuts off the end of the disk: "
            "ask for as much or more",
            virtual_size=image.virtual_size,
        )


def require_undescribed(rebase: Rebase, users: t.Iterable[User]) -> None:
    """Raises ImageInUse where the definition of one of *users* would go on with the old backing files."""
    for user in users:
        raise ImageInUse(
            f"{rebase.image.path}: the definition of domain {user.domain} says what disk {user.target} reads "
            f"(<backingStore>), and would still say so after: {rebase}: flatten the disk with "
            "kvmops.disk.vm_disk_flatten, or remove that element, first",
            path=rebase.image.path,
            in_use_by=[asdict(user)],
        )


def growth_in_bytes(wish: ImageWish, image: Image) -> int:
    """What the file system must take at once for *image* to be grown: all that is added, where it is preallocated."""
    if wish.size is None or wish.layout.preallocation not in ("falloc", "full"):
        return 0
    return max(0, wish.size - image.virtual_size)


@dataclass(frozen=True)
class Standing:
    """What stands where no image is to be: a file or a link to one, or something else; with how many *extents*."""

    is_file: bool
    extents: int = 0


def plan_remove(path: str, found: Standing | None, remove: t.Callable[[], None]) -> Plan:
    """The plan that has *remove* remove the image at *path*, its extents with it; of a symbolic link the target stays.

    Raises UnsafeImage where something else than a file is there.
    """
    after = {"path": path, "state": "absent"}
    if found is None:
        return Plan(after, after)
    if not found.is_file:
        raise UnsafeImage(
            f"{path}: asked to remove an image, found something that is not a regular file: left alone", path=path
        )
    what = f"remove {path}" + (f" and its {found.extents} extent(s)" if found.extents else "")
    return Plan({"path": path, "state": "present"}, after, (Step(what, remove),))


def _require_changeable(wish: ImageWish, image: Image, options: t.Mapping[str, t.Any]) -> None:
    """Raises where qemu-img would refuse to write *image*, or would open a file that the task does not name."""
    if image.corrupt:
        raise UnsafeImage(
            f"{image.path}: is marked corrupt and cannot be written: check and repair it first", path=image.path
        )
    if image.data_file is not None:
        raise UnsafeImage(
            f"{image.path}: keeps its data in another file, {image.data_file}, which the task does not name: "
            "not followed",
            path=image.path,
        )
    if image.backing_file is not None and wish.backing_file is None and not wish.trusted:
        raise UnsafeImage(
            f"{image.path}: reads the backing file {image.backing_file} "
            f"(format {image.backing_format or 'not recorded'}), which qemu-img opens to change it: "
            "name it with backing_file and backing_format, or set trusted=true, if it is the right one",
            path=image.path,
            backing_file=image.backing_file,
        )
    wish.layout.amended(image).require_valid(size=wish.size)
    if options.get("compat") == "0.10" and any(one.virtual_size != image.virtual_size for one in image.snapshots):
        raise DiskError(
            f"{image.path}: its snapshots have other sizes than the image, which compat 0.10 cannot hold: "
            "delete them first, or keep compat 1.1",
            snapshots=[snapshot.name for snapshot in image.snapshots],
        )


def _require_resizable(wish: ImageWish, image: Image, size: int) -> None:
    found, asked = exact_size(image.virtual_size), exact_size(size)
    if image.format not in RESIZABLE_FORMATS:
        raise DiskError(
            f"{image.path}: has {found}, asked for {asked}: {image.format} images cannot be resized: {_REWRITE}",
            differences=["size"],
        )
    if image.snapshots and (wish.layout.compat or image.compat) == "0.10":
        raise DiskError(
            f"{image.path}: has {found}, asked for {asked}: an image of compat 0.10 with "
            f"{len(image.snapshots)} snapshot(s) cannot be resized: "
            "ask for compat 1.1 as well, or delete the snapshots",
            snapshots=[snapshot.name for snapshot in image.snapshots],
        )
    if size < image.virtual_size and not wish.shrink:
        raise InvalidRequest(
            f"{image.path}: cannot shrink from {found} to {asked}: set shrink=true, "
            "after shrinking the file system inside",
            virtual_size=image.virtual_size,
        )


def _amend(image: Image, wanted: t.Mapping[str, t.Any], work: Work) -> Step:
    said = ", ".join(f"{name} from {getattr(image, name)} to {value}" for name, value in wanted.items())
    options = {name: option_text(value) for name, value in wanted.items()}
    return Step(f"amend {image.path}: {said}", lambda: work.amend(options))


def _resize(wish: ImageWish, image: Image, size: int, work: Work) -> Step:
    shrink = size < image.virtual_size
    return Step(
        f"{'shrink' if shrink else 'grow'} {image.path} from {exact_size(image.virtual_size)} to {exact_size(size)}",
        lambda: work.resize(size, shrink=shrink, preallocation=None if shrink else wish.layout.preallocation),
    )
