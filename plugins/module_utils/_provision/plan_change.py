# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The decision how an image is changed in place: its options, its size, with its keys and its backing file."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import asdict
from ansible_collections.kvmops.disk.plugins.module_utils._errors import (
    DiskError,
    ImageInUse,
    InvalidRequest,
    UnsafeImage,
)
from ansible_collections.kvmops.disk.plugins.module_utils._image.layout import option_text
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan, Step
from ansible_collections.kvmops.disk.plugins.module_utils._size import exact_size

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._content.rebase import Rebase
    from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
    from ansible_collections.kvmops.disk.plugins.module_utils._provision.change import Change
    from ansible_collections.kvmops.disk.plugins.module_utils._provision.wish import ImageWish
    from ansible_collections.kvmops.disk.plugins.module_utils._usage.users import User


class Work(t.Protocol):
    """What changes the image of a task where it is."""

    def amend(self, options: dict[str, str]) -> None:
        """Gives the image other *options*."""

    def resize(self, size: int, *, shrink: bool, preallocation: str | None) -> None:
        """Gives the image another size, in bytes."""


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
