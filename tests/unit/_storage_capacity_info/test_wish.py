# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is meant where a task names nothing, paths, or pools."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._errors import InvalidRequest
from ansible_collections.kvmops.disk.plugins.module_utils._storage_capacity_info.wish import CapacityWish, wish_from


def wish(**params: Any) -> CapacityWish:
    usual: dict[str, Any] = {"paths": [], "pools": None, "libvirt": None, "recurse": False, "limit": 1.2}
    return wish_from({**usual, **params})


@pytest.mark.parametrize(
    ("params", "everything", "needs_libvirt"),
    [
        ({}, True, True),
        ({"paths": ["/images"]}, False, False),
        ({"pools": []}, False, False),
        ({"pools": ["default"]}, False, True),
        ({"paths": ["/images"], "libvirt": True}, True, True),
        ({"libvirt": False}, False, False),
    ],
    ids=str,
)
def test_all_is_meant_where_nothing_is_named(params: dict[str, Any], everything: bool, needs_libvirt: bool) -> None:
    found = wish(**params)
    assert (found.everything, found.needs_libvirt) == (everything, needs_libvirt)


def test_a_directory_may_be_named_with_its_slash_and_be_the_root() -> None:
    assert wish(paths=["/images/", "/"]).paths == ("/images/", "/")
    with pytest.raises(InvalidRequest, match="paths: 'images' is relative"):
        wish(paths=["images"])
