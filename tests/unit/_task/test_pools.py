# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A pool whose refresh fails after all, since something came meanwhile, is started again, or said to be inactive."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._errors import LibvirtFailed
from ansible_collections.kvmops.disk.plugins.module_utils._task import pools as _pools


class Pool:
    """An active pool that stops when it is refreshed, and starts again if it is said to."""

    name = "images"

    def __init__(self, directory: Path, *, starts: bool, kind: str = "dir") -> None:
        self._xml = f"<pool type='{kind}'><name>images</name><target><path>{directory}</path></target></pool>"
        self._starts = starts
        self.active = True

    def xml(self) -> str:
        return self._xml

    def is_active(self) -> bool:
        return self.active

    def refresh(self) -> None:
        self.active = False
        raise LibvirtFailed("images: cannot refresh the storage pool: cannot open volume '/images/bad'")

    def start(self) -> None:
        if not self._starts:
            raise LibvirtFailed("images: cannot start the storage pool")
        self.active = True


class Libvirt:
    uri = "qemu:///system"

    def __init__(self, *pools: Pool) -> None:
        self._pools = pools
        self.tried: list[str] = []

    def pools(self) -> list[Pool]:
        return [*self._pools]

    def try_pool(self, xml: str) -> None:
        self.tried.append(xml)


def refreshed(pool: Pool, directory: Path) -> tuple[Libvirt, str]:
    libvirt: Any = Libvirt(pool)
    warnings: list[str] = []
    _pools.refresh([libvirt], [str(directory)], warnings.append)
    (warning,) = warnings
    return libvirt, warning


@pytest.mark.parametrize(
    ("starts", "told"),
    [(True, "it stays active, and does not know yet"), (False, "it is inactive now, and domains with volumes in it")],
)
def test_a_pool_that_stops_is_started_again(tmp_path: Path, starts: bool, told: str) -> None:
    pool = Pool(tmp_path, starts=starts)
    _libvirt, warning = refreshed(pool, tmp_path)
    assert pool.active == starts
    assert told in warning
    assert "'/images/bad'" in warning


@pytest.mark.parametrize(("kind", "is_tried"), [("dir", True), ("netfs", True), ("logical", False)])
def test_only_a_directory_of_files_is_tried_first(tmp_path: Path, kind: str, is_tried: bool) -> None:
    libvirt, _warning = refreshed(Pool(tmp_path, starts=True, kind=kind), tmp_path)
    assert [str(tmp_path) in xml for xml in libvirt.tried] == [True] * is_tried


def test_a_pool_is_known_by_any_name_of_its_directory(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    refreshed(Pool(tmp_path / "link", starts=True), tmp_path / "real")
