# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What may be followed in an image, told by its header before qemu-img sees it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._image.trust import LARGEST, Trust
from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg
from unit.qcow2_header import BACKING_FORMAT, DATA_FILE, EXTERNAL_DATA, Made


class Told(QemuImg):
    """What qemu-img would say; and that it was asked at all."""

    asked: ClassVar[list[str]] = []
    size = 1 << 20

    def info(self, path: str, image_format: str) -> dict[str, Any]:
        self.asked.append(path)
        return {"virtual-size": self.size, "actual-size": 0}


@pytest.fixture
def qemu_img() -> Told:
    Told.asked = []
    return Told("/nonexistent/qemu-img")


def made(path: Path, **fields: Any) -> str:
    path.write_bytes(bytes(Made(**fields)))
    return str(path)


def overlay(path: Path, below: Path) -> str:
    return made(path, extensions=[(BACKING_FORMAT, b"qcow2")], backing=str(below).encode())


def test_nothing_is_asked_of_an_image_with_references_that_nobody_named(qemu_img: Told, tmp_path: Path) -> None:
    base = tmp_path / "base"
    made(base)
    data = made(tmp_path / "data", incompatible=EXTERNAL_DATA, extensions=[(DATA_FILE, b"/etc/shadow")])
    many = made(tmp_path / "many", snapshot_count=2000)
    for path, reason in (
        (overlay(tmp_path / "top", base), "reads the backing file"),
        (data, "keeps data in another file, '/etc/shadow'"),
        (many, "claims to hold 2000 snapshots"),
    ):
        with pytest.raises(UnsafeImage, match=reason):
            Trust(False).look(qemu_img, path, "qcow2")
        assert qemu_img.asked == []


def test_a_declared_backing_file_is_followed_by_whatever_name(qemu_img: Told, tmp_path: Path) -> None:
    base = tmp_path / "base"
    made(base)
    (tmp_path / "link").symlink_to(base)
    top = overlay(tmp_path / "top", base)
    found = Trust(False, (str(tmp_path / "link"),)).look(qemu_img, top, "qcow2")
    assert [image.path for image in found] == [top, str(base)]
    assert len(Trust(True).look(qemu_img, top, "qcow2")) == 2
    with pytest.raises(UnsafeImage, match="which the task does not name"):
        Trust(False, (str(tmp_path / "other"),)).look(qemu_img, top, "qcow2")


def test_a_disk_larger_than_any_is_believed_only_when_trusted(qemu_img: Told, tmp_path: Path) -> None:
    path = made(tmp_path / "disk")
    Told.size = LARGEST + 512
    try:
        with pytest.raises(UnsafeImage, match="and up to 64 TiB are believed"):
            Trust(False).look(qemu_img, path, "qcow2")
        assert len(Trust(True).look(qemu_img, path, "qcow2")) == 1
    finally:
        Told.size = 1 << 20


def test_trust_does_not_reach_as_far_as_circles_and_wrong_formats(qemu_img: Told, tmp_path: Path) -> None:
    circle = overlay(tmp_path / "circle", tmp_path / "circle")
    for path, image_format, reason in (
        (circle, "qcow2", "runs in a circle"),
        (made(tmp_path / "disk"), "raw", "its content begins like qcow2"),
        (made(tmp_path / "disk"), "vmdk", "found a qcow2 image, asked for vmdk"),
        (str(tmp_path), "raw", "is a directory, neither a regular file"),
        (str(tmp_path / "missing"), "raw", "no such image"),
    ):
        with pytest.raises(DiskError, match=reason):
            Trust(True).look(qemu_img, path, image_format)
