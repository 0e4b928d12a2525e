# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What runs left that made or removed clones."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._files import beside as _beside
from ansible_collections.kvmops.disk.plugins.module_utils._files import lock as _lock
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import leftovers as _leftovers
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.leftovers import Left


def dead(path: Path, verb: str = _leftovers.MAKE, **facts: object) -> None:
    """The record of a run that died on PATH."""
    noted = {"verb": verb, "path": str(path), "item": "pc-1", **facts}
    Path(_beside.record_path(str(path))).write_text(json.dumps(noted), encoding="utf-8")


def found(directory: Path) -> dict[str, list[Left]]:
    return _leftovers.left_behind([str(directory), str(directory)], {"pc-1"})


@pytest.mark.parametrize("verb", [_leftovers.MAKE, _leftovers.REMOVE])
def test_the_files_of_a_clone_are_found_by_the_record_of_the_dead_run(tmp_path: Path, verb: str) -> None:
    image = tmp_path / "pc-1.qcow2"
    dead(image, verb, bases={"/images/golden": [str(image)]})
    assert found(tmp_path) == {"pc-1": [Left(str(image), False, ("/images/golden",))]}
    image.touch()
    assert found(tmp_path)["pc-1"][0].there


def test_what_is_half_made_is_there_too(tmp_path: Path) -> None:
    image = tmp_path / "pc-1.qcow2"
    dead(image)
    os.mkdir(_beside.staging_directory(str(image)))
    assert found(tmp_path)["pc-1"][0].there


def test_what_other_runs_left_and_what_is_of_other_clones_is_left_alone(tmp_path: Path) -> None:
    dead(tmp_path / "a", "convert")
    dead(tmp_path / "b", item="pc-2")
    with _lock.operation(_leftovers.MAKE, [str(tmp_path / "c")]) as operation:
        operation.note(str(tmp_path / "c"), item="pc-1")
        assert found(tmp_path) == {}


def test_a_run_finds_by_its_own_records_where_another_died(tmp_path: Path) -> None:
    image, other = str(tmp_path / "pc-1.qcow2"), str(tmp_path / "other")
    dead(Path(image))
    with _lock.operation(_leftovers.MAKE, [image, other]) as operation:
        assert _leftovers.still_left(operation) == [Left(image)]


def test_an_image_that_was_moved_is_found_by_its_half_made_successor(tmp_path: Path) -> None:
    image, other = tmp_path / "pc-1.qcow2", tmp_path / "other.qcow2"
    os.mkdir(_beside.staging_directory(str(image)))
    assert _leftovers.left_of_moves([(str(image), "qcow2"), (str(other), "qcow2")], None) == [str(image)]
