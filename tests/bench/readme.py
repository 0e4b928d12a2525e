# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Puts what a run of the benchmark printed into the README: `python -m bench.readme FILE`."""

from __future__ import annotations

import os
import re
import sys
from datetime import datetime, timezone
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BEGIN, END = "<!-- figures -->", "<!-- /figures -->"
ROW = re.compile(
    r"^(?P<what>\S.*?)\s+(?P<ours>\d+\.\d+)\s+(?P<typed>\d+\.\d+)\s+(?P<ratio>\d+\.\d+)\s+(?P<goal>\d+\.\d+)"
)


def table(printed: str, where: str) -> str:
    """The rows that the benchmark *printed*, as a table; *where* names the day and the machine."""
    rows = [match for match in map(ROW.match, printed.splitlines()) if match is not None]
    if not rows:
        raise ValueError("the benchmark printed no row: run make bench first")
    lines = [f"| {row['what']} | {row['ours']} s | {row['typed']} s | {row['ratio']} |" for row in rows]
    return "\n".join([where, "", "| what | the module | typed | ratio |", "|---|---:|---:|---:|", *lines])


def with_table(readme: str, figures: str) -> str:
    """*readme* with *figures* in the place for them."""
    before, _begin, rest = readme.partition(BEGIN)
    _old, end, after = rest.partition(END)
    if not end:
        raise ValueError("the README has no place for figures")
    return f"{before}{BEGIN}\n{figures}\n{END}{after}"


def machine() -> str:
    """The processor of this host, and how many of it a process may use."""
    found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    return f"{found[1] if found else 'an unnamed processor'}, {len(os.sched_getaffinity(0))} cores"


def main() -> None:
    printed = Path(sys.argv[1])
    day = datetime.fromtimestamp(printed.stat().st_mtime, timezone.utc).date().isoformat()
    place = ROOT / "README.md"
    figures = table(printed.read_text(encoding="utf-8"), f"Measured on {day}, {machine()}; medians of whole processes.")
    place.write_text(with_table(place.read_text(encoding="utf-8"), figures), encoding="utf-8")


if __name__ == "__main__":
    main()
