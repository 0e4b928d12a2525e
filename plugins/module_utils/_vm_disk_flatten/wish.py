# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a task wants of a disk: to be independent of images below it."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._errors import InvalidRequest
from ansible_collections.kvmops.disk.plugins.module_utils._size import parse_size
from ansible_collections.kvmops.disk.plugins.module_utils._task.arguments import absolute


@dataclass(frozen=True)
class FlattenWish:
    """What a task wants of a domain's disks: nothing below their images, or nothing between those and *base*."""

    disks: tuple[str, ...]
    base: str | None = None
    mode: str = "auto"
    bandwidth: int | None = None
    copy_timeout: int = 86400
    verify: bool = True
    trusted: bool = False

    def require_valid(self) -> None:
        """Raises InvalidRequest where no world could grant the wish."""
        if self.copy_timeout < 1:
            raise InvalidRequest(f"copy_timeout: {self.copy_timeout} s is too short: give 1 or more")
        if self.bandwidth is not None and self.bandwidth < 1:
            raise InvalidRequest("bandwidth: 0 would never copy anything: leave it out for no limit")


def wish_from(params: dict[str, t.Any]) -> FlattenWish:
    """The wish that the parameters express. Raises InvalidRequest where they contradict themselves."""
    base, bandwidth = params["base"], params["bandwidth"]
    wish = FlattenWish(
        disks=tuple(params["disks"] or [params["disk"]]),
        mode=params["method"],
        base=absolute(base, "base") if base is not None else None,
        bandwidth=parse_size(bandwidth, "bandwidth") if bandwidth is not None else None,
        **{name: params[name] for name in ("copy_timeout", "verify", "trusted")},
    )
    wish.require_valid()
    return wish
