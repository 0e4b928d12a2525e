# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a file system promises: each image once, by what its domain says that it is, or by its header."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._capacity import file_systems as _file_systems
from ansible_collections.kvmops.disk.plugins.module_utils._capacity import promises as _promises
from ansible_collections.kvmops.disk.plugins.module_utils._capacity.file_systems import FileSystem
from ansible_collections.kvmops.disk.plugins.module_utils._capacity.promises import Promise, SeenFile
from ansible_collections.kvmops.disk.plugins.module_utils._capacity.space import NewImage
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import replace
from ansible_collections.kvmops.disk.plugins.module_utils._errors import MissingImage, NotEnoughSpace
from ansible_collections.kvmops.disk.plugins.module_utils._files import base_note as _base_note
from ansible_collections.kvmops.disk.plugins.module_utils._host.extents import Extent
from ansible_collections.kvmops.disk.plugins.module_utils._usage.users import User
from unit.qcow2_header import BACKING_FORMAT, Made
from unit.samples import MIB, NO_QEMU_IMG

#: What a small qcow2 image occupies here.
WHOLE = 0x40000


def raw(path: Path, size: int) -> Path:
    path.touch()
    os.truncate(path, size)
    return path


def qcow2(path: Path, size: int, backing: str = "", backing_format: str = "qcow2") -> Path:
    """A whole one, so that its header leaves no doubt."""
    extensions = [(BACKING_FORMAT, backing_format.encode())] if backing else []
    made = Made(size=size, backing=backing.encode(), extensions=extensions)
    path.write_bytes(bytes(made).ljust(WHOLE, b"\0"))
    return path


def identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def user(path: Path, image_format: str | None, role: str = "disk", running: bool = False) -> User:
    return User("vm", "u", running, "vda", role, str(path), image_format)


def system(directory: Path, *users: User, beside: tuple[Path, ...] = ()) -> FileSystem:
    (found,) = _file_systems.file_systems([str(directory)], [str(place) for place in beside], users, NO_QEMU_IMG)
    assert found.promised == sum(one.promised for one in found.promises)
    return found


def promised(directory: Path, *users: User, beside: tuple[Path, ...] = ()) -> dict[str, int]:
    return {os.path.basename(one.path): one.promised for one in system(directory, *users, beside=beside).promises}


def test_an_image_counts_as_the_size_of_its_disk(tmp_path: Path) -> None:
    raw(tmp_path / "sparse.raw", 5 * MIB)
    qcow2(tmp_path / "thin.qcow2", 10 * MIB)
    (tmp_path / "thick").write_bytes(os.urandom(2 * MIB))
    (tmp_path / ".thin.qcow2.kvmops").write_text("{}")
    (tmp_path / ".thin.qcow2.kvmops-base").write_text("{}")
    (tmp_path / "directory").mkdir()
    (tmp_path / "link to nothing").symlink_to("nothing")
    assert promised(tmp_path) == {"sparse.raw": 5 * MIB, "thin.qcow2": 10 * MIB, "thick": 2 * MIB}


def test_a_file_that_is_no_image_does_not_count_unless_somebody_names_it(tmp_path: Path) -> None:
    notes = raw(tmp_path / "notes.txt", MIB + 1)
    assert promised(tmp_path) == {}
    assert promised(tmp_path, user(notes, None)) == {"notes.txt": MIB + 512}, "rounded up to a sector"
    qcow2(tmp_path / "top.qcow2", 10 * MIB, "notes.txt", "raw")
    assert promised(tmp_path) == {"notes.txt": 0, "top.qcow2": 10 * MIB}


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
    assert promised(tmp_path, user(path, "raw")) == {"liar": WHOLE}


def test_what_cannot_be_read_counts_as_its_length(tmp_path: Path) -> None:
    path = tmp_path / "torn"
    path.write_bytes(b"QFI\xfb" + bytes(4096 - 4))
    (found,) = system(tmp_path, user(path, "qcow2")).promises
    assert (found.promised, found.format) == (4096, None)
    assert "torn" in str(found.problem)


def test_files_of_another_file_system_do_not_count(tmp_path: Path) -> None:
    raw(tmp_path / "a.raw", MIB)
    assert promised(tmp_path, user(Path("/proc/version"), "raw")) == {"a.raw": MIB}


def test_a_base_holds_what_it_occupies_and_each_overlay_promises_its_disk(tmp_path: Path) -> None:
    base = qcow2(tmp_path / "base", 10 * MIB)
    for name in ("one", "two"):
        qcow2(tmp_path / name, 10 * MIB, "base", "qcow2")
    qcow2(tmp_path / "top", 20 * MIB, str(tmp_path / "two"), "qcow2")
    assert promised(tmp_path) == {"base": WHOLE, "one": 10 * MIB, "two": WHOLE, "top": 20 * MIB}
    found = {os.path.basename(one.path): one for one in system(tmp_path).promises}
    assert found["base"].dependents == (str(tmp_path / "one"), str(tmp_path / "two"))
    assert not found["base"].grows
    assert found["top"].backing_file == str(tmp_path / "two")
    assert promised(tmp_path, user(base, "qcow2"))["base"] == WHOLE
    assert promised(tmp_path, user(base, "qcow2", running=True))["base"] == 10 * MIB


def test_a_base_whose_overlays_only_a_domain_knows_holds_what_it_occupies(tmp_path: Path) -> None:
    base = qcow2(tmp_path / "base", 10 * MIB)
    assert promised(tmp_path, user(base, "qcow2", "backing file of")) == {"base": WHOLE}


def test_a_base_whose_overlays_are_noted_beside_it_holds_what_it_occupies(tmp_path: Path) -> None:
    base = qcow2(tmp_path / "base", 10 * MIB)
    (tmp_path / "far").mkdir()
    overlay = qcow2(tmp_path / "far" / "one", 10 * MIB, "../base")
    _base_note.protect(str(base), [str(overlay)])
    (found,) = system(tmp_path).promises
    assert (found.promised, found.dependents, found.problem) == (WHOLE, (str(overlay),), None)
    (tmp_path / ".base.kvmops-base").write_text("{}")
    (found,) = system(tmp_path).promises
    assert found.promised == 10 * MIB
    assert "cannot be read (it is damaged)" in str(found.problem)


def test_a_base_that_nobody_named_is_counted_and_not_opened(tmp_path: Path) -> None:
    (tmp_path / "clones").mkdir()
    raw(tmp_path / "secret", 5 * MIB).write_bytes(bytes([1]) * MIB)
    qcow2(tmp_path / "clones" / "one", 10 * MIB, "../secret", "raw")
    found = {os.path.basename(one.path): one for one in system(tmp_path / "clones").promises}
    assert (found["secret"].promised, found["secret"].format, found["secret"].virtual_size) == (MIB, None, None)
    assert found["one"].promised == 10 * MIB


def test_a_base_counts_as_what_its_overlay_says_of_it(tmp_path: Path) -> None:
    liar = qcow2(tmp_path / "base", 256 * MIB, "innocent")
    raw(tmp_path / "innocent", 10 * MIB)
    assert promised(tmp_path)["innocent"] == 0
    qcow2(tmp_path / "one", MIB, "base", "raw")
    assert promised(tmp_path) == {"base": WHOLE, "innocent": 10 * MIB, "one": MIB}
    found = {one.path: one for one in system(tmp_path).promises}[str(liar)]
    assert (found.format, found.virtual_size) == ("raw", WHOLE)


def test_what_is_missing_below_an_image_is_its_problem(tmp_path: Path) -> None:
    qcow2(tmp_path / "one", MIB, "gone", "raw")
    (found,) = system(tmp_path).promises
    assert found.promised == MIB
    assert found.missing == (f"{tmp_path}/gone",)
    assert found.problem == f"{tmp_path}/one: it needs {tmp_path}/gone, which is missing"


def test_a_data_file_promises_instead_of_the_image_that_it_belongs_to(tmp_path: Path) -> None:
    data = raw(tmp_path / "disk.raw", 10 * MIB)
    tables = qcow2(tmp_path / "disk.qcow2", 10 * MIB)
    files = [
        SeenFile(str(tables), identity(tables), WHOLE, WHOLE, 0o600, "qcow2", 10 * MIB, data_files=(str(data),)),
        SeenFile(str(data), identity(data), 10 * MIB, 0),
    ]
    assert [one.promised for one in _promises.count(files, ())] == [WHOLE, 10 * MIB]


def test_extents_that_images_share_count_once_where_they_are_only_held(tmp_path: Path) -> None:
    paths = [raw(tmp_path / name, 0) for name in ("base", "copy", "overlay", "leaf")]
    base, copy, overlay, leaf = (SeenFile(str(path), identity(path), 100, 100, 0o600, "raw", 100) for path in paths)
    files = [base, copy, replace(overlay, backing_file=base.path), leaf]
    shared = [Extent(0, 1000, 60, True), Extent(60, 5000, 40, False)]
    lies = {base.path: shared, copy.path: shared, leaf.path: shared, overlay.path: []}
    counted = _promises.count(files, (), bases={copy.identity}, extents=lambda one: lies[one.path])
    assert [(one.promised, one.grows) for one in counted] == [(100, False), (40, False), (100, True), (100, True)]
    assert [one.shared_size for one in counted] == [60, 60, 0, 60]


def test_several_directories_of_one_file_system_are_one(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        raw(tmp_path / name / name, MIB)
    (found,) = _file_systems.file_systems([str(tmp_path / "a"), str(tmp_path / "b")], [], [], NO_QEMU_IMG)
    assert found.promised == 2 * MIB
    status = os.statvfs(tmp_path)
    assert found.size == status.f_blocks * status.f_frsize
    assert found.used is not None
    assert 0 < found.used < found.size
    assert found.mount is not None
    assert os.path.ismount(found.mount.point)


def test_a_directory_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MissingImage, match="No such file or directory"):
        _file_systems.file_systems([str(tmp_path / "missing")], [], [], NO_QEMU_IMG)


def test_the_limit_is_met_exactly_and_not_crossed(tmp_path: Path) -> None:
    new = str(tmp_path / "new")
    images = FileSystem(("/images",), 100, (Promise("/images/a", (1, 1), 70, 0), Promise("/images/b", (1, 2), 30, 0)))
    images.require_room([NewImage(new, 20)], 1.2)
    with pytest.raises(NotEnoughSpace, match=r"3 image\(s\) on the file system of /images") as caught:
        images.require_room([NewImage(new, 21)], 1.2)
    assert caught.value.facts == {
        "required_bytes": 21,
        "available_bytes": 20,
        "promised_bytes": 100,
        "filesystem_bytes": 100,
        "max_overcommit": 1.2,
    }


def test_what_a_growing_image_had_before_does_not_count(tmp_path: Path) -> None:
    path = raw(tmp_path / "a.raw", 70)
    images = FileSystem(("/images",), 100, (Promise(str(path), identity(path), 70, 0),))
    images.require_room([NewImage(str(path), 100)], 1)
    with pytest.raises(NotEnoughSpace):
        images.require_room([NewImage(str(path), 101)], 1)


def test_what_goes_when_the_new_image_is_there_does_not_count(tmp_path: Path) -> None:
    path = raw(tmp_path / "a.raw", 70)
    images = FileSystem(("/images",), 100, (Promise(str(path), identity(path), 70, 0),))
    images.require_room([NewImage(str(tmp_path / "b.raw"), 100)], 1, [str(path)])
    with pytest.raises(NotEnoughSpace):
        images.require_room([NewImage(str(tmp_path / "b.raw"), 100)], 1)


def test_many_new_images_are_asked_for_at_once_and_make_their_base_hold_still(tmp_path: Path) -> None:
    base = raw(tmp_path / "base", 1 << 43)
    status = os.statvfs(tmp_path)
    each = status.f_blocks * status.f_frsize // 4 + 1
    new = [NewImage(str(tmp_path / str(number)), each, str(base)) for number in range(4)]
    _file_systems.require_ratio_for(new, 1.1, [], [], NO_QEMU_IMG)
    _file_systems.require_ratio_for([*new, new[0]], None, [], [], NO_QEMU_IMG)
    with pytest.raises(NotEnoughSpace, match=f"^{tmp_path}/0 and 3 more: with .* for them, 5 image") as caught:
        _file_systems.require_ratio_for(new, 1, [], [], NO_QEMU_IMG)
    assert caught.value.facts["required_bytes"] == 4 * each
    with pytest.raises(NotEnoughSpace):
        _file_systems.require_ratio_for([NewImage(str(tmp_path / "independent"), 1)], 1.1, [], [], NO_QEMU_IMG)
