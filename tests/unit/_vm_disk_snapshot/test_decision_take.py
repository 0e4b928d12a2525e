# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which disks a snapshot is of, which overlays they get, and in which order."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import replace
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, MissingImage
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot import decision_take as _decision_take
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot.decision_found import Unvouched
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot.wish import VmSnapshotWish
from ansible_collections.kvmops.disk.plugins.module_utils._xml.disks import ChainLink
from unit._vm_disk_snapshot.scene import BASE, ONE, TWO, disk, observed, snapshot, state
from unit.samples import Recorder


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
    known = tuple(snapshot(name, of, BASE) for name, of in earlier)
    (item,) = _decision_take.takings(observed(chains=chains, snapshots=known), "new", [disk(source=path)])
    assert item.overlay == overlay
    assert [link.path for link in item.outcome.images] == [overlay, path, BASE]


def test_two_images_of_one_name_get_two_overlays() -> None:
    disks = [disk(source="/i/a.raw"), disk(target="vdb", source="/i/a.qcow2"), disk(target="vdc", source="/j/a.raw")]
    chains = {one.target: (ChainLink(one.path, "raw"),) for one in disks}
    found = _decision_take.takings(observed(chains=chains, snapshots=()), "s", disks)
    assert [item.overlay for item in found] == ["/i/a.vda.s.qcow2", "/i/a.vdb.s.qcow2", "/j/a.s.qcow2"]


def test_all_disks_that_can_be_written_to_are_meant() -> None:
    cdrom = disk(target="hda", device="cdrom", source=None, readonly=True)
    readonly = disk(target="vdb", readonly=True)
    found = _decision_take.select(state(disk(), cdrom, readonly, disk(target="vdc")), VmSnapshotWish("s"))
    assert [one.target for one in found] == ["vda", "vdc"]


@pytest.mark.parametrize("mark", ["no", "manual"])
@pytest.mark.parametrize("live", [False, True])
def test_a_disk_that_libvirts_xml_leaves_out_is_only_meant_when_it_is_named(mark: str, live: bool) -> None:
    marked = disk(target="vdb", snapshot=mark)
    if live:  # in the definition alone: whoever marked it meanwhile means the snapshots to come
        marked = replace(marked, live=replace(marked.element, snapshot=None))
    domain = state(disk(), marked, disk(target="vdc", snapshot="internal"), disk(target="vdd", snapshot="external"))
    assert [one.target for one in _decision_take.select(domain, VmSnapshotWish("s"))] == ["vda", "vdc", "vdd"]
    assert _decision_take.select(domain, VmSnapshotWish("s", disks=("vdb",))) == [marked]


def test_a_domain_whose_disks_are_all_left_out_is_told_which_marks_are_in_the_way() -> None:
    with pytest.raises(DiskError, match="the XML leaves vda, vdb out of snapshots: name in disks"):
        _decision_take.select(
            state(disk(snapshot="no"), disk(target="vdb", snapshot="manual")),
            VmSnapshotWish("s"),
        )


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
        _decision_take.select(state(disk(), disk(target="vdb", **element)), VmSnapshotWish("s", disks=("vdb",)))


def test_quiescing_is_for_a_running_guest_with_an_agent() -> None:
    _decision_take.require_quiescable(state(), "required", False)
    running = state(active=True, state="running")
    _decision_take.require_quiescable(running, "auto", False)
    _decision_take.require_quiescable(running, "required", True)
    with pytest.raises(DiskError, match="no guest agent answers"):
        _decision_take.require_quiescable(running, "required", False)
    with pytest.raises(DiskError, match="is paused"):
        _decision_take.require_quiescable(replace(running, state="paused"), "required", True)


def test_a_disk_whose_image_is_gone_cannot_be_kept() -> None:
    with pytest.raises(MissingImage, match=r"/images/gone: is missing, or is not a file: vm has it as a disk"):
        _decision_take.require_images(observed(), [disk(), disk(target="vdb", source="/images/gone")])


def test_a_chain_that_nobody_vouches_for_is_not_named_in_the_definition() -> None:
    unvouched = {"vda": Unvouched(BASE, "has the backing file /images/secret")}
    (item,) = _decision_take.takings(observed(unvouched=unvouched), "s3", [disk()])
    after = _decision_take.taken(observed(named={"vda": True}), [item])
    assert not item.outcome.explicit
    assert after.named == {"vda": False}
    assert [link.path for link in after.chains["vda"]] == ["/images/vm.s3.qcow2", TWO, ONE, BASE]


def test_a_snapshot_is_recorded_before_its_overlays_are_made_and_these_are_before_it_is_taken() -> None:
    work = Recorder()
    (item,) = _decision_take.takings(observed(), "s3", [disk()])
    steps = _decision_take.steps(state(), "s3", [item], work)
    Plan({}, {}, steps).apply()
    assert work.calls == ["begin", "stage", "take", "finish"]
    assert [step.summary for step in steps if step.summary] == [
        "take the snapshot s3 of vm, which is off: vda on /images/vm.s3.qcow2 (over vm.s2.qcow2)"
    ]


def test_where_it_cannot_be_taken_the_overlays_go_and_then_the_record() -> None:
    work = Recorder(fails="take")
    (item,) = _decision_take.takings(observed(), "s3", [disk()])
    with pytest.raises(DiskError, match="take"):
        Plan({}, {}, _decision_take.steps(state(), "s3", [item], work)).apply()
    assert work.calls == ["begin", "stage", "take", "withdraw", "restore"]
