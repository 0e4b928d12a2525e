# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is done first where a run died."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._errors import UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._files.staging import NewFile
from ansible_collections.kvmops.disk.plugins.module_utils._recovery.leftovers import Leftovers
from ansible_collections.kvmops.disk.plugins.module_utils._recovery.settle import settle
from unit.samples import NO_QEMU_IMG

DEAD = {"verb": "reconcile", "started": "2024-01-01T00:00:00+00:00"}


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "web.qcow2")


def test_nothing_is_settled_where_nobody_died(path: str) -> None:
    assert settle(Leftovers(path, "qcow2"), NO_QEMU_IMG) == ()


@pytest.mark.parametrize(
    "verb", ["reconcile", "repair", "snapshot-create", "snapshot-delete", "snapshot-revert", "unknown"]
)
def test_an_image_on_which_a_run_died_in_place_is_checked(verb: str, path: str) -> None:
    (step,) = settle(Leftovers(path, "qcow2", {**DEAD, "verb": verb}), NO_QEMU_IMG)
    assert step.summary == f"check {path}, on which a run was interrupted at {DEAD['started']}"


@pytest.mark.parametrize(("image_format", "verb"), [(None, "reconcile"), ("qcow2", "remove"), ("qcow2", "convert")])
def test_what_a_run_cannot_have_harmed_is_only_forgotten(image_format: str | None, verb: str, path: str) -> None:
    (step,) = settle(Leftovers(path, image_format, {**DEAD, "verb": verb}), NO_QEMU_IMG)
    assert step.summary.startswith("forget the run")
    step.do()


def test_a_half_reverted_disk_is_only_settled_by_reverting_it(path: str) -> None:
    left = Leftovers(path, "qcow2", {**DEAD, "verb": "snapshot-revert"}, half_reverted="before")
    with pytest.raises(
        UnsafeImage, match=f"revert to its snapshot 'before' was interrupted .* remove {left.record_path}"
    ):
        settle(left, NO_QEMU_IMG)
    (step,) = settle(left, NO_QEMU_IMG, finishing="snapshot-revert")
    assert step.summary.startswith("check")


def test_a_half_merged_image_is_only_settled_by_merging_it(path: str) -> None:
    record = {**DEAD, "verb": "commit", "overlay": "/images/top", "base": "/images/base"}
    left = Leftovers(path, "qcow2", record, half_merged="/images/top")
    with pytest.raises(UnsafeImage, match=f"merge of /images/top into /images/base .* remove {left.record_path}"):
        settle(left, NO_QEMU_IMG)
    with pytest.raises(UnsafeImage):
        settle(left, NO_QEMU_IMG, finishing="snapshot-revert")
    (step,) = settle(left, NO_QEMU_IMG, finishing="commit")
    assert step.summary.startswith("check")


def test_an_unfinished_file_is_removed_first(path: str, tmp_path: Path) -> None:
    new = NewFile(path)
    new.begin()
    Path(new.name).write_bytes(b"half")
    first, second = settle(Leftovers(path, "qcow2", DEAD, unfinished_file=True), NO_QEMU_IMG)
    assert first.summary == f"remove the unfinished file that an interrupted run left for {path}"
    assert second.summary.startswith("check")
    assert Path(new.name).exists(), "a decision touches nothing"
    first.do()
    assert os.listdir(tmp_path) == []
