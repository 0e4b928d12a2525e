# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which names mean one file: looked up once, so that a decision only compares them."""

from __future__ import annotations

import os
import typing as t
from dataclasses import dataclass, field


@dataclass(frozen=True)
class RealNames:
    """The real names of files, through all links, by the names that were looked up. Another name stands for itself."""

    known: t.Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, names: t.Iterable[str | None]) -> RealNames:
        """The real names of those of *names* that are not None, as they are now."""
        return cls({name: os.path.realpath(name) for name in names if name is not None})

    def is_same(self, one: str, other: str) -> bool:
        """Whether the two names mean one file."""
        return self._real(one) == self._real(other)

    def is_among(self, name: str, others: t.Iterable[str]) -> bool:
        """Whether *name* means one of the files that *others* mean."""
        return any(self.is_same(name, other) for other in others)

    def _real(self, name: str) -> str:
        return self.known.get(name) or os.path.normpath(name)
