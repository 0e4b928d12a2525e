# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an image occupies at most once it is written anew (HAZARDS N2)."""

from __future__ import annotations

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._image import anew as _anew
from ansible_collections.kvmops.disk.plugins.module_utils._image.layout import Layout, layout_of
from unit.samples import MIB, qcow2, raw

KIB = 1 << 10
CLUSTER = 64 * KIB


def test_a_raw_image_takes_whole_blocks_and_nothing_else() -> None:
    layout = Layout("raw")
    assert _anew.most_bytes(layout, 10 * MIB, [], [(0, 10 * MIB)]) == 0
    assert _anew.most_bytes(layout, 10 * MIB, [(0, 1), (5, 70 * KIB)], []) == 2 * CLUSTER


def test_a_qcow2_image_takes_its_header_and_counts_whatever_it_holds() -> None:
    layout = layout_of(qcow2())
    empty = _anew.most_bytes(layout, 10 * MIB, [], [])
    assert layout.bytes_of_empty(10 * MIB) <= empty <= layout.bytes_of_empty(10 * MIB) + 2 * CLUSTER


def test_each_cluster_counts_once_and_each_table_that_is_needed_once() -> None:
    layout, size = layout_of(qcow2()), 4 << 30
    empty = _anew.most_bytes(layout, size, [], [])
    one = _anew.most_bytes(layout, size, [(0, 512), (512, 1024)], [])
    assert one - empty == 2 * CLUSTER, "the cluster and its table"
    far = _anew.most_bytes(layout, size, [(0, 512), (1 << 30, (1 << 30) + 1)], [])
    assert far - empty == 4 * CLUSTER, "two of both"


def test_zeros_that_hide_a_backing_file_take_a_place_in_a_table_only() -> None:
    layout, size = layout_of(qcow2()), 4 << 30
    empty = _anew.most_bytes(layout, size, [], [])
    assert _anew.most_bytes(layout, size, [], [(0, 512 * MIB)]) - empty == CLUSTER


def test_a_table_of_subclusters_covers_half_as_much() -> None:
    layout, size = layout_of(qcow2(extended_l2=True)), 4 << 30
    empty = _anew.most_bytes(layout, size, [], [])
    assert _anew.most_bytes(layout, size, [], [(0, 512 * MIB)]) - empty == 2 * CLUSTER


@pytest.mark.parametrize(("actual", "most", "gain"), [(10 * MIB, 4 * MIB, 6 * MIB), (4 * MIB, 4 * MIB, 0), (1, 9, 0)])
def test_what_is_given_back_is_at_least_the_rest_and_never_less_than_nothing(actual: int, most: int, gain: int) -> None:
    assert _anew.at_least(raw(actual_size=actual), most) == gain
