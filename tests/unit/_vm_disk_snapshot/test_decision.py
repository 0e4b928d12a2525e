# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which snapshots of a domain are taken, too many, merged into what, and what a dead run left: decisions, no world."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainDisk, DomainState
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, InvalidRequest
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot import decision as _decision
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot import decision_merge as _decision_merge
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot import leftovers as _leftovers
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot import work_take as _work_take
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot.wish import VmSnapshotWish
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disks as _disks
from ansible_collections.kvmops.disk.plugins.module_utils._xml import records as _records
from ansible_collections.kvmops.disk.plugins.module_utils._xml import snapshots as _snapshots
from ansible_collections.kvmops.disk.plugins.module_utils._xml.disks import ChainLink
from ansible_collections.kvmops.disk.plugins.module_utils._xml.records import Record, RecordedDisk
from ansible_collections.kvmops.disk.plugins.module_utils._xml.snapshots import DomainSnapshot
from unit import samples

BASE, ONE, TWO = "/images/vm.raw", "/images/vm.s1.qcow2", "/images/vm.s2.qcow2"
LINKS = (ChainLink(TWO, "qcow2"), ChainLink(ONE, "qcow2"), ChainLink(BASE, "raw"))
CHAINS = {"vda": LINKS}
ELEMENT = samples.element(TWO, "qcow2")


def disk(**element: Any) -> DomainDisk:
    return samples.disk(replace(ELEMENT, **element))


def state(*disks: DomainDisk, **fields: Any) -> DomainState:
    return samples.domain(*(disks or (disk(),)), **fields)


def domain_xml(source: str, image_format: str, backing: str = "") -> str:
    return (
        "<domain type='qemu'><name>vm</name><devices><disk type='file' device='disk'>"
        f"<driver name='qemu' type='{image_format}'/><source file='{source}'/>{backing}<target dev='vda' bus='virtio'/>"
        "</disk></devices></domain>"
    )


def snapshot(
    name: str,
    overlay: str,
    image: str,
    image_format: str = "qcow2",
    *,
    parent: str = "",
    date: int = 0,
    backing: str = "",
) -> DomainSnapshot:
    return _snapshots.snapshot(
        f"<domainsnapshot><name>{name}</name>"
        + (f"<parent><name>{parent}</name></parent>" if parent else "")
        + f"<creationTime>{date}</creationTime><state>shutoff</state><memory snapshot='no'/><disks>"
        f"<disk name='vda' snapshot='external' type='file'><driver type='qcow2'/><source file='{overlay}'/></disk>"
        f"</disks>{domain_xml(image, image_format, backing)}</domainsnapshot>"
    )


FIRST = snapshot("s1", ONE, BASE, "raw")
SECOND = snapshot("s2", TWO, ONE, parent="s1", date=1)


def removed(*doomed: str, chains: Any = None, snapshots: Any = (FIRST, SECOND), **more: Any) -> Any:
    arguments = {"recorded": {}, "named": {"vda": False}, **more}
    return _decision_merge.removals(state(), doomed, chains or CHAINS, snapshots, **arguments)


# What is asked


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": "a/b"}, "must not contain a slash"),
        ({"name": ".hidden"}, "begin with a dot"),
        ({"name": "a\nb"}, "control characters"),
        ({"name": ""}, "from 1 to 200 bytes"),
        ({"name": "x" * 201}, "from 1 to 200 bytes"),
        ({"name": None}, "state=present needs the name"),
        ({"name": "s", "keep": -1}, "keep: -1"),
        ({"name": "s", "prefix": "a"}, "give keep, too"),
        ({"name": "s", "state": "reverted", "keep": 1}, "not with reverted"),
        ({"name": "s", "state": "absent", "disks": ("vda",)}, "give it with state=present"),
        ({"name": "s", "disks": ()}, "names at least one disk"),
        ({"name": "s", "timeout": 0}, "timeout: 0 s"),
        ({"name": "s", "bandwidth": 0}, "bandwidth: 0"),
    ],
)
def test_what_no_world_could_grant_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        VmSnapshotWish(**fields).require_valid()


def test_a_name_may_have_blanks_commas_and_colons() -> None:
    VmSnapshotWish("before: a, b ü").require_valid()


# What is taken


@pytest.mark.parametrize(
    ("path", "earlier", "overlay"),
    [
        ("/i/web.qcow2", [], "/i/web.new.qcow2"),
        ("/i/web.img", [], "/i/web.new.qcow2"),
        ("/i/web", [], "/i/web.new.qcow2"),
        ("/i/web.v2", [], "/i/web.v2.new.qcow2"),
        ("/i/web.old.qcow2", [("old", "/i/web.old.qcow2")], "/i/web.new.qcow2"),
        ("/i/web.old.qcow2", [("old", "/i/other.qcow2")], "/i/web.old.new.qcow2"),
        ("/i/-a b, c:d.raw", [], "/i/-a b, c:d.new.qcow2"),
    ],
)
def test_an_overlay_is_named_after_its_image_and_the_snapshot(
    path: str, earlier: list[tuple[str, str]], overlay: str
) -> None:
    chains = {"vda": (ChainLink(path, "raw"), ChainLink(BASE, "raw"))}
    known = [snapshot(name, of, BASE) for name, of in earlier]
    (item,) = _decision.takings("new", [disk(source=path)], chains, known, ())
    assert item.overlay == overlay
    assert [link.path for link in item.outcome.images] == [overlay, path, BASE]


def test_two_images_of_one_name_get_two_overlays() -> None:
    disks = [disk(source="/i/a.raw"), disk(target="vdb", source="/i/a.qcow2"), disk(target="vdc", source="/j/a.raw")]
    chains = {one.target: (ChainLink(one.path, "raw"),) for one in disks}
    found = [item.overlay for item in _decision.takings("s", disks, chains, (), ())]
    assert found == ["/i/a.vda.s.qcow2", "/i/a.vdb.s.qcow2", "/j/a.s.qcow2"]


def test_all_disks_that_can_be_written_to_are_meant() -> None:
    cdrom = disk(target="hda", device="cdrom", source=None, readonly=True)
    readonly = disk(target="vdb", readonly=True)
    found = _decision.select(state(disk(), cdrom, readonly, disk(target="vdc")), VmSnapshotWish("s"))
    assert [one.target for one in found] == ["vda", "vdc"]


@pytest.mark.parametrize(
    ("element", "said"),
    [
        ({"readonly": True}, "vdb: is read-only"),
        ({"shareable": True}, "vdb: is shareable"),
        ({"transient": True}, "vdb: is transient"),
        ({"encrypted": True}, "vdb: is encrypted"),
        ({"sliced": True}, "vdb: is a slice"),
        ({"type": "block"}, "source is of type block, and only image files are snapshotted"),
        ({"device": "cdrom"}, "is a cdrom, asked to snapshot a disk"),
    ],
)
def test_a_disk_that_is_named_and_cannot_get_an_overlay_is_refused(element: dict[str, Any], said: str) -> None:
    with pytest.raises(DiskError, match=said):
        _decision.select(state(disk(), disk(target="vdb", **element)), VmSnapshotWish("s", disks=("vdb",)))


def test_quiescing_is_for_a_running_guest_with_an_agent() -> None:
    _work_take.require_quiescable(state(), "required", False)
    running = state(active=True, state="running")
    _work_take.require_quiescable(running, "auto", False)
    _work_take.require_quiescable(running, "required", True)
    with pytest.raises(DiskError, match="no guest agent answers"):
        _work_take.require_quiescable(running, "required", False)
    with pytest.raises(DiskError, match="is paused"):
        _work_take.require_quiescable(replace(running, state="paused"), "required", True)


def test_a_snapshot_with_the_memory_of_the_guest_is_none_of_disks_alone() -> None:
    xml = FIRST.xml.replace("<memory snapshot='no'/>", "<memory snapshot='external' file='/m'/>")
    found = _snapshots.snapshot(xml)
    assert not found.is_external
    with pytest.raises(DiskError, match="with the memory of the guest"):
        _decision.require_same(state(), VmSnapshotWish("s1"), found)


def test_a_disk_may_be_named_by_the_image_that_it_had_before_the_snapshot() -> None:
    for name in ("vda", TWO, ONE):
        _decision.require_same(state(), VmSnapshotWish("s2", disks=(name,)), SECOND)
    with pytest.raises(InvalidRequest, match=r"has no disk /images/vm\.raw"):
        _decision.require_same(state(), VmSnapshotWish("s2", disks=(BASE,)), SECOND)
    with pytest.raises(DiskError, match="but not of vdb and also of vda"):
        _decision.require_same(state(disk(), disk(target="vdb")), VmSnapshotWish("s2", disks=("vdb",)), SECOND)


# What is too many


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


# What is merged


def test_an_overlay_in_the_middle_is_merged_and_those_above_go_on_over_its_base() -> None:
    (removal,) = removed("s1")
    (merge,) = removal.merges
    assert (merge.overlay.path, merge.into.path) == (ONE, BASE)
    assert merge.above is not None
    assert merge.above.path == TWO
    assert [link.path for link in merge.after] == [TWO, BASE]
    (left,) = _decision_merge.predicted([FIRST, SECOND], [removal], {"vda": merge.after})
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


def test_the_definition_says_of_backing_files_what_it_did_before_the_snapshot() -> None:
    definition = domain_xml(TWO, "qcow2")
    chain = (*LINKS, ChainLink("/images/golden.raw", "raw"))
    source = "<format type='raw'/><source file='/images/golden.raw'/>"
    golden = f"<backingStore type='file'>{source}<backingStore/></backingStore>"
    for backing, said in (("", None), (golden, (ChainLink("/images/golden.raw", "raw"),))):
        snapshots = (snapshot("s1", ONE, BASE, "raw", backing=backing), SECOND)
        found = removed("s1", "s2", chains={"vda": chain}, snapshots=snapshots)
        outcomes = [outcome for removal in found for outcome in removal.outcomes]
        (after,) = _disks.disks(_decision.with_outcomes(definition, outcomes))
        assert (after.source, after.format, after.chain) == (BASE, "raw", said)


def test_a_chain_that_is_named_is_named_without_the_overlay() -> None:
    (removal,) = removed("s1", named={"vda": True})
    (after,) = _disks.disks(_decision.with_outcomes(domain_xml(TWO, "qcow2"), removal.outcomes))
    assert after.chain == (ChainLink(BASE, "raw"),)
    deeper = _disks.with_image(domain_xml(TWO, "qcow2"), "vda", LINKS[0], LINKS[1:])
    assert _disks.disks(_disks.without_link(deeper, "vda", ONE))[0].chain == (ChainLink(BASE, "raw"),)
    assert _disks.without_link(deeper, "vda", "/elsewhere") == deeper
    assert _disks.with_image(deeper, "vda", LINKS[0], LINKS[1:]) == deeper


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


# What is gone back to


def test_only_a_new_libvirt_goes_back() -> None:
    wish = VmSnapshotWish("s1", "reverted")
    assert _decision.require_revertible(state(), wish, [FIRST], (9, 10)) == FIRST
    assert _decision.require_revertible(state(), wish, [FIRST], (12, 8)) == FIRST
    with pytest.raises(DiskError, match=r"libvirt 9\.9 cannot revert .*vda: /images/vm\.raw"):
        _decision.require_revertible(state(), wish, [FIRST], (9, 9))


def test_overlays_that_libvirt_would_give_one_name_are_refused() -> None:
    xml = FIRST.xml
    another = xml[xml.index("<disk name") : xml.index("</disks>")].replace("vda", "vdb")
    two = xml.replace("</disks>", another + "</disks>")
    devices = domain_xml("/images/vm.qcow2", "qcow2").replace("vda", "vdb")
    disks = devices[devices.index("<disk") : devices.index("</devices>")]
    found = _snapshots.snapshot(two.replace("</devices>", disks + "</devices>"))
    with pytest.raises(DiskError, match=r"would have one name, /images/vm\.EPOCH"):
        _decision.require_revertible(state(), VmSnapshotWish("s1", "reverted"), [found], (9, 10))


# What is left


def record(change: str, *disks: RecordedDisk, **fields: Any) -> Record:
    usual = Record("disk-snapshot", "live", "2024-01-01T00:00:00+00:00", True, False, disks, "7", "s1", change)
    return replace(usual, **fields)


def left(
    found: Record,
    chains: Any = None,
    snapshots: Any = (FIRST, SECOND),
    run: str | None = "7",
    commit: tuple[str, str] | None = (ONE, BASE),
) -> Any:
    now = state(record=found, active=run is not None)
    return _leftovers.find(now, snapshots, chains or CHAINS, run, lambda _path: None, lambda _target: commit)


def test_a_record_comes_back_as_it_was_written() -> None:
    wanted = record("merge", RecordedDisk("vda", ONE, "qcow2", BASE, "raw", base=TWO))
    assert _records.record_from_xml(_records.record_to_xml(wanted)) == wanted


def test_a_definition_is_freed_of_a_record_and_of_nothing_else() -> None:
    ours = _records.record_to_xml(record("take")).replace("<operation", "<k:operation xmlns:k='urn:kvmops:disk:1'")
    ours = ours.replace("</operation>", "</k:operation>")
    plain = "<domain><metadata><x:note xmlns:x='urn:test'>kept</x:note>%s</metadata></domain>"
    assert "kvmops" not in _records.without_record(plain % ours)
    assert "kept" in _records.without_record(plain % ours)
    assert _records.without_record(plain % "") == plain % ""


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
    found = _leftovers.find(state(), (FIRST,), CHAINS, None, notes.get, lambda _target: None)
    assert found.paths == {BASE, gone}
    assert found.owed


def test_a_snapshot_that_was_taken_leaves_nothing_to_remove() -> None:
    found = left(record("take", RecordedDisk("vda", BASE, "raw", ONE, "qcow2")))
    assert found
    assert (found.unfinished, found.unused, found.owed) == (None, (), False)
    assert _leftovers.settle(found) == ()


def test_a_blank_record_goes_with_others_and_is_no_reason_for_a_change() -> None:
    notes = {TWO: {"verb": "unknown", "alive": False}, BASE: {"verb": "unknown", "alive": True}}
    found = _leftovers.find(state(), (FIRST, SECOND), CHAINS, None, notes.get, lambda _target: None)
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
