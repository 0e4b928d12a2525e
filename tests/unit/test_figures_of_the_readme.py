# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The table of `make bench` gets into the README as it was printed."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench.pair import HEADER, Row
from bench.readme import BEGIN, END, table, with_table

README = Path(__file__).resolve().parents[2] / "README.md"
PRINTED = "\n".join([HEADER, str(Row("search, 1,000 images", 1.5, 2.0, 0.75, 1.4)), "a line of something else"])


def test_each_row_that_was_printed_is_a_row_of_the_table() -> None:
    assert table(PRINTED, "Measured today").splitlines() == [
        "Measured today",
        "",
        "| what | the module | typed | ratio |",
        "|---|---:|---:|---:|",
        "| search, 1,000 images | 1.500 s | 2.000 s | 0.75 |",
    ]


def test_a_run_that_printed_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="make bench"):
        table("Traceback", "Measured today")


def test_the_table_takes_the_place_of_the_last_one_and_nothing_else() -> None:
    text = README.read_text(encoding="utf-8")
    once = with_table(text, "old")
    assert with_table(once, "new") == once.replace(f"{BEGIN}\nold\n{END}", f"{BEGIN}\nnew\n{END}")
    assert once.split(BEGIN)[0] == text.split(BEGIN)[0]
    assert once.split(END)[1] == text.split(END)[1]
