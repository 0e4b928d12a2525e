# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which snapshots are too many, which overlay is merged into which image, and in which order."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError
from ansible_collections.kvmops.disk.plugins.module_utils._files.names import Names
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot import decision_merge as _decision_merge
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot.decision_change import with_outcomes
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot.wish import VmSnapshotWish
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disk_changes as _disk_changes
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disks as _disks
from ansible_collections.kvmops.disk.plugins.module_utils._xml.disks import ChainLink
from ansible_collections.kvmops.disk.plugins.module_utils._xml.records import RecordedDisk
from unit._vm_disk_snapshot.scene import (
    BASE,
    FIRST,
    LINKS,
    ONE,
    SECOND,
    TWO,
    domain_xml,
    observed,
    snapshot,
    state,
)
from unit.samples import Recorder


def removed(*doomed: str, recorded: Any = None, **found: Any) -> Any:
    now = observed(**{"named": {"vda": False}, **found})
    return _decision_merge.removals(now, doomed, recorded or {})


def test_the_oldest_beyond_the_number_to_keep_are_too_many() -> None:
    known = [snapshot(f"n-{number}", ONE, BASE, date=number) for number in (3, 1, 2)]
    other = snapshot("other", ONE, BASE, date=0)

    def names(keep: int, name: str | None = None, state_: str = "present", prefix: str = "n-") -> list[str]:
        wish = VmSnapshotWish(name, state_, keep=keep, prefix=prefix)
        return [one.name for one in _decision_merge.surplus(wish, [*known, other], ())]

    assert names(2) == ["n-1"]
    assert names(2, "n-4") == ["n-1", "n-2"], "the new one counts"
    assert names(2, "x") == ["n-1"], "if it has the prefix"
    assert names(0, "n-1") == ["n-2", "n-3"], "what is wanted stays"
    assert names(3, prefix="") == ["other"]
    assert names(9) == []


def test_of_one_second_the_upper_one_in_the_tree_is_the_older() -> None:
    child, parent = snapshot("a", TWO, ONE, parent="b"), snapshot("b", ONE, BASE)
    wish = VmSnapshotWish(None, "absent", keep=1)
    assert [one.name for one in _decision_merge.surplus(wish, [child, parent], ())] == ["b"]


def test_an_overlay_in_the_middle_is_merged_and_those_above_go_on_over_its_base() -> None:
    (removal,) = removed("s1")
    (merge,) = removal.merges
    assert (merge.overlay.path, merge.into.path) == (ONE, BASE)
    assert merge.above is not None
    assert merge.above.path == TWO
    assert [link.path for link in merge.after] == [TWO, BASE]
    after = _decision_merge.removed(observed(), [removal])
    assert after.chains == {"vda": merge.after}
    (left,) = after.snapshots
    image = left.image("vda")
    assert image is not None
    assert (left.name, left.parent, image.source, image.format) == ("s2", None, BASE, "raw")


def test_several_go_one_after_the_other_the_oldest_into_the_image_first() -> None:
    first, second = removed("s1", "s2")
    assert [str(merge) for merge in (*first.merges, *second.merges)] == [
        f"{ONE} into {BASE} (vda)",
        f"{TWO} into {BASE} (vda)",
    ]
    assert second.merges[0].above is None


def test_the_task_names_one_and_those_which_are_too_many_come_after_it() -> None:
    known = [snapshot(f"n-{number}", ONE, BASE, date=number) for number in range(4)]
    assert _decision_merge.doomed(VmSnapshotWish("n-3", "absent", keep=2), known) == ["n-3", "n-0"]
    assert _decision_merge.doomed(VmSnapshotWish("gone", "absent"), known) == []
    assert _decision_merge.doomed(VmSnapshotWish("n-3"), known) == []


def test_the_definition_says_of_backing_files_what_it_did_before_the_snapshot() -> None:
    definition = domain_xml(TWO, "qcow2")
    chain = (*LINKS, ChainLink("/images/golden.raw", "raw"))
    source = "<format type='raw'/><source file='/images/golden.raw'/>"
    golden = f"<backingStore type='file'>{source}<backingStore/></backingStore>"
    for backing, said in (("", None), (golden, (ChainLink("/images/golden.raw", "raw"),))):
        snapshots = (snapshot("s1", ONE, BASE, "raw", backing=backing), SECOND)
        found = removed("s1", "s2", chains={"vda": chain}, snapshots=snapshots)
        outcomes = [outcome for removal in found for outcome in removal.outcomes]
        (after,) = _disks.disks(with_outcomes(definition, outcomes))
        assert (after.source, after.format, after.chain) == (BASE, "raw", said)


def test_a_chain_that_is_named_is_named_without_the_overlay() -> None:
    (removal,) = removed("s1", named={"vda": True})
    (after,) = _disks.disks(with_outcomes(domain_xml(TWO, "qcow2"), removal.outcomes))
    assert after.chain == (ChainLink(BASE, "raw"),)
    deeper = _disk_changes.with_image(domain_xml(TWO, "qcow2"), "vda", LINKS[0], LINKS[1:])
    assert _disks.disks(_disk_changes.without_link(deeper, "vda", ONE))[0].chain == (ChainLink(BASE, "raw"),)
    assert _disk_changes.without_link(deeper, "vda", "/elsewhere") == deeper
    assert _disk_changes.with_image(deeper, "vda", LINKS[0], LINKS[1:]) == deeper


def test_an_overlay_that_is_gone_is_no_merge() -> None:
    recorded = RecordedDisk("vda", ONE, "qcow2", BASE, "raw")
    chains = {"vda": (ChainLink(BASE, "raw"),)}
    (ours,) = removed("s1", chains=chains, snapshots=(FIRST,), recorded={ONE: recorded})
    assert (ours.merges, ours.recorded, ours.orphans) == ((), (recorded,), ())
    (theirs,) = removed("s1", chains=chains, snapshots=(FIRST,))
    assert (theirs.merges, theirs.recorded, theirs.orphans) == ((), (), (ONE,))


def test_what_others_build_on_is_not_given_up() -> None:
    with pytest.raises(DiskError, match=r"other snapshots \(s2\) build on it"):
        removed("s1", chains={"vda": (ChainLink(BASE, "raw"),)})
    with pytest.raises(DiskError, match="the chain was changed"):
        removed("s2", chains={"vda": (LINKS[0], LINKS[2])})
    with pytest.raises(DiskError, match="which the domain no longer has"):
        removed("s1", chains={"vdb": LINKS})


def test_an_image_that_is_named_by_a_link_is_the_one_that_the_snapshot_knows() -> None:
    link = "/link/vm.raw"
    chains = {"vda": (*LINKS[:2], ChainLink(link, "raw"))}
    with pytest.raises(DiskError, match="the chain was changed"):
        removed("s1", chains=chains)
    (found,) = removed("s1", chains=chains, names=Names({link: BASE}))
    assert found.merges[0].into.path == link


def test_it_is_recorded_then_merged_then_named_and_then_the_overlay_goes() -> None:
    (removal,) = removed("s1")
    work = Recorder()
    steps = _decision_merge.steps(state(), removal, work, resumed=False)
    Plan({}, {}, steps).apply()
    assert work.calls == ["begin", "merge", "name", "finish"]
    assert [step.summary for step in steps if step.summary] == [
        f"merge {ONE} into {BASE} (vda) of vm",
        f"remove the snapshot s1 of vm with {ONE}",
    ]


def test_a_merge_that_a_dead_run_began_is_finished() -> None:
    (removal,) = removed("s1")
    running = state(active=True, state="running")
    steps = _decision_merge.steps(running, removal, Recorder(), resumed=True)
    assert steps[1].summary == f"finish merging {ONE} into {BASE} (vda), below vm while it runs"


def test_a_merge_that_fails_is_ended_and_nothing_after_it_is_done() -> None:
    (removal,) = removed("s1")
    work = Recorder(fails="merge")
    with pytest.raises(DiskError, match="merge"):
        Plan({}, {}, _decision_merge.steps(state(), removal, work, resumed=False)).apply()
    assert work.calls == ["begin", "merge", "end", "restore"]
