# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a dead run left any trace of itself: a look that costs a run without a change next to nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._files import staging as _staging
from ansible_collections.kvmops.disk.plugins.module_utils._recovery import traces as _traces
from ansible_collections.kvmops.disk.plugins.module_utils._xml.records import Record, RecordedDisk

RECORD = Record("convert", "offline", "yesterday", True, False, (RecordedDisk("vda", "/a", "raw", "/b", "qcow2"),))


def is_untouched(path: str, note: dict[str, Any] | None = None, record: Record | None = None) -> bool:
    notes = {path: note} if note else {}
    return _traces.is_untouched(record, [path], "convert", notes.get)


def test_where_nothing_was_left_there_is_no_trace(tmp_path: Path) -> None:
    assert is_untouched(str(tmp_path / "vm.raw"))


def test_a_record_in_the_domain_is_a_trace_whatever_its_verb(tmp_path: Path) -> None:
    assert not is_untouched(str(tmp_path / "vm.raw"), record=RECORD)


@pytest.mark.parametrize(
    ("note", "untouched"),
    [
        ({"verb": "convert"}, False),
        ({"verb": "reconcile"}, True),
        ({"verb": "convert", "alive": True}, True),
    ],
)
def test_a_note_beside_an_image_is_a_trace_where_a_dead_run_of_the_same_verb_left_it(
    tmp_path: Path, note: dict[str, Any], untouched: bool
) -> None:
    assert is_untouched(str(tmp_path / "vm.raw"), note) == untouched


def test_a_half_made_file_is_a_trace_unless_its_run_lives(tmp_path: Path) -> None:
    path = str(tmp_path / "vm.raw")
    _staging.NewFile(path).begin()
    assert not is_untouched(path)
    assert is_untouched(path, {"verb": "convert", "alive": True})
