# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run of the benchmark printed, read again: its rows and its curves."""

from __future__ import annotations

import re
from collections.abc import Iterator

from bench.growth import Curve, Point
from bench.pair import Row

_NUMBER = r"\s+(\d+\.\d+)"
_ROW = re.compile(rf"(\S.*?){_NUMBER * 4}(?:  over)?")
_BEGIN = re.compile(r"(\S.*?)\s+size\s+ours\s+beside\s+ratio\s+goal")
_POINT = re.compile(rf"\s+(\d+){_NUMBER * 3}(?:{_NUMBER}(?:  over)?)?")


def rows(printed: str) -> list[Row]:
    """The rows, in the order in which they were printed."""
    found = (_ROW.fullmatch(line) for line in printed.splitlines())
    return [Row(row[1], *(float(row[number]) for number in range(2, 6))) for row in found if row]


def curves(printed: str) -> list[Curve]:
    """The curves that were printed to their end."""
    return [*_curves(printed.splitlines())]


def _curves(lines: list[str]) -> Iterator[Curve]:
    what, points = "", list[Point]()
    for line in lines:
        begin, point = _BEGIN.fullmatch(line), _POINT.fullmatch(line)
        if begin:
            what, points = begin[1], []
        elif what and point:
            points.append(Point(int(point[1]), *(float(point[number]) for number in range(2, 5))))
            if point[5]:
                yield Curve(what, tuple(points), float(point[5]))
                what = ""
