# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a task wants of a dirty bitmap: what no world could grant is refused."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._errors import InvalidRequest
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_bitmap.wish import BitmapWish


@pytest.mark.parametrize(
    ("wish", "reason"),
    [
        ({"name": "x" * 1024}, "from 1 to 1023 bytes"),
        ({"name": "caf\udce9"}, "UTF-8"),
        ({"name": "nul\0"}, "control characters"),
        ({"state": "merged"}, "required there"),
        ({"sources": ("a",)}, "is for state=merged"),
        ({"state": "merged", "sources": ("",)}, "merge_from: a name has"),
        ({"state": "merged", "sources": ("a",), "file": "/i"}, "is the image itself"),
        ({"granularity": 1 << 32}, "not a power of two"),
        ({"granularity": 1536}, "not a power of two"),
    ],
    ids=str,
)
def test_a_wish_that_cannot_be_is_refused(wish: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        BitmapWish(**{"path": "/i", "name": "a", "state": "present", **wish}).require_valid()
