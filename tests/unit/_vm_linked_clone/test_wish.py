# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is asked of clones, and cannot be."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._errors import InvalidRequest
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.wish import CloneWish
from unit._vm_linked_clone.scene import UUID, spec, wish


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"name": ""}, "empty or blank"),
        ({"name": "  "}, "empty or blank"),
        ({"name": "a/b"}, "has a slash"),
        ({"name": ".."}, "is a directory"),
        ({"name": " a"}, "begins or ends with a blank"),
        ({"name": "a\nb"}, "line break"),
        ({"name": "a\x01b"}, "cannot stand in a domain's XML"),
        ({"name": "a" * 240}, "has 240 bytes"),
        ({"mac": "52:54:00:00:00"}, "is not a MAC address"),
        ({"mac": "33:33:00:00:00:01"}, "multicast"),
        ({"mac": "00:00:00:00:00:00"}, "empty address"),
        ({"uuid": "pc-1"}, "is not a UUID"),
        ({"uuid": "00000000-0000-0000-0000-000000000000"}, "is not a UUID"),
        ({"memory": "lots"}, "memory: 'lots' is not a size"),
        ({"memory": 1536}, "not a whole number of KiB"),
        ({"vcpus": 0}, "not a number of virtual CPUs"),
        ({"metadata": "<x>"}, "is not XML"),
        ({"metadata": "<x/>"}, "has no namespace"),
        ({"metadata": "text"}, "holds no element"),
        ({"disk_sizes": {"vda": "4MB"}}, "disk_sizes: vda"),
    ],
)
def test_bad_input_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        spec(**given)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (wish(spec(), spec()), "same names: pc-1"),
        (wish(spec(uuid=UUID), spec(name="b", uuid=UUID.upper())), "same UUIDs"),
        (wish(spec(mac="52-54-00-AA-00-01"), spec(name="b", mac="52:54:00:aa:00:01")), "same MAC addresses"),
        (wish(spec(name="golden")), "is the source itself"),
        (wish(mode="full", fallback="linked"), "fallback: is for kind=reflink"),
        (wish(preallocation="falloc"), "preallocation: falloc is for full copies"),
        (wish(mode="reflink", preallocation="full"), "is for full copies"),
        (wish(mode="reflink", cluster_size=65536), "cluster_size: a reflink has the cluster size"),
        (wish(cluster_size=1000), "is not a power of two"),
    ],
)
def test_a_list_that_contradicts_itself_is_refused(asked: CloneWish, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        asked.require_valid()
