# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a file system promises: each image once, by what its domain says that it is, or by its header."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils import _capacity
from ansible_collections.kvmops.disk.plugins.module_utils._capacity import FileSystem, Promise
from ansible_collections.kvmops.disk.plugins.module_utils._errors import InvalidRequest, NotEnoughSpace
from ansible_collections.kvmops.disk.plugins.module_utils._usage import User
from unit.qcow2_header import Made
from unit.samples import MIB, NO_QEMU_IMG


def raw(path: Path, size: int) -> Path:
    path.touch()
    os.truncate(path, size)
    return path


def qcow2(path: Path, size: int) -> Path:
    """A whole one, so that its header leaves no doubt."""
    path.write_bytes(bytes(Made(size=size)).ljust(0x40000, b"\0"))
    return path


def user(path: Path, image_format: str | None) -> User:
    return User("vm", "u", False, "vda", "disk", str(path), image_format)


def promised(directory: Path, *users: User, beside: tuple[Path, ...] = ()) -> dict[str, int]:
    found = _capacity.file_system(str(directory), [str(place) for place in beside], users, NO_QEMU_IMG)
    assert found.promised == sum(one.promised for one in found.promises)
    return {os.path.basename(one.path): one.promised for one in found.promises}


def test_an_image_counts_as_the_size_of_its_disk(tmp_path: Path) -> None:
    raw(tmp_path / "sparse.raw", 5 * MIB)
    qcow2(tmp_path / "thin.qcow2", 10 * MIB)
    (tmp_path / "thick").write_bytes(os.urandom(2 * MIB))
    (tmp_path / ".thin.qcow2.kvmops").write_text("{}")
    (tmp_path / "directory").mkdir()
    (tmp_path / "link to nothing").symlink_to("nothing")
    assert promised(tmp_path) == {"sparse.raw": 5 * MIB, "thin.qcow2": 10 * MIB, "thick": 2 * MIB}


def test_an_image_that_occupies_more_than_its_disk_has_counts_as_that() -> None:
    assert Promise("/a", (1, 1), 10, 15).promised == 15
    assert Promise("/a", (1, 1), 15, 10).promised == 15


def test_an_image_counts_once_whatever_names_lead_to_it(tmp_path: Path) -> None:
    path = raw(tmp_path / "a.raw", MIB)
    os.link(path, tmp_path / "b.raw")
    (tmp_path / "c.raw").symlink_to(path)
    assert sum(promised(tmp_path, user(tmp_path / "c.raw", "raw")).values()) == MIB


def test_what_lies_beside_other_disks_counts_and_what_lies_elsewhere_does_not(tmp_path: Path) -> None:
    for name in ("here", "named", "given", "unknown"):
        (tmp_path / name).mkdir()
        raw(tmp_path / name / f"{name}.raw", MIB)
    other = raw(tmp_path / "named" / "disk.raw", MIB)
    found = promised(tmp_path / "here", user(other, "raw"), beside=(tmp_path / "given",))
    assert sorted(found) == ["disk.raw", "given.raw", "here.raw", "named.raw"]


def test_a_raw_disk_counts_as_its_length_whatever_its_guest_wrote(tmp_path: Path) -> None:
    path = qcow2(tmp_path / "liar", 256 * MIB)
    assert promised(tmp_path) == {"liar": 256 * MIB}
    assert promised(tmp_path, user(path, None)) == {"liar": 256 * MIB}
    assert promised(tmp_path, user(path, "raw")) == {"liar": 0x40000}


def test_what_cannot_be_read_counts_as_its_length(tmp_path: Path) -> None:
    path = tmp_path / "torn"
    path.write_bytes(b"QFI\xfb" + bytes(4096 - 4))
    assert promised(tmp_path, user(path, "qcow2")) == {"torn": 4096}


def test_files_of_another_file_system_do_not_count(tmp_path: Path) -> None:
    raw(tmp_path / "a.raw", MIB)
    assert promised(tmp_path, user(Path("/proc/version"), "raw")) == {"a.raw": MIB}


def test_the_limit_is_met_exactly_and_not_crossed(tmp_path: Path) -> None:
    new = str(tmp_path / "new")
    system = FileSystem("/images", 100, (Promise("/images/a", (1, 1), 70, 0), Promise("/images/b", (1, 2), 30, 0)))
    system.require_room(new, 20, 1.2)
    with pytest.raises(NotEnoughSpace, match=r"3 image\(s\) on the file system of /images") as caught:
        system.require_room(new, 21, 1.2)
    assert caught.value.facts == {
        "required_bytes": 21,
        "available_bytes": 20,
        "promised_bytes": 100,
        "filesystem_bytes": 100,
        "max_overcommit": 1.2,
    }


def test_what_a_growing_image_had_before_does_not_count(tmp_path: Path) -> None:
    path = raw(tmp_path / "a.raw", 70)
    status = path.stat()
    system = FileSystem("/images", 100, (Promise(str(path), (status.st_dev, status.st_ino), 70, 0),))
    system.require_room(str(path), 100, 1)
    with pytest.raises(NotEnoughSpace):
        system.require_room(str(path), 101, 1)


@pytest.mark.parametrize("ratio", [0, -1, float("nan"), float("inf")])
def test_a_limit_that_is_none_is_refused(ratio: float) -> None:
    with pytest.raises(InvalidRequest, match="max_overcommit"):
        _capacity.require_ratio(ratio)


def test_no_limit_is_no_limit() -> None:
    _capacity.require_ratio(None)
    _capacity.require_ratio(1.2)
