# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Draws curves as SVG, a panel for each: how many seconds of the processor, over how many items, both by powers of ten.

What is measured beside the module is the dashed line. A line that is as steep as the grid's diagonal costs as much for
each item, however many there are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from xml.sax.saxutils import escape

from bench.growth import Curve, Point

WIDTH, HEIGHT, COLUMNS = 420, 300, 2
LEFT, RIGHT, TOP, BOTTOM = 56, 24, 48, 36
STYLE = """
  text { font: 12px sans-serif; fill: #59636e } .title { font-weight: bold; fill: #1f2328 }
  .paper { fill: #ffffff } .grid { stroke: #d1d9e0 } .ours, .beside { fill: none; stroke: #0969da; stroke-width: 2 }
  .beside { stroke: #59636e; stroke-dasharray: 5 4 } circle { fill: #0969da } .other { fill: #59636e }
  @media (prefers-color-scheme: dark) {
    text { fill: #9198a1 } .title { fill: #f0f6fc } .paper { fill: #0d1117 } .grid { stroke: #3d444d }
    .ours { stroke: #4493f8 } .beside { stroke: #9198a1 } circle { fill: #4493f8 } .other { fill: #9198a1 }
  }
"""


def plotted(curves: Sequence[Curve]) -> str:
    """The picture of CURVES."""
    width, height = WIDTH * COLUMNS, HEIGHT * -(-len(curves) // COLUMNS)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
        f"<style>{STYLE}</style>",
        f'<rect class="paper" width="{width}" height="{height}"/>',
    ]
    for number, curve in enumerate(curves):
        lines.append(f'<g transform="translate({number % COLUMNS * WIDTH} {number // COLUMNS * HEIGHT})">')
        lines += _panel(curve)
        lines.append("</g>")
    return "\n".join([*lines, "</svg>", ""])


def _panel(curve: Curve) -> Iterator[str]:
    seconds = [cost for point in curve.points for cost in (point.ours, point.beside)]
    across = _scale([point.number for point in curve.points], LEFT, WIDTH - RIGHT)
    up = _scale(seconds, HEIGHT - BOTTOM, TOP)
    what, _beside, other = curve.what.partition(", beside ")
    yield f'<text class="title" x="{LEFT}" y="18">{escape(what)}</text>'
    yield f'<text x="{LEFT}" y="36">beside {escape(other)}: {curve.points[-1].ratio:.2f} at the end</text>'
    for power in _powers(seconds):
        yield f'<path class="grid" d="M{LEFT} {up(power):.1f}H{WIDTH - RIGHT}"/>'
        yield f'<text x="{LEFT - 6}" y="{up(power) + 4:.1f}" text-anchor="end">{power:g} s</text>'
    for point in curve.points:
        yield f'<path class="grid" d="M{across(point.number):.1f} {TOP}V{HEIGHT - BOTTOM}"/>'
        yield f'<text x="{across(point.number):.1f}" y="{HEIGHT - 14}" text-anchor="middle">{point.number:,}</text>'
    yield from _line(curve.points, "beside", "other", across, lambda point: up(point.beside))
    yield from _line(curve.points, "ours", "", across, lambda point: up(point.ours))


def _line(
    points: Sequence[Point], name: str, dots: str, across: Callable[[float], float], height: Callable[[Point], float]
) -> Iterator[str]:
    places = [(across(point.number), height(point)) for point in points]
    yield f'<path class="{name}" d="M{" L".join(f"{x:.1f} {y:.1f}" for x, y in places)}"/>'
    for x, y in places:
        yield f'<circle class="{dots}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>'


def _powers(values: Sequence[float]) -> list[float]:
    """The powers of ten around VALUES."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return [10.0**power for power in range(low, max(high, low + 1) + 1)]


def _scale(values: Sequence[float], begin: float, end: float) -> Callable[[float], float]:
    """Where a value lies between BEGIN and END, by its logarithm; these are powers of ten for seconds."""
    ends = _powers(values) if end < begin else [min(values), max(values)]
    low, high = math.log10(ends[0]), math.log10(ends[-1])
    return lambda value: begin + (math.log10(value) - low) / (high - low or 1) * (end - begin)
