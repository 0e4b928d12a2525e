# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Ranges of a disk, as pairs (start, end) in bytes: joined, measured, compared."""

from __future__ import annotations

import typing as t

Ranges = t.Sequence[tuple[int, int]]


def length(ranges: Ranges) -> int:
    """The bytes in *ranges*, which do not overlap."""
    return sum(end - start for start, end in ranges)


def united(ranges: Ranges, gap: int = 0) -> list[tuple[int, int]]:
    """*ranges* in order, as one where they overlap or have at most *gap* bytes between them."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if found and start - found[-1][1] <= gap:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


def overlap(one: Ranges, other: Ranges) -> int:
    """The bytes that are in both."""
    total, at, others = 0, 0, united(other)
    for start, end in united(one):
        while at < len(others) and others[at][1] <= start:
            at += 1
        step = at
        while step < len(others) and others[step][0] < end:
            total += min(end, others[step][1]) - max(start, others[step][0])
            step += 1
    return total


def covers(held: Ranges, wanted: Ranges, size: int) -> bool:
    """Whether the ranges *held* have all of *wanted* that lies within *size*."""
    within = united([(start, min(end, size)) for start, end in wanted if start < size])
    return overlap(held, within) == length(within)
