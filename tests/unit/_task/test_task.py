# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The walk of a task: it decides without a lock, and again under the records of its images."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, Interrupted, QemuImgFailed
from ansible_collections.kvmops.disk.plugins.module_utils._files import beside as _beside
from ansible_collections.kvmops.disk.plugins.module_utils._files import lock as _lock
from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan, Step
from ansible_collections.kvmops.disk.plugins.module_utils._task.libvirts import Libvirts
from ansible_collections.kvmops.disk.plugins.module_utils._task.surroundings import Surroundings
from ansible_collections.kvmops.disk.plugins.module_utils._task.task import Task, holding, keeping
from unit.samples import NO_QEMU_IMG


class Writing(Task):
    """Has each of FILES hold the text "done"."""

    verb = "write"

    def __init__(self, *files: Path, check_mode: bool = False) -> None:
        params = {"uri": "test:///default", "search_paths": []}
        module: Any = SimpleNamespace(params=params, check_mode=check_mode, warn=pytest.fail)
        super().__init__(module, NO_QEMU_IMG, Libvirts)
        self.files = list(files)
        self.held: list[tuple[str, ...] | None] = []
        self.looks: list[Surroundings] = []

    def paths(self) -> Iterable[str]:
        return list(map(str, self.files))

    def result(self, plan: Plan) -> dict[str, Any]:
        return plan.report()

    def _plan(self, operation: Operation | None) -> Plan:
        self.held.append(operation.paths if operation else None)
        self.looks.append(self.surroundings)
        return Plan({}, {}, tuple(self._step(file) for file in self.files if file.read_text() != "done"))

    def _step(self, file: Path) -> Step:
        def write() -> None:
            assert os.path.exists(_beside.record_path(str(file)))
            file.write_text("done")

        return Step(f"write {file.name}", write)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.write_text("old")
    return path


def test_a_task_is_decided_again_while_its_records_are_held(file: Path) -> None:
    task = Writing(file)
    assert task.walk() == {"changed": True, "actions": ["write image"]}
    assert task.held == [None, (str(file),)]
    assert os.listdir(file.parent) == ["image"], "no record is left"


def test_what_is_as_wanted_is_looked_at_once_and_leaves_no_trace(file: Path) -> None:
    Writing(file).walk()
    before = os.stat(file.parent)
    task = Writing(file)
    assert task.walk() == {"changed": False, "actions": []}
    assert task.held == [None]
    assert os.stat(file.parent).st_mtime_ns == before.st_mtime_ns


def test_in_check_mode_it_is_told_and_nothing_is_held(file: Path) -> None:
    task = Writing(file, check_mode=True)
    assert task.walk() == {"changed": True, "actions": ["write image"]}
    assert (task.held, file.read_text()) == ([None], "old")


def test_where_the_second_look_means_other_images_all_begins_anew(file: Path) -> None:
    other = file.with_name("other")
    other.write_text("old")

    class Growing(Writing):
        def _plan(self, operation: Operation | None) -> Plan:
            plan = super()._plan(operation)
            self.files = [file, other]
            return plan

    task = Growing(file)
    task.walk()
    assert task.held == [None, (str(file), str(other))]
    assert (file.read_text(), other.read_text()) == ("done", "done")


def test_each_decision_takes_a_look_of_its_own(file: Path) -> None:
    task = Writing(file)
    task.walk()
    first, second = task.looks
    assert first is not second


def test_qemu_img_keeps_the_records_that_the_operation_holds(file: Path) -> None:
    assert holding(NO_QEMU_IMG, None) is NO_QEMU_IMG
    with _lock.operation("write", [str(file)]) as operation:
        assert holding(NO_QEMU_IMG, operation) == NO_QEMU_IMG.holding(*operation.descriptors)


@pytest.mark.parametrize(
    ("error", "stays"), [(QemuImgFailed("no"), True), (Interrupted("no"), True), (DiskError("no"), False)], ids=repr
)
def test_the_record_stays_where_qemu_img_was_cut_short(file: Path, error: BaseException, stays: bool) -> None:
    def cut_short(operation: Operation) -> None:
        operation.note(str(file))
        with keeping(operation):
            raise error

    with pytest.raises(type(error)), _lock.operation("write", [str(file)]) as operation:
        cut_short(operation)
    assert os.path.exists(_beside.record_path(str(file))) == stays
