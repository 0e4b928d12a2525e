# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The tables of images: rows of numbers, read and masked as a whole, since there are millions of them."""

from __future__ import annotations

import sys
import typing as t
from array import array

Order = t.Literal["big", "little"]


def masked(table: bytes, mask: int) -> bytes:
    """*table* with what *mask* leaves of each of its 64-bit entries, which are big-endian."""
    whole = int.from_bytes(mask.to_bytes(8, "big") * (len(table) // 8), "big")
    return (int.from_bytes(table, "big") & whole).to_bytes(len(table), "big")


def numbers(table: bytes, width: t.Literal[4, 8] = 8, order: Order = "big") -> array[int]:
    """The entries of *table*, *width* bytes each; a rest at its end is left out."""
    found = array("Q" if width == 8 else "I", table[: len(table) // width * width])
    if order != sys.byteorder:
        found.byteswap()
    return found
