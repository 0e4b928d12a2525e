# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a task wants of a disk: parameters become wishes, and what no world could grant is refused."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._errors import InvalidRequest
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk.wish import (
    IMAGE_OPTIONS,
    require_whole_limits,
    throttle_from,
    wishes_from,
)
from ansible_collections.kvmops.disk.plugins.module_utils._xml.tuning import PROPERTIES

NOTHING: dict[str, Any] = dict.fromkeys(
    [
        *("disk", "bus", "device", "path", "pool", "volume", "format", "throttle", "libvirt_secret", "disks", "name"),
        *(*IMAGE_OPTIONS, *PROPERTIES, "max_overcommit"),
    ]
)
USUAL = {**NOTHING, "state": "present", "remove_image": False, "force": False, "timeout": 60.0, "live": True}


def params(**given: Any) -> dict[str, Any]:
    return {**USUAL, "search_paths": [], "name": "web", **given}


def test_a_disk_is_wanted_by_its_path() -> None:
    (wish,) = wishes_from(params(path="/images/a.qcow2", size="1G", cache="none"))
    assert (wish.name, wish.present, wish.path, wish.disk) == ("web", True, "/images/a.qcow2", None)
    assert (wish.image["size"], wish.tuning.cache, wish.tuning.io) == ("1G", "none", None)


def test_a_list_is_one_wish_for_each_disk() -> None:
    disks = [{**USUAL, "name": name, "path": f"/images/{name}.raw"} for name in ("web", "db")]
    wishes = wishes_from(params(name=None, disks=disks, live=False))
    assert [(wish.name, wish.live) for wish in wishes] == [("web", False), ("db", False)]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "says neither which disk nor which image"),
        ({"state": "absent"}, "says neither which disk nor which image"),
        ({"disk": "nvme0n1"}, "is not the target of a disk"),
        ({"disk": "vdb", "bus": "scsi"}, "is not on bus scsi"),
        ({"path": "a.qcow2"}, "is relative"),
        ({"path": "/images/a", "timeout": 0.0}, "is not a time"),
        ({"path": "/images/a", "remove_image": True}, "goes with state=absent"),
        ({"disk": "vdb", "state": "absent", "remove_image": True}, "says not which image"),
        ({"path": "/a", "state": "absent", "remove_image": True, "live": False}, "excludes live=false"),
        ({"path": "/images/a", "device": "cdrom", "size": "1G"}, "a cdrom has no image"),
        ({"path": "", "device": "disk", "disk": "vdb"}, "only a cdrom can be empty"),
        ({"path": "/images/a", "encryption": {}}, "give libvirt_secret"),
        ({"path": "/images/a", "serial": "x" * 21}, "has at most 20"),
        ({"path": "/images/a", "boot_order": -1}, "less than nothing"),
        ({"path": "/images/a", "throttle": {"total_iops": 1, "read_iops": 1}}, "exclude each other"),
        ({"path": "/images/a", "throttle": {"total_iops": -1}}, "less than nothing"),
        ({"path": "/images/a", "throttle": {"total_bytes": "much"}}, "is not a size"),
    ],
)
def test_what_no_world_could_grant_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        wishes_from(params(**given))


@pytest.mark.parametrize("same", [{"disk": "vdb"}, {"path": "/images/a"}, {"pool": "p", "volume": "v"}])
def test_a_disk_stands_in_the_list_once(same: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="in the list twice"):
        wishes_from(params(name=None, disks=[{**USUAL, "name": "web", **same}] * 2))


def test_limits_get_the_names_of_libvirt() -> None:
    given = {"total_bytes": "1000", "read_iops": 5, "read_iops_max": 7, "read_iops_max_length": 2, "write_iops": None}
    assert throttle_from({**given, "size_iops": "4K", "group": "g", "total_bytes_max": "1M"}) == {
        "total_bytes_sec": 1000,
        "total_bytes_sec_max": 1 << 20,
        "read_iops_sec": 5,
        "read_iops_sec_max": 7,
        "read_iops_sec_max_length": 2,
        "size_iops_sec": 4096,
        "group_name": "g",
    }


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"read_iops_sec_max": 5}, "read_iops_max: a burst goes beyond a limit"),
        ({"read_iops_sec": 9, "read_iops_sec_max": 5}, "less than the limit"),
        ({"read_iops_sec": 9, "read_iops_sec_max_length": 5}, "belongs to a burst"),
    ],
)
def test_a_burst_belongs_to_a_limit(limits: dict[str, int | str], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        require_whole_limits(limits)
