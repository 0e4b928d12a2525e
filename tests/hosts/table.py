# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What became of each playbook on each host, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_HEAD = ("host", "playbook", "changed", "second run", "denials", "cuts survived", "")


@dataclass(frozen=True)
class Row:
    """One playbook on one host. `changed` and `again` are numbers of tasks: of its first run, and of its second."""

    host: str
    playbook: str
    changed: int = 0
    again: int = 0
    denials: int = 0
    cuts: int = 0
    survived: int = 0
    #: Why it was not run.
    not_run: str = ""
    faults: tuple[str, ...] = ()

    @property
    def is_good(self) -> bool:
        return bool(self.not_run) or not (self.faults or self.again or self.denials or self.survived < self.cuts)

    def cells(self) -> tuple[str, ...]:
        if self.not_run:
            return (self.host, self.playbook, "-", "-", "-", "-", f"not run: {self.not_run}")
        return (
            self.host,
            self.playbook,
            str(self.changed),
            "unchanged" if not self.again else f"{self.again} changed",
            str(self.denials),
            f"{self.survived} of {self.cuts}" if self.cuts else "-",
            "" if self.is_good else "FAILED",
        )


def table(rows: Sequence[Row]) -> str:
    """The rows below their head, and below them what is wrong."""
    cells = [_HEAD, *(row.cells() for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    lines += [f"{row.host} {row.playbook}: {fault}" for row in rows for fault in row.faults]
    return "\n".join(lines)
