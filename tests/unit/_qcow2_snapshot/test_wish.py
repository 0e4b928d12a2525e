# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a task wants of the snapshots of an image: what no world could grant is refused."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._errors import InvalidRequest
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_snapshot.wish import SnapshotWish

PATH = "/images/web.qcow2"


@pytest.mark.parametrize(
    ("wish", "reason"),
    [
        ({"name": ""}, "from 1 to 255 bytes"),
        ({"name": "x" * 256}, "from 1 to 255 bytes"),
        ({"name": "ü" * 128}, "from 1 to 255 bytes"),
        ({"name": "two\nlines"}, "control characters"),
        ({"name": "tab\t"}, "control characters"),
        ({"name": "nul\0"}, "control characters"),
        ({"name": "\u2028"}, "control characters"),
        ({"name": "caf\udce9"}, "UTF-8"),
        ({"name": "007"}, "could be the ID"),
        ({"name": "٣"}, "could be the ID"),
        ({"name": None}, "needs the name of a snapshot"),
        ({"name": None, "state": "reverted", "keep": 1, "prefix": ""}, "needs the name of a snapshot"),
        ({"name": "a", "state": "reverted", "keep": 1, "prefix": ""}, "keep goes with"),
        ({"name": None, "keep": -1, "prefix": ""}, "0 or more"),
    ],
    ids=str,
)
def test_a_wish_that_cannot_be_is_refused(wish: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        SnapshotWish(PATH, **{"state": "present", **wish}).require_valid()


@pytest.mark.parametrize("name", ["-x", "a,b", "1a", "json:{}", "x" * 255, "ü" * 127, " "])
def test_any_other_name_is_good(name: str) -> None:
    SnapshotWish(PATH, name, "present").require_valid()
