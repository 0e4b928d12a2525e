# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run that died left of a snapshot, by its record and by what stands beside the images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import replace
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot import leftovers as _leftovers
from ansible_collections.kvmops.disk.plugins.module_utils._xml.records import Record, RecordedDisk
from unit import samples
from unit._vm_disk_snapshot.scene import BASE, CHAINS, FIRST, LINKS, ONE, TWO, observed, record, state


def left(
    found: Record,
    chains: Any = None,
    run: str | None = "7",
    commit: tuple[str, str] | None = (ONE, BASE),
) -> Any:
    now = observed(chains=chains or CHAINS, state=state(record=found, active=run is not None))
    return _leftovers.find(now, run, samples.noted(now.state, {}), lambda _target: commit)


def test_a_merge_is_to_be_finished_while_libvirt_knows_the_snapshot() -> None:
    found = left(record("merge", RecordedDisk("vda", ONE, "qcow2", BASE, "raw", base=TWO)))
    assert found.unfinished == FIRST
    assert found.working == {"vda"}
    assert set(found.recorded) == {ONE}
    assert not found.doubtful
    assert not found.unused


@pytest.mark.parametrize("commit", [None, (TWO, BASE), (TWO, ONE), (ONE, "/images/golden.raw")])
def test_the_merge_of_somebody_else_is_not_taken_for_the_one_that_was_begun(commit: tuple[str, str] | None) -> None:
    found = left(record("merge", RecordedDisk("vda", ONE, "qcow2", BASE, "raw", base=TWO)), commit=commit)
    assert found.working == frozenset()
    assert found.unfinished == FIRST


def test_a_domain_that_was_to_run_again_is_owed_its_start() -> None:
    assert left(record("revert"), run=None).owed
    assert not left(record("revert", was_running=False), run=None).owed
    assert not left(record("revert")).owed


def test_what_stands_beside_an_image_that_is_gone_is_found_by_what_stands_beside_the_other() -> None:
    """libvirt takes the record in the metadata along when it goes back, and removes the overlay."""
    gone = "/images/vm.1700000000"
    note = {"verb": "disk-snapshot", "source": gone, "dest": BASE, "runs": True, "alive": False}
    notes = {BASE: note, gone: note}
    found = _leftovers.find(observed(snapshots=(FIRST,)), None, notes.get, lambda _target: None)
    assert found.paths == {BASE, gone}
    assert found.owed


def test_a_snapshot_that_was_taken_leaves_nothing_to_remove() -> None:
    found = left(record("take", RecordedDisk("vda", BASE, "raw", ONE, "qcow2")))
    assert found
    assert (found.unfinished, found.unused, found.owed) == (None, (), False)
    assert found.staging == ()


def test_a_blank_record_goes_with_others_and_is_no_reason_for_a_change() -> None:
    notes = {TWO: {"verb": "unknown", "alive": False}, BASE: {"verb": "unknown", "alive": True}}
    found = _leftovers.find(observed(), None, notes.get, lambda _target: None)
    assert not found
    assert found.paths == {TWO}


def test_only_what_is_still_read_below_its_old_place_is_doubted(tmp_path: Path) -> None:
    overlay = tmp_path / "s1"
    overlay.touch()
    merged = RecordedDisk("vda", str(overlay), "qcow2", BASE, "raw", base=TWO)
    after = {"vda": (LINKS[0], LINKS[2])}
    assert left(record("merge", merged), after, run="8").doubtful == (merged,)
    assert left(record("merge", merged), after, run=None).doubtful == (merged,)
    assert left(record("merge", merged), after).doubtful == (), "the same QEMU runs"
    assert left(record("merge", merged), {"vda": (LINKS[2],)}, run="8").doubtful == (), "a guest may have written to it"
    assert left(record("merge", replace(merged, base=None)), after, run="8").doubtful == ()
