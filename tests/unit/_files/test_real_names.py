# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which names mean one file."""

from __future__ import annotations

from pathlib import Path

from ansible_collections.kvmops.disk.plugins.module_utils._files.real_names import RealNames


def test_names_that_lead_to_one_file_mean_it_even_where_it_is_not_there_yet(tmp_path: Path) -> None:
    file, link, other = (str(tmp_path / name) for name in ("file", "link", "other"))
    Path(link).symlink_to(file)
    names = RealNames.of([file, link, None, other])
    assert names.is_same(file, link)
    assert not names.is_same(link, other)
    assert names.is_among(link, [other, file])
    assert not names.is_among(other, [])


def test_what_was_looked_up_stays_whatever_becomes_of_the_link(tmp_path: Path) -> None:
    file, link = tmp_path / "file", tmp_path / "link"
    link.symlink_to(file)
    names = RealNames.of([str(file), str(link)])
    link.unlink()
    assert names.is_same(str(file), str(link))


def test_a_name_that_was_not_looked_up_stands_for_itself() -> None:
    assert RealNames().is_same("/images/../images/web", "/images/web")
    assert not RealNames().is_same("/images/web", "/images/new")
