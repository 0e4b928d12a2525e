# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which names mean one file: looked up once, so that a decision about them looks at nothing."""

from __future__ import annotations

import os
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass, field


@dataclass(frozen=True)
class Names:
    """What each name that was looked up leads to; any other name is taken as it stands."""

    places: t.Mapping[str, t.Hashable] = field(default_factory=dict)

    def same(self, one: str | None, other: str | None) -> bool:
        """Whether two names mean one file; None means no file."""
        return one is not None and other is not None and self._place(one) == self._place(other)

    def _place(self, name: str) -> t.Hashable:
        return self.places.get(name) or os.path.normpath(name)


def looked_up(names: t.Iterable[str | None], place: t.Callable[[str], t.Hashable] = os.path.realpath) -> Names:
    """*names* with what they lead to now; *place* looks that up: by default the name without any link in it."""
    return Names({name: place(name) for name in names if name is not None})


def are_same(one: str | None, other: str | None) -> bool:
    """Whether two names lead to one place now."""
    return looked_up((one, other)).same(one, other)
