# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is removed is the backup that was looked at, and nothing that was put in its place or beside its files."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._backup import removal, store
from ansible_collections.kvmops.disk.plugins.module_utils._backup.chains import Backup
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError
from lab import tree_state
from unit.laid_backups import UUID, lay


def looked_at(dest: Path) -> dict[str, Backup]:
    return {one.name: one for one in store.backups(str(dest), UUID)}


def test_a_backup_goes_with_all_of_its_files_and_no_other_does(tmp_path: Path) -> None:
    lay(tmp_path, "a")
    kept = tree_state(lay(tmp_path, "b"))
    removal.remove(looked_at(tmp_path)["a"])
    assert [path.name for path in (tmp_path / UUID).iterdir()] == ["b"]
    assert tree_state(tmp_path / UUID / "b") == kept


def test_a_backup_on_which_another_one_stands_stays_until_that_one_has_gone(tmp_path: Path) -> None:
    lay(tmp_path, "a")
    lay(tmp_path, "b", "a")
    found = looked_at(tmp_path)
    before = tree_state(tmp_path)
    with pytest.raises(DiskError, match="a: the backup b stands on it: it was left alone"):
        removal.remove(found["a"])
    assert tree_state(tmp_path) == before
    removal.remove(found["b"])
    removal.remove(found["a"])
    assert list((tmp_path / UUID).iterdir()) == []


def test_a_backup_beside_one_that_cannot_be_believed_stays(tmp_path: Path) -> None:
    lay(tmp_path, "a")
    (old,) = looked_at(tmp_path).values()
    (tmp_path / UUID / "strange").mkdir()
    before = tree_state(tmp_path)
    with pytest.raises(DiskError, match="unknown whether 'strange' stands on it"):
        removal.remove(old)
    assert tree_state(tmp_path) == before


def _beside(directory: Path) -> None:
    (directory / "notes").write_text("mine")


def _a_directory_beside(directory: Path) -> None:
    (directory / "more").mkdir()


def _another(directory: Path) -> None:
    shutil.rmtree(directory)
    lay(directory.parents[1], directory.name, content=b"x")


def _a_link(directory: Path) -> None:
    directory.rename(directory.parents[1] / "elsewhere")
    directory.symlink_to("../elsewhere")


def _nothing_believed(directory: Path) -> None:
    (directory / "backup.json").write_text("{}")


@pytest.mark.parametrize("change", [_beside, _a_directory_beside, _another, _a_link, _nothing_believed])
def test_what_is_no_more_what_it_was_is_left_alone(tmp_path: Path, change: Callable[[Path], None]) -> None:
    directory = lay(tmp_path, "a")
    (old,) = looked_at(tmp_path).values()
    change(directory)
    before = tree_state(tmp_path)
    with pytest.raises(DiskError, match=rf"{UUID}/a: "):
        removal.remove(old)
    assert tree_state(tmp_path) == before
