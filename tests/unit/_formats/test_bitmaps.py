# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the bits of a dirty bitmap say."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

from ansible_collections.kvmops.disk.plugins.module_utils._formats.bitmaps import Bitmap, Bits
from hypothesis import given
from hypothesis import strategies as st


def bits(places: set[int], granularity: int, disk: int = 64 * 1024) -> Bits:
    """A bitmap of a disk of 64 KiB in an image of clusters of 512 bytes, of which one holds the bits."""
    length = -(-disk // (8 * granularity))
    data = sum(1 << place for place in places).to_bytes(512, "little")
    stream = io.BytesIO((512 + 512).to_bytes(8, "big").ljust(1024, b"\0") + data)
    header: Any = SimpleNamespace(cluster_size=512, virtual_size=disk)
    return Bits(stream, header, Bitmap(b"", granularity, False, True, 0, -(-length // 512)), "/i")


PLACES = st.sets(st.integers(0, 127), max_size=8)


@given(PLACES, PLACES)
def test_one_of_the_same_granularity_covers_another_if_it_has_its_bits(one: set[int], other: set[int]) -> None:
    assert bits(one, 512).covers(bits(other, 512)) == (other <= one)
    assert bits(one, 512).count() == len(one)


@given(PLACES, st.sets(st.integers(0, 15), max_size=4))
def test_one_of_another_granularity_covers_another_if_it_has_its_bytes(fine: set[int], coarse: set[int]) -> None:
    expanded = {8 * place + bit for place in coarse for bit in range(8)}
    assert bits(fine, 512).covers(bits(coarse, 4096)) == (expanded <= fine)
    assert bits(coarse, 4096).covers(bits(fine, 512)) == (fine <= expanded)
