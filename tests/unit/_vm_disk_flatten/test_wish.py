# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Wishes that nothing can grant."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._errors import InvalidRequest
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten.wish import FlattenWish


@pytest.mark.parametrize("fields", [{"copy_timeout": 0}, {"copy_timeout": -1}, {"bandwidth": 0}])
def test_a_wish_that_no_world_could_grant_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        FlattenWish(("vda",), **fields).require_valid()
