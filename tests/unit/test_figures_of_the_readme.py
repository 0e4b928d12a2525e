# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What `make bench` prints gets into the README, and into the page with the curves, as it was printed."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
from bench.growth import Curve, Point
from bench.pair import HEADER, Row
from bench.plot import plotted
from bench.printed import curves, rows
from bench.readme import BEGIN, END, page, table, with_table

README = Path(__file__).resolve().parents[2] / "README.md"
ROW = Row("search, 1,000 images", 1.5, 2.0, 0.75, 1.4)
OVER = Row("a row above its goal", 3.0, 2.0, 1.5, 1.4)
CURVE = Curve("facts, images, beside <a loop>", (Point(10, 0.1, 0.2, 0.5), Point(100, 2.0, 0.4, 5.0)), 4.0)
PRINTED = "\n".join([HEADER, str(ROW), str(CURVE), "a line of something else", str(OVER)])


def test_what_was_printed_is_read_again() -> None:
    assert rows(PRINTED) == [ROW, OVER]
    assert curves(PRINTED) == [CURVE]


def test_a_curve_that_was_cut_off_is_none() -> None:
    assert curves("\n".join(str(CURVE).splitlines()[:2])) == []


def test_each_row_that_was_printed_is_a_row_of_the_table_and_each_curve_one_at_its_largest_size() -> None:
    assert table([ROW], [CURVE], "Measured today").splitlines() == [
        "Measured today",
        "",
        "| what | the module | beside it | ratio | goal |",
        "|---|---:|---:|---:|---:|",
        "| search, 1,000 images | 1.500 s | 2.000 s | 0.75 | 1.40 |",
        "| facts, images, beside <a loop> (100) | 2.000 s | 0.400 s | 5.00 | 4.00 |",
    ]


def test_a_run_that_printed_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="make bench"):
        table(rows("Traceback"), curves("Traceback"), "Measured today")


def test_the_page_has_each_point_of_each_curve() -> None:
    told = page([CURVE], "Measured today")
    for point in CURVE.points:
        assert f"| {CURVE.what} | {point.number} | {point.ours:.3f} s |" in told


def test_the_picture_is_well_formed_and_its_lines_rise_with_the_cost() -> None:
    drawn = ElementTree.fromstring(plotted([CURVE, CURVE, CURVE]))
    space = "{http://www.w3.org/2000/svg}"
    panels = drawn.findall(f"{space}g")
    assert len(panels) == 3
    heights = [float(dot.get("cy", "")) for dot in panels[0].iter(f"{space}circle")]
    assert len(heights) == 4
    (beside_small, beside_large, small, large) = heights
    assert large < beside_large < beside_small < small, "upwards is where cost is more"
    assert "beside <a loop>" in "".join(panels[0].itertext())


def test_the_table_takes_the_place_of_the_last_one_and_nothing_else() -> None:
    text = README.read_text(encoding="utf-8")
    once = with_table(text, "old")
    assert with_table(once, "new") == once.replace(f"{BEGIN}\nold\n{END}", f"{BEGIN}\nnew\n{END}")
    assert once.split(BEGIN)[0] == text.split(BEGIN)[0]
    assert once.split(END)[1] == text.split(END)[1]
