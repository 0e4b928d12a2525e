# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Puts what a run of the benchmark printed into the README, and into a page with its curves.

python -m bench.readme FILE
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

from bench import printed as _printed
from bench.growth import Curve
from bench.pair import Row
from bench.plot import plotted

ROOT = Path(__file__).resolve().parents[2]
BEGIN, END = "<!-- figures -->", "<!-- /figures -->"
PAGE, PICTURE = ROOT / "docs" / "SPEED.md", ROOT / "docs" / "pictures" / "growth.svg"


def table(rows: Sequence[Row], curves: Sequence[Curve], where: str) -> str:
    """ROWS, and each of CURVES at its largest size, as a table; WHERE names the day and the machine."""
    if not rows and not curves:
        raise ValueError("the benchmark printed no row: run make bench first")
    lines = [_line(row.what, row.ours, row.typed, row.ratio, row.goal) for row in rows]
    for curve in curves:
        last = curve.points[-1]
        lines.append(_line(f"{curve.what} ({last.number:,})", last.ours, last.beside, last.ratio, curve.goal))
    head = ["| what | the module | beside it | ratio | goal |", "|---|---:|---:|---:|---:|"]
    return "\n".join([where, "", *head, *lines])


def _line(what: str, ours: float, beside: float, ratio: float, goal: float) -> str:
    return f"| {what} | {ours:.3f} s | {beside:.3f} s | {ratio:.2f} | {goal:.2f} |"


def with_table(readme: str, figures: str) -> str:
    """*readme* with *figures* in the place for them."""
    before, _begin, rest = readme.partition(BEGIN)
    _old, end, after = rest.partition(END)
    if not end:
        raise ValueError("the README has no place for figures")
    return f"{before}{BEGIN}\n{figures}\n{END}{after}"


def page(curves: Sequence[Curve], where: str) -> str:
    """The page about how cost grows with size."""
    lines = [
        "# How cost grows with size",
        "",
        "`make bench` measures work of three sizes in seconds of the processor, beside the least that could do it, and",
        "`make figures` draws this page from what it printed. Both axes go by powers of ten. The dashed line is what",
        "the module is measured beside.",
        "",
        where,
        "",
        f"![The curves](pictures/{PICTURE.name})",
        "",
        "| what | size | the module | beside it | ratio |",
        "|---|---:|---:|---:|---:|",
    ]
    for curve in curves:
        lines += [
            f"| {curve.what} | {point.number:,} | {point.ours:.3f} s | {point.beside:.3f} s | {point.ratio:.2f} |"
            for point in curve.points
        ]
    return "\n".join([*lines, ""])


def machine() -> str:
    """The processor of this host, and how many of it a process may use."""
    found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    return f"{found[1] if found else 'an unnamed processor'}, {len(os.sched_getaffinity(0))} cores"


def main() -> None:
    file = Path(sys.argv[1])
    printed = file.read_text(encoding="utf-8")
    rows, curves = _printed.rows(printed), _printed.curves(printed)
    day = datetime.fromtimestamp(file.stat().st_mtime, timezone.utc).date().isoformat()
    where = f"Measured on {day}, {machine()}; medians of whole processes."
    readme = ROOT / "README.md"
    readme.write_text(with_table(readme.read_text(encoding="utf-8"), table(rows, curves, where)), encoding="utf-8")
    if curves:
        PICTURE.write_text(plotted(curves), encoding="utf-8")
        PAGE.write_text(page(curves, where), encoding="utf-8")


if __name__ == "__main__":
    main()
