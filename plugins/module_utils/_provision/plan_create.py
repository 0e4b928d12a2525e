# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The decision to make an image."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._errors import InvalidRequest
from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan, Step
from ansible_collections.kvmops.disk.plugins.module_utils._size import exact_size

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._image.layout import Layout
    from ansible_collections.kvmops.disk.plugins.module_utils._provision.wish import ImageWish


def foreseen(after: t.Mapping[str, t.Any], layout: Layout) -> dict[str, t.Any]:
    """The facts that a new image will have, of which a plan says these *after* it; None where only the run can tell."""
    said = {name: value for name, value in after.items() if name in Image.__dataclass_fields__}
    image = Image(said["path"], said["format"], said["virtual_size"], actual_size=0)
    return {**image.facts(), "actual_size": None, **layout.expected(), **said}


class Work(t.Protocol):
    """What makes the image of a task."""

    def create(self, size: int, backing: tuple[str, str] | None) -> None:
        """Makes an image of *size* bytes over *backing*, a file and its format, and puts it in its place."""

    def withdraw(self) -> None:
        """Removes what create() made."""


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
        **wish.layout.shown(),
        **({"encrypted": True} if wish.encryption else {}),
    }
    return Plan({"path": wish.path, "state": "absent"}, after, (step,))
