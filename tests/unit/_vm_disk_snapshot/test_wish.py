# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which wishes no world could grant."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._errors import InvalidRequest
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot.wish import VmSnapshotWish


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": "a/b"}, "must not contain a slash"),
        ({"name": ".hidden"}, "begin with a dot"),
        ({"name": "a\nb"}, "control characters"),
        ({"name": ""}, "from 1 to 200 bytes"),
        ({"name": "x" * 201}, "from 1 to 200 bytes"),
        ({"name": None}, "state=present needs the name"),
        ({"name": "s", "keep": -1}, "keep: -1"),
        ({"name": "s", "prefix": "a"}, "give keep, too"),
        ({"name": "s", "state": "reverted", "keep": 1}, "not with reverted"),
        ({"name": "s", "state": "absent", "disks": ("vda",)}, "give it with state=present"),
        ({"name": "s", "disks": ()}, "names at least one disk"),
        ({"name": "s", "timeout": 0}, "timeout: 0 s"),
        ({"name": "s", "bandwidth": 0}, "bandwidth: 0"),
    ],
)
def test_what_no_world_could_grant_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        VmSnapshotWish(**fields).require_valid()


def test_a_name_may_have_blanks_commas_and_colons() -> None:
    VmSnapshotWish("before: a, b ü").require_valid()
