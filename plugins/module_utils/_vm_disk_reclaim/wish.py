# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a task wants of a disk: that it gives back what it does not need, where that is worth the work."""

from __future__ import annotations

import re
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._errors import InvalidRequest
from ansible_collections.kvmops.disk.plugins.module_utils._size import parse_size
from ansible_collections.kvmops.disk.plugins.module_utils._task.arguments import search_paths_from

_PERCENTAGE = r"(?a)([0-9]{1,3}(?:\.[0-9]+)?) ?%"


@dataclass(frozen=True)
class Threshold:
    """The least gain that is worth the work: *size* bytes, or *percent* of what the image occupies."""

    size: int = 0
    percent: float | None = None

    def bytes_of(self, occupied: int) -> int:
        """The least gain of an image that occupies so many bytes; never nothing."""
        return max(1, self.size if self.percent is None else int(occupied * self.percent / 100))

    @classmethod
    def parse(cls, text: str) -> Threshold:
        """The threshold as a task words it. Raises InvalidRequest where that is neither a size nor a percentage."""
        if text == "0":
            return cls()
        match = re.fullmatch(_PERCENTAGE, text)
        if match is None:
            return cls(size=parse_size(text, "min_gain"))
        percent = float(match[1])
        if percent > 100:
            raise InvalidRequest(f"min_gain: {text} is more than an image has: give 100% or less, or a size")
        return cls(percent=percent)


@dataclass(frozen=True)
class ReclaimWish:
    """What a task wants of a domain's disks.

    *thick*: those whose space is all allocated give it back, too. *agent_timeout*: the seconds that the guest agent
    gets.
    """

    disks: tuple[str, ...]
    min_gain: Threshold = Threshold(percent=10.0)
    thick: bool = False
    agent_timeout: int = 600
    trusted: bool = False


def wish_from(params: dict[str, t.Any]) -> ReclaimWish:
    """The wish that the parameters express. Raises InvalidRequest where no world could grant it."""
    search_paths_from(params)
    if params["agent_timeout"] < 1:
        raise InvalidRequest(f"agent_timeout: {params['agent_timeout']} s is too short: give 1 or more")
    return ReclaimWish(
        disks=tuple(params["disks"] or [params["disk"]]),
        min_gain=Threshold.parse(params["min_gain"]),
        **{name: params[name] for name in ("thick", "agent_timeout", "trusted")},
    )
