# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the cost of work grows with its size, in seconds of the processor: a busy machine changes those least."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Work = Callable[[], object]


@dataclass(frozen=True)
class Size:
    """One size of a piece of work: ours, and what is measured beside it. *prepare* comes first, and is not measured."""

    number: int
    ours: Work
    beside: Work
    prepare: Work = lambda: None


@dataclass(frozen=True)
class Point:
    """What one size costs: medians, and the median of the ratios, pair by pair."""

    number: int
    ours: float
    beside: float
    ratio: float


@dataclass(frozen=True)
class Curve:
    """The points of a piece of work, the smallest first. *goal* bounds the ratio at the largest size.

    *steeper* is how many times as much the largest costs, for each item, as the one before it: 1 where cost grows as
    the size does.
    """

    what: str
    points: tuple[Point, ...]
    goal: float

    @property
    def steeper(self) -> float:
        before, last = self.points[-2:]
        return last.ours / before.ours / (last.number / before.number)

    def __str__(self) -> str:
        verdict = "" if self.points[-1].ratio <= self.goal else "  over"
        lines = [f"{self.what:<53} {'size':>8} {'ours':>8} {'beside':>8} {'ratio':>7} {'goal':>6}"]
        for one in self.points:
            lines.append(f"{'':<53} {one.number:>8} {one.ours:>8.3f} {one.beside:>8.3f} {one.ratio:>7.2f}")
        lines[-1] += f" {self.goal:>6.2f}{verdict}"
        return "\n".join([*lines, f"{'':<53} the last step beside that of its size: {self.steeper:.2f}"])


def curve(what: str, sizes: Sequence[Size], *, rounds: int, goal: float) -> Curve:
    """Measures each size ROUNDS times in turn with what is beside it, after one round that does not count."""
    return Curve(what, tuple(_point(size, rounds) for size in sizes), goal)


def _point(size: Size, rounds: int) -> Point:
    size.prepare()
    pairs = [(effort(size.ours), effort(size.beside)) for _round in range(rounds + 1)][1:]
    return Point(
        size.number,
        statistics.median(ours for ours, _beside in pairs),
        statistics.median(beside for _ours, beside in pairs),
        statistics.median(ours / beside for ours, beside in pairs),
    )


def effort(work: Work) -> float:
    """The seconds of the processor that WORK takes, with all processes that it starts and waits for."""
    before = sum(os.times()[:4])
    work()
    return sum(os.times()[:4]) - before
