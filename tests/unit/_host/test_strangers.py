# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a file lies is asked of the kernel, which follows no link that it was told to refuse."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._host.strangers import place_of


def test_a_link_leads_to_the_place_of_its_file(tmp_path: Path) -> None:
    image, link = tmp_path / "web.qcow2", tmp_path / "link"
    image.touch()
    link.symlink_to(image)
    assert place_of(str(link)) == place_of(str(image)) == os.path.realpath(image)


def test_what_is_not_there_has_no_place(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        place_of(str(tmp_path / "web.qcow2"))


@pytest.mark.parametrize("planted", [False, True])
def test_a_file_that_leaves_its_place_has_none(tmp_path: Path, planted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel calls it "web.qcow2 (deleted)" then, and another file may be called so, too."""
    image, opened = tmp_path / "web.qcow2", os.open
    image.touch()
    if planted:
        image.with_name("web.qcow2 (deleted)").touch()

    def gone(*arguments: Any) -> int:
        descriptor = opened(*arguments)
        image.unlink()
        return descriptor

    monkeypatch.setattr(os, "open", gone)
    with pytest.raises(FileNotFoundError):
        place_of(str(image))
