# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which file a volume is that libvirt does not know: by the definition of its pool, or said to be unknown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import replace
from ansible_collections.kvmops.disk.plugins.module_utils._errors import LibvirtFailed
from ansible_collections.kvmops.disk.plugins.module_utils._usage.sources import Source, source
from unit.samples import element

DISK = replace(element(source=None), type="volume", pool="images", volume="vm")


class Libvirt:
    """A libvirt that knows the pool `images`, if XML is given, and none of its volumes."""

    def __init__(self, xml: str | None) -> None:
        self._xml = xml

    def volume_path(self, pool: str, volume: str) -> str:
        raise LibvirtFailed(f"{pool}/{volume}: cannot find the storage volume: the pool is not active")

    def pool_xml(self, name: str) -> str:
        if self._xml is None:
            raise LibvirtFailed(f"{name}: cannot find the storage pool")
        return self._xml


def meant(kind: str | None, directory: Path | str = "/images") -> Source:
    target = f"<target><path>{directory}</path></target>"
    libvirt: Any = Libvirt(f"<pool type='{kind}'>{target}</pool>" if kind else None)
    return source(DISK, libvirt)


@pytest.mark.parametrize("kind", ["dir", "fs", "netfs", "vstorage", "logical", "zfs"])
def test_a_volume_lies_under_its_name_in_the_directory_of_the_pool(kind: str) -> None:
    assert meant(kind) == Source("/images/vm")


@pytest.mark.parametrize("kind", ["rbd", "gluster", "sheepdog", "iscsi-direct"])
def test_a_volume_in_the_network_is_no_file_of_this_host(kind: str) -> None:
    assert meant(kind) == Source(None)


@pytest.mark.parametrize("kind", ["disk", "iscsi", "scsi", "mpath"])
def test_a_volume_that_is_a_device_is_known_where_one_has_its_name(kind: str, tmp_path: Path) -> None:
    unknown = meant(kind, tmp_path)
    assert (unknown.path, unknown.device) == (None, True)
    assert "the volume vm of the storage pool images cannot be found" in str(unknown.problem)
    assert "virsh pool-start images" in str(unknown.problem)
    (tmp_path / "vm").touch()
    assert meant(kind, tmp_path) == Source(f"{tmp_path}/vm")


@pytest.mark.parametrize("kind", [None, "of-tomorrow"])
def test_where_nothing_tells_any_file_may_be_the_volume(kind: str | None) -> None:
    unknown = meant(kind)
    assert (unknown.path, unknown.device) == (None, False)
    assert "cannot be found" in str(unknown.problem)


def test_the_source_of_other_disks_is_what_they_say() -> None:
    assert source(element("/images/vm.raw"), Libvirt(None)) == Source("/images/vm.raw")  # type: ignore[arg-type]
