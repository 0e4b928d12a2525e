# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a task wants of the size of a disk."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, InvalidRequest
from ansible_collections.kvmops.disk.plugins.module_utils._image.choices import ALLOCATIONS
from ansible_collections.kvmops.disk.plugins.module_utils._size import LARGEST, exact_size, parse_size, rounded_up
from ansible_collections.kvmops.disk.plugins.module_utils._task.arguments import overcommit_from, require_directories


@dataclass(frozen=True)
class ResizeWish:
    """The size that a task wants of a *disk*, in bytes: *size*, or *growth* on top of *from_size*, or of whatever there
    is."""

    disk: str = ""
    size: int | None = None
    growth: int | None = None
    from_size: int | None = None
    shrink: bool = False
    preallocation: str | None = None
    trusted: bool = False
    allow_dependents: bool = False
    max_overcommit: float | None = None
    align_size: bool = False

    @classmethod
    def parse(cls, size: str, from_size: str | None = None, *, shrink: bool = False, **rest: t.Any) -> ResizeWish:
        """The wish as a task words it. Raises InvalidRequest where that are no sizes, or they contradict each other."""
        grows = size.startswith("+") and not size.startswith("++")
        if from_size is not None and not grows:
            raise InvalidRequest(
                f"from_size: goes with a growth such as +10G, but size is {size}: leave from_size out, or put the plus "
                "before size (in quotes, or YAML takes it for a plain number)"
            )
        if grows and shrink:
            raise InvalidRequest(f"shrink: size is {size}, which only grows: leave shrink out, or give the size itself")
        parsed = parse_size(size[1:] if grows else size)
        start = parse_size(from_size, "from_size") if from_size is not None else None
        if start is not None:
            _require_addressable(start + parsed, f"size: {size} on top of {from_size}")
        return cls(
            size=None if grows else parsed, growth=parsed if grows else None, from_size=start, shrink=shrink, **rest
        )

    def target(self, what: str, current: int, step: int = 1) -> int:
        """The size that the disk *what*, which has *current* bytes, is to have: a multiple of *step* bytes.

        Raises DiskError where it has neither the size to grow from nor the one to grow to, or would get too large.
        """
        if self.size is not None:
            return rounded_up(self.size, step)
        growth = self.growth or 0
        if self.from_size is not None and current == rounded_up(self.from_size + growth, step):
            return current
        if self.from_size not in (None, current):
            raise DiskError(
                f"{what}: has {exact_size(current)}, asked to grow from {exact_size(self.from_size or 0)} to "
                f"{exact_size((self.from_size or 0) + growth)}: it has neither of the two: give the size that it is "
                "to have",
                virtual_size=current,
            )
        _require_addressable(current + growth, f"{what}: has {exact_size(current)}, and {exact_size(growth)} more")
        return rounded_up(current + growth, step)


def _require_addressable(size: int, what: str) -> None:
    if size > LARGEST:
        raise InvalidRequest(f"{what}: that is {size} bytes, more than QEMU can address ({LARGEST} bytes)")


def wish_from(params: dict[str, t.Any]) -> ResizeWish:
    """The wish that the parameters express. Raises InvalidRequest where they contradict themselves."""
    require_directories(params["search_paths"])
    max_overcommit, allocation = overcommit_from(params), params["allocation"]
    return ResizeWish.parse(
        params["size"],
        params["from_size"],
        disk=params["disk"],
        preallocation=ALLOCATIONS[allocation] if allocation else params["preallocation"],
        max_overcommit=max_overcommit,
        **{name: params[name] for name in ("shrink", "trusted", "allow_dependents", "align_size")},
    )
