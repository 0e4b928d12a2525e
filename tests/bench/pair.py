# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two ways to do one thing, measured in turn, so that a machine whose speed drifts slows both."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from lab import run_module


class Measured(Protocol):
    """Something that takes time, and can be measured again and again."""

    def seconds(self) -> float: ...


@dataclass(frozen=True)
class Way:
    """One way to do it: RUN is timed, PREPARE comes before each run and is not."""

    run: Callable[[], object]
    prepare: Callable[[], object] = lambda: None

    def seconds(self) -> float:
        self.prepare()
        start = time.perf_counter()
        self.run()
        return time.perf_counter() - start


@dataclass(frozen=True)
class Row:
    """A line of the table: medians in seconds, and the median of the ratios, pair by pair."""

    what: str
    ours: float
    typed: float
    ratio: float
    goal: float

    def __str__(self) -> str:
        verdict = "" if self.ratio <= self.goal else "  over"
        return f"{self.what:<62} {self.ours:>8.3f} {self.typed:>8.3f} {self.ratio:>7.2f} {self.goal:>6.2f}{verdict}"


HEADER = f"{'median of whole processes, in seconds':<62} {'ours':>8} {'typed':>8} {'ratio':>7} {'goal':>6}"


def compare(what: str, ours: Measured, typed: Measured, *, rounds: int, goal: float) -> Row:
    """Measures both ways ROUNDS times in turn, after one round that does not count."""
    pairs = [(ours.seconds(), typed.seconds()) for _round in range(rounds + 1)][1:]
    return Row(
        what,
        statistics.median(pair[0] for pair in pairs),
        statistics.median(pair[1] for pair in pairs),
        statistics.median(pair[0] / pair[1] for pair in pairs),
        goal,
    )


def run_anew(name: str, params: Mapping[str, Any], *, timeout: float = 120) -> dict[str, Any]:
    """Runs a module as its users do: in an interpreter that has loaded nothing yet."""
    return run_module(name, params, timeout=timeout, python=sys.executable)
