# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A new file is made out of sight and put in its place in one step, over nothing that stands there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, InvalidRequest, NotBelieved
from ansible_collections.kvmops.disk.plugins.module_utils._files import beside as _beside
from ansible_collections.kvmops.disk.plugins.module_utils._files import same_file as _same_file
from ansible_collections.kvmops.disk.plugins.module_utils._files import staging as _staging
from ansible_collections.kvmops.disk.plugins.module_utils._files.staging import NewFile
from ansible_collections.kvmops.disk.plugins.module_utils._host import opened as _opened


@pytest.fixture
def new(tmp_path: Path) -> NewFile:
    return NewFile(str(tmp_path / "web.qcow2"))


def filled(new: NewFile, content: bytes = b"disk") -> NewFile:
    new.begin()
    Path(new.name).write_bytes(content)
    return new


def test_a_file_is_made_in_a_hidden_directory_of_its_own(new: NewFile, tmp_path: Path) -> None:
    filled(new)
    directory = tmp_path / ".web.qcow2.kvmops.d"
    assert os.listdir(tmp_path) == [directory.name]
    assert directory.stat().st_mode & 0o777 == 0o700
    assert os.path.realpath(new.name) == str(directory / str(directory.stat().st_ino) / "web.qcow2")
    assert _beside.left_over(new.path)


def test_a_published_file_stands_alone_in_its_place(new: NewFile, tmp_path: Path) -> None:
    identity = filled(new).identity()
    new.publish()
    assert os.listdir(tmp_path) == ["web.qcow2"]
    assert Path(new.path).read_bytes() == b"disk"
    assert os.stat(new.path).st_nlink == 1
    assert _same_file.is_file(new.path, identity)
    assert not _beside.left_over(new.path)


def test_publishing_never_replaces_what_appeared_meanwhile(new: NewFile) -> None:
    filled(new)
    Path(new.path).write_bytes(b"precious")
    with pytest.raises(DiskError, match="a file appeared here in the meantime"):
        new.publish()
    new.withdraw()
    assert Path(new.path).read_bytes() == b"precious"


def test_publishing_does_not_follow_a_link_that_appeared_meanwhile(new: NewFile, tmp_path: Path) -> None:
    filled(new)
    os.symlink(tmp_path / "elsewhere", new.path)
    with pytest.raises(DiskError, match="a file appeared here in the meantime"):
        new.publish()
    assert not (tmp_path / "elsewhere").exists()


def test_a_file_system_without_hard_links_is_no_excuse_to_replace(
    new: NewFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    filled(new)
    Path(new.path).write_bytes(b"precious")
    with pytest.raises(DiskError, match="a file appeared here in the meantime"):
        new.publish()
    os.unlink(new.path)
    new.publish()
    assert Path(new.path).read_bytes() == b"disk"


def test_withdrawing_leaves_nothing_whenever_it_happens(new: NewFile, tmp_path: Path) -> None:
    new.withdraw()
    new.begin()
    new.withdraw()
    filled(new).withdraw()
    filled(new).publish()
    new.withdraw()
    assert os.listdir(tmp_path) == []


@pytest.fixture
def standing(new: NewFile) -> Path:
    path = Path(new.path)
    path.write_bytes(b"old")
    return path


def test_a_file_is_replaced_by_a_whole_one_and_kept_until_the_end(new: NewFile, standing: Path, tmp_path: Path) -> None:
    expected = _same_file.file_identity(new.path)
    identity = filled(new, b"new").identity()
    new.replace(expected)
    assert standing.read_bytes() == b"new"
    assert _same_file.is_file(new.path, identity)
    assert _same_file.is_file(_staging.kept(new.path), expected)
    new.commit()
    assert os.listdir(tmp_path) == ["web.qcow2"]
    new.withdraw()
    assert standing.read_bytes() == b"new", "what is committed stays"


def test_withdrawing_puts_the_replaced_file_back(new: NewFile, standing: Path, tmp_path: Path) -> None:
    expected = _same_file.file_identity(new.path)
    filled(new).replace(expected)
    new.withdraw()
    assert _same_file.is_file(new.path, expected)
    assert standing.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["web.qcow2"]
    assert standing.stat().st_nlink == 1


def test_only_the_expected_file_is_replaced(new: NewFile, standing: Path, tmp_path: Path) -> None:
    expected = _same_file.file_identity(new.path)
    other = tmp_path / "other"
    other.write_bytes(b"precious")
    other.rename(standing)
    with pytest.raises(DiskError, match="is no longer the file that was looked at"):
        filled(new).replace(expected)
    new.withdraw()
    assert standing.read_bytes() == b"precious"
    standing.unlink()
    with pytest.raises(DiskError, match="is no longer the file that was looked at"):
        filled(new).replace(expected)
    new.withdraw()
    assert os.listdir(tmp_path) == []


def test_withdrawing_leaves_what_took_the_place_of_the_new_file(new: NewFile, standing: Path, tmp_path: Path) -> None:
    filled(new).replace(_same_file.file_identity(new.path))
    other = tmp_path / "other"
    other.write_bytes(b"precious")
    other.rename(standing)
    new.withdraw()
    assert standing.read_bytes() == b"precious"
    assert os.listdir(tmp_path) == ["web.qcow2"]


def test_without_hard_links_a_replaced_file_is_gone_and_the_new_one_stays(
    new: NewFile, standing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    filled(new, b"new").replace(_same_file.file_identity(new.path))
    new.withdraw()
    assert standing.read_bytes() == b"new"
    assert not _beside.left_over(new.path)


@pytest.mark.parametrize("moment", ["link", "rename", "fsync"])
def test_a_run_that_dies_while_it_replaces_leaves_one_of_two_whole_files(
    moment: str, new: NewFile, standing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = _same_file.file_identity(new.path)
    filled(new, b"new")
    with monkeypatch.context() as dying:
        dying.setattr(os, moment, Died.now)
        with pytest.raises(Died):
            new.replace(expected)
    assert standing.read_bytes() == b"old"
    _staging.discard(new.path)
    assert os.listdir(tmp_path) == ["web.qcow2"]
    assert standing.read_bytes() == b"old"


def test_the_next_run_finishes_a_replacement_or_puts_the_old_file_back(new: NewFile, standing: Path) -> None:
    for end, content in ((_staging.discard, b"new"), (_staging.put_back, b"old")):
        standing.write_bytes(b"old")
        filled(new, b"new").replace(_same_file.file_identity(new.path))
        assert _beside.left_over(new.path)
        end(new.path)
        assert standing.read_bytes() == content
        _staging.discard(new.path)
    assert not _staging.put_back(new.path)


class Died(BaseException):
    """The process is gone: nothing is undone."""

    @classmethod
    def now(cls, *_arguments: object, **_options: object) -> None:
        raise cls


def test_what_a_dead_run_left_is_cleared_before_a_new_one_begins(new: NewFile) -> None:
    filled(new)
    (Path(new.name).parent / "more").mkdir()
    again = NewFile(new.path)
    again.begin()
    assert os.listdir(os.path.dirname(again.name)) == []


def test_a_link_in_the_place_of_a_leftover_is_neither_followed_nor_removed(new: NewFile, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "precious").write_bytes(b"x")
    os.symlink(victim, _beside.staging_directory(new.path))
    with pytest.raises(NotBelieved, match=r"\.web\.qcow2\.kvmops\.d: .* because it is a symbolic link"):
        new.begin()
    assert (victim / "precious").exists()
    assert _beside.left_over(new.path)


def test_another_directory_at_the_name_of_a_leftover_is_left_alone(new: NewFile, tmp_path: Path) -> None:
    kept = tmp_path / "backups"
    (kept / "monday").mkdir(parents=True)
    kept.rename(_beside.staging_directory(new.path))
    for step in (new.begin, new.withdraw, new.commit):
        with pytest.raises(NotBelieved, match="because what is in it was made by no run"):
            step()
    assert (tmp_path / ".web.qcow2.kvmops.d" / "monday").is_dir()


def test_a_leftover_that_is_moved_to_another_directory_stays_what_it_was(new: NewFile, tmp_path: Path) -> None:
    filled(new)
    other = NewFile(str(tmp_path / "other"))
    other.begin()
    other.withdraw()
    assert Path(new.name).read_bytes() == b"disk"


@pytest.mark.parametrize("moved", ["the directory of the image", "the staging directory"])
def test_what_is_exchanged_while_a_file_is_made_is_not_written_to(tmp_path: Path, moved: str) -> None:
    images = tmp_path / "images"
    images.mkdir()
    new = NewFile(str(images / "web"))
    new.begin()
    place = images if moved == "the directory of the image" else images / ".web.kvmops.d"
    place.rename(tmp_path / "aside")
    place.mkdir()
    (place / "precious").write_bytes(b"x")
    Path(new.name).write_bytes(b"disk")
    if place == images:
        new.publish()
        assert (tmp_path / "aside" / "web").read_bytes() == b"disk"
    else:
        with pytest.raises(NotBelieved):
            new.withdraw()
    assert os.listdir(place) == ["precious"]


def test_a_message_names_a_staged_file_as_a_person_knows_it(new: NewFile, tmp_path: Path) -> None:
    filled(new)
    assert _opened.told(f"cannot open '{new.name}'") == (
        f"cannot open '{tmp_path}/.web.qcow2.kvmops.d/{Path(new.name).resolve().parent.name}/web.qcow2'"
    )
    new.withdraw()


def test_a_name_of_255_bytes_can_be_staged(tmp_path: Path) -> None:
    new = filled(NewFile(str(tmp_path / ("ü" * 127 + "x"))))
    new.publish()
    assert os.listdir(tmp_path) == ["ü" * 127 + "x"]


def test_a_place_where_no_file_can_be_made_is_refused_beforehand(tmp_path: Path) -> None:
    _staging.require_directory(str(tmp_path / "web.qcow2"), "path")
    with pytest.raises(InvalidRequest, match="missing does not exist: create it first"):
        _staging.require_directory(str(tmp_path / "missing" / "web.qcow2"), "path")
    with pytest.raises(InvalidRequest, match="more than 255 bytes"):
        _staging.require_directory(str(tmp_path / ("x" * 256)), "path")
