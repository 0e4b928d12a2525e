# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The size that a task asks for, as it words it."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, InvalidRequest
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_resize.wish import ResizeWish

GIB = 1 << 30


@pytest.mark.parametrize(
    ("size", "from_size", "current", "wanted"),
    [
        ("40G", None, 30, 40),
        ("40G", None, 40, 40),
        ("40G", None, 50, 40),
        (str(40 * GIB), None, 30, 40),
        ("+10G", None, 30, 40),
        ("+10G", None, 40, 50),
        ("+10G", "30G", 30, 40),
        ("+10G", "30G", 40, 40),
        ("+10GiB", str(30 * GIB), 40, 40),
    ],
)
def test_the_size_that_a_disk_is_to_have(size: str, from_size: str | None, current: int, wanted: int) -> None:
    assert ResizeWish.parse(size, from_size).target("vm: vda", current * GIB) == wanted * GIB


@pytest.mark.parametrize(
    ("size", "from_size", "current", "wanted"),
    [
        ("8193K", None, 4096, 8196),
        ("8192K", None, 4096, 8192),
        ("+1K", None, 4096, 4100),
        ("+1K", "4096K", 4096, 4100),
        ("+1K", "4096K", 4100, 4100),
    ],
)
def test_a_size_that_is_rounded_up_stays_as_it_is_once_it_is_reached(
    size: str, from_size: str | None, current: int, wanted: int
) -> None:
    assert ResizeWish.parse(size, from_size).target("vm: vda", current << 10, step=4096) == wanted << 10


@pytest.mark.parametrize("current", [29, 31, 39, 41, 50])
def test_a_disk_with_neither_size_is_an_error_that_says_what_it_has(current: int) -> None:
    with pytest.raises(DiskError, match=f"vm: vda: has {current} GiB, asked to grow from 30 GiB to 40 GiB") as caught:
        ResizeWish.parse("+10G", "30G").target("vm: vda", current * GIB)
    assert caught.value.facts == {"virtual_size": current * GIB}


@pytest.mark.parametrize(
    ("size", "from_size", "options", "said"),
    [
        ("0", None, {}, "is too small"),
        ("+0", None, {}, "is too small"),
        ("-5G", None, {}, "is not a size"),
        ("++5G", None, {}, "is not a size"),
        ("+-5G", None, {}, "is not a size"),
        ("+ 5G", None, {}, "is not a size"),
        ("", None, {}, "is not a size"),
        ("+", None, {}, "is not a size"),
        ("1000", None, {}, "not a whole number of 512-byte sectors"),
        ("+1000", None, {}, "not a whole number of 512-byte sectors"),
        ("40X", None, {}, "is not a size"),
        ("40GB", None, {}, "is not a size"),
        ("010", None, {}, "is not a size"),
        ("8E", None, {}, "more than QEMU can address"),
        ("+8E", None, {}, "more than QEMU can address"),
        ("+5E", "5E", {}, "more than QEMU can address"),
        ("40G", "30G", {}, "from_size: goes with a growth"),
        ("+10G", "1000", {}, "from_size: 1000 is not a whole number"),
        ("+10G", "+30G", {}, "from_size: \\+30G is not taken here"),
        ("+10G", "0", {}, "from_size: 0 is too small"),
        ("+10G", None, {"shrink": True}, "shrink: size is \\+10G, which only grows"),
        ("+10G", "30G", {"shrink": True}, "shrink: size is \\+10G, which only grows"),
    ],
)
def test_a_wish_that_nothing_can_grant_is_refused(
    size: str, from_size: str | None, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidRequest, match=said):
        ResizeWish.parse(size, from_size, **options)


def test_a_growth_that_no_disk_can_take_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="more than QEMU can address"):
        ResizeWish.parse("+5E").target("vm: vda", 5 << 60)
