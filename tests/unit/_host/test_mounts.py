# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which mount a file lies on, and which bytes of it are counted already."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._host.extents import Extent, Places, extents, shared_bytes
from ansible_collections.kvmops.disk.plugins.module_utils._host.mounts import Mounts

MOUNTINFO = r"""
22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
30 22 8:1 / /srv rw - ext4 /dev/sda1 rw
31 22 8:2 / /srv/old rw - xfs /dev/sdb1 rw
32 22 8:3 / /srv/old rw - xfs /dev/sdb2 rw
33 22 0:46 / /srv/pool rw - btrfs /dev/sdc rw,subvolid=5
34 22 8:4 / /srv/my\040images rw - ext4 /dev/disk\134one rw
35 22 8:1 /inside /bound rw - ext4 /dev/sda1 rw
""".strip()


@pytest.mark.parametrize(
    ("path", "number", "point", "device"),
    [
        ("/etc/fstab", "254:1", "/", "/dev/vda1"),
        ("/srv", "8:1", "/srv", "/dev/sda1"),
        ("/srv/images/a", "8:1", "/srv", "/dev/sda1"),
        ("/srv/older", "8:1", "/srv", "/dev/sda1"),
        ("/srv/old/a", "8:3", "/srv/old", "/dev/sdb2"),
        ("/srv/pool/subvolume/a", "0:99", "/srv/pool", "/dev/sdc"),
        ("/srv/my images/a", "8:4", "/srv/my images", r"/dev/disk\one"),
        ("/bound/a", "8:1", "/bound", "/dev/sda1"),
        ("/srv/hidden/a", "254:1", "/", "/dev/vda1"),
    ],
)
def test_a_file_lies_on_the_nearest_mount_of_its_device(path: str, number: str, point: str, device: str) -> None:
    major, minor = map(int, number.split(":"))
    mount = Mounts(MOUNTINFO).of(path, os.makedev(major, minor))
    assert mount is not None
    assert (mount.point, mount.device) == (point, device)


def test_all_mounts_of_a_file_system_have_its_number() -> None:
    mounts = Mounts(MOUNTINFO)
    found = [mounts.of(path, os.makedev(8, 1)) for path in ("/srv/inside/a", "/bound/a")]
    assert [mount.number for mount in found if mount] == ["8:1", "8:1"]


def test_where_no_mount_is_shown_there_is_none() -> None:
    assert Mounts("").of("/a", 1) is None


def test_the_kernel_says_on_what_this_file_lies() -> None:
    mount = Mounts.now().of(__file__, os.stat(__file__).st_dev)
    assert mount is not None
    assert os.path.ismount(mount.point)


def test_a_shared_place_is_counted_once() -> None:
    places = Places()
    assert places.add([Extent(0, 100, 50, True), Extent(50, 300, 10, True)]) == 0
    assert places.add([Extent(0, 120, 60, True)]) == 30
    assert places.add([Extent(0, 0, 400, True)]) == 90
    assert places.add([Extent(0, 0, 400, False)]) == 0
    assert places.add([Extent(0, 1000, 7, True), Extent(7, 1000, 7, True)]) == 7


def test_shared_bytes_are_those_of_shared_extents() -> None:
    assert shared_bytes([Extent(0, 0, 5, True), Extent(5, 9, 7, False)]) == 5


def test_what_is_not_there_has_no_extents(tmp_path: Path) -> None:
    assert extents(str(tmp_path / "missing")) is None
    assert extents("/proc/self/status") is None
