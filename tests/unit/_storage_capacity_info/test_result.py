# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What storage_capacity_info returns of a file system."""

from __future__ import annotations

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._capacity.file_systems import FileSystem
from ansible_collections.kvmops.disk.plugins.module_utils._capacity.promises import Promise
from ansible_collections.kvmops.disk.plugins.module_utils._storage_capacity_info.result import of_file_system

GIB = 1 << 30
IMAGE = Promise("/images/web.qcow2", (1, 2), virtual_size=6 * GIB, actual_size=GIB)


def system(promises: int) -> FileSystem:
    return FileSystem(("/images",), size=10 * GIB, promises=(IMAGE,) * promises)


@pytest.mark.parametrize(("promises", "ratio", "over"), [(0, 0.0, False), (2, 1.2, False), (3, 1.8, True)])
def test_a_file_system_is_over_its_limit_where_it_promises_more(promises: int, ratio: float, over: bool) -> None:
    facts = of_file_system(system(promises), {"/images": "pool"}, 1.2)
    assert (facts["ratio"], facts["over_limit"], facts["pools"]) == (ratio, over, ["pool"])
    assert facts["promised"] == promises * 6 * GIB


def test_without_a_mount_the_directory_stands_for_its_file_system() -> None:
    facts = of_file_system(FileSystem(("/images",), size=100), {}, 1.2)
    assert (facts["mount"], facts["device"], facts["ratio"]) == ("/images", None, 0.0)


def test_of_a_file_system_that_does_not_tell_its_size_nothing_is_known() -> None:
    facts = of_file_system(FileSystem(("/images",), None, used=None, available=None), {}, 1.2)
    assert {facts[name] for name in ("size", "used", "available", "ratio", "over_limit")} == {None}
