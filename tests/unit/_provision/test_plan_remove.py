# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is removed where no image is to be, and what is left alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._errors import UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan
from ansible_collections.kvmops.disk.plugins.module_utils._provision.plan_remove import Standing, plan_remove
from ansible_collections.kvmops.disk.plugins.module_utils._provision.standing import standing


def plan(path: str) -> Plan:
    return plan_remove(path, standing(path), lambda: os.unlink(path))


def test_a_file_or_a_link_is_removed_and_nothing_else(tmp_path: Path) -> None:
    path = str(tmp_path / "web.qcow2")
    assert not plan(path)
    Path(path).write_bytes(b"disk")
    (tmp_path / "link").symlink_to("nowhere")
    for present in (path, str(tmp_path / "link")):
        removal = plan(present)
        assert removal.report()["actions"] == [f"remove {present}"]
        removal.apply()
        assert not os.path.lexists(present)


def test_what_is_no_file_is_not_removed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for other in (str(tmp_path), str(tmp_path / "fifo"), "/dev/null"):
        with pytest.raises(UnsafeImage, match="not a regular file: left alone"):
            plan(other)


def test_the_extents_that_go_with_an_image_are_told_of() -> None:
    removal = plan_remove("/images/web.vmdk", Standing(is_file=True, extents=2), lambda: None)
    assert removal.report()["actions"] == ["remove /images/web.vmdk and its 2 extent(s)"]
