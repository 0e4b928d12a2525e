# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ranges of a disk: joined, measured, and compared with each other."""

from __future__ import annotations

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils import _ranges
from hypothesis import given
from hypothesis import strategies as st

RANGES = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 9)).map(lambda pair: (pair[0], sum(pair))), max_size=6)


@pytest.mark.parametrize(
    ("held", "wanted", "covered"),
    [
        ([(0, 10)], [(0, 10)], True),
        ([(0, 4), (4, 10)], [(2, 9)], True),
        ([(0, 4), (5, 10)], [(2, 9)], False),
        ([(0, 4), (5, 10)], [(0, 4), (6, 8), (9, 10)], True),
        ([], [], True),
        ([], [(0, 1)], False),
        ([(4, 10)], [(3, 5)], False),
        ([(0, 10)], [(5, 20)], True),
        ([], [(10, 20)], True),
    ],
)
def test_ranges_cover_others(held: list[tuple[int, int]], wanted: list[tuple[int, int]], covered: bool) -> None:
    """The last two: the image is smaller than what is below it, of which nobody sees the rest."""
    assert _ranges.covers(held, wanted, 10) is covered


@given(RANGES, RANGES)
def test_what_two_have_in_common_is_counted_once(one: list[tuple[int, int]], other: list[tuple[int, int]]) -> None:
    assert _ranges.overlap(one, other) == len(bytes_of(one) & bytes_of(other))


@given(RANGES)
def test_joined_ranges_have_the_same_bytes(ranges: list[tuple[int, int]]) -> None:
    joined = _ranges.united(ranges)
    assert bytes_of(joined) == bytes_of(ranges)
    assert _ranges.length(joined) == len(bytes_of(ranges))


def test_small_gaps_are_joined_where_that_is_asked() -> None:
    assert _ranges.united([(0, 2), (5, 6), (10, 11)], gap=3) == [(0, 6), (10, 11)]


def bytes_of(ranges: list[tuple[int, int]]) -> set[int]:
    return {byte for start, end in ranges for byte in range(start, end)}
