# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a task says that is worth the work."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._errors import InvalidRequest
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_reclaim.wish import Threshold, wish_from

MIB = 1 << 20
PARAMS: dict[str, Any] = {
    "disk": "vda",
    "disks": None,
    "min_gain": "10%",
    "thick": False,
    "agent_timeout": 600,
    "search_paths": [],
    "trusted": False,
}


@pytest.mark.parametrize(
    ("text", "least"),
    [("10%", 10 * MIB), ("0.5 %", MIB // 2), ("100%", 100 * MIB), ("3M", 3 * MIB), ("0", 1), ("0%", 1)],
)
def test_a_threshold_is_a_size_or_a_share_of_what_the_image_occupies_and_never_nothing(text: str, least: int) -> None:
    assert Threshold.parse(text).bytes_of(100 * MIB) == least


@pytest.mark.parametrize("text", ["", "ten", "-1%", "101%", "1e3%", "10%%", "+5M"])
def test_all_else_is_refused_by_the_name_of_the_option(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^min_gain: "):
        Threshold.parse(text)


def test_one_disk_or_several_are_meant() -> None:
    assert wish_from(PARAMS).disks == ("vda",)
    assert wish_from({**PARAMS, "disk": None, "disks": ["vdb", "vda"]}).disks == ("vdb", "vda")


def test_an_agent_without_any_time_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"^agent_timeout: 0 s is too short"):
        wish_from({**PARAMS, "agent_timeout": 0})
