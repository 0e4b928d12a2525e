# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is removed stays so, and what is to be read is brought to stable storage first."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError
from ansible_collections.kvmops.disk.plugins.module_utils._files import durable as _durable


@pytest.mark.parametrize("links", [0, 1, 2])
def test_an_image_is_removed_with_the_links_that_lead_to_it(tmp_path: Path, links: int) -> None:
    image = tmp_path / "store" / "web.raw"
    image.parent.mkdir()
    image.write_bytes(b"")
    name = image
    for number in range(links):
        link = tmp_path / f"link-{number}"
        link.symlink_to(name if number else Path("store") / "web.raw")
        name = link
    (tmp_path / "other").write_bytes(b"")
    _durable.remove_image(str(name))
    _durable.remove_image(str(name))
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["other", "store"]


def test_of_an_image_whose_removal_was_cut_short_the_link_goes(tmp_path: Path) -> None:
    link = tmp_path / "web.raw"
    link.symlink_to(tmp_path / "gone")
    _durable.remove_image(str(link))
    assert not os.path.lexists(link)


def test_removing_what_is_gone_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "web.qcow2"
    path.write_bytes(b"")
    _durable.remove(str(path))
    assert not path.exists()
    _durable.remove(str(path))


def test_what_is_only_read_may_lie_on_a_file_system_to_which_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "disk").touch()
    _durable.sync_before_reading(str(tmp_path / "disk"), "/proc/version")
    with pytest.raises(DiskError, match="cannot be brought to stable storage"):
        _durable.sync("/proc/version")
