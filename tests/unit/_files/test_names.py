# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names that were looked up say later what they meant then."""

from __future__ import annotations

from pathlib import Path

from ansible_collections.kvmops.disk.plugins.module_utils._files.names import Names, are_same, looked_up
from ansible_collections.kvmops.disk.plugins.module_utils._formats.references import identity


def test_a_link_and_what_it_leads_to_are_one_file(tmp_path: Path) -> None:
    file, link = tmp_path / "file", tmp_path / "link"
    link.symlink_to(file)
    assert are_same(str(file), str(link))
    assert not are_same(str(file), str(tmp_path / "other"))


def test_what_was_looked_up_stays_as_it_was(tmp_path: Path) -> None:
    file, link = tmp_path / "file", tmp_path / "link"
    link.symlink_to(file)
    names = looked_up([str(file), str(link)])
    link.unlink()
    assert names.same(str(file), str(link))


def test_two_names_of_one_inode_are_one_file_to_whoever_asks_for_inodes(tmp_path: Path) -> None:
    file, other = tmp_path / "file", tmp_path / "other"
    file.touch()
    other.hardlink_to(file)
    both = [str(file), str(other)]
    assert looked_up(both, identity).same(*both)
    assert not looked_up(both).same(*both)


def test_a_name_that_nobody_looked_up_is_taken_as_it_stands() -> None:
    assert Names().same("/images/../images/web", "/images/web")
    assert Names().same("/a", "/a")
    assert not Names().same("/a", "/b")
    assert Names({"/link": "/a"}).same("/link", "/a")


def test_no_name_means_no_file() -> None:
    assert not Names().same(None, None)
    assert not looked_up([None, "/a"]).same(None, "/a")
