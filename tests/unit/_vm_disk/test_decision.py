# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which disk a task means, what is done to have it, and what forbids that; decided on plain facts."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import replace
from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainDisk, DomainState
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan, Step
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk import decision as _decision
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk import decision_absent as _absent
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk import decision_obstacles as _obstacles
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk import decision_present as _present
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk.decision import Seen, Spot
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk.wish import DiskWish
from ansible_collections.kvmops.disk.plugins.module_utils._xml.machine import machine
from ansible_collections.kvmops.disk.plugins.module_utils._xml.tuning import Tuning
from unit.samples import Recorder, disk, domain, element

XML = (
    "<domain><devices><disk type='file' device='disk'><driver name='qemu' type='raw'{driver}/>"
    "<source file='/images/vm.raw'/><target dev='vda' bus='virtio'/></disk></devices></domain>"
)
DEFINITION = XML.format(driver="")
EMPTY = machine("<domain><devices/></domain>")


def found(state: DomainState, **seen: Any) -> Seen:
    return Seen(state, seen.pop("path", "/images/new.qcow2"), **seen)


def off() -> DomainState:
    return domain(disk(element()), definition=DEFINITION)


def running(live: str = DEFINITION) -> DomainState:
    return domain(disk(element(), element()), definition=DEFINITION, live=live, active=True, state="running")


def wish(**said: Any) -> DiskWish:
    return DiskWish(**{"name": "vm", "path": "/images/new.qcow2", **said})


NEW = Spot("vdb", "virtio", "disk", "/images/new.qcow2", "qcow2")


@pytest.mark.parametrize(
    ("said", "target", "bus"),
    [
        ({}, "vdb", "virtio"),
        ({"bus": "scsi"}, "sda", "scsi"),
        ({"bus": "usb"}, "sda", "usb"),
        ({"disk": "vdz"}, "vdz", "virtio"),
        ({"disk": "sdb"}, "sdb", "scsi"),
        ({"disk": "sdb", "device": "cdrom"}, "sdb", "sata"),
        ({"device": "cdrom"}, "hda", "ide"),
    ],
)
def test_a_new_disk_gets_the_next_free_target_of_its_bus(said: dict[str, Any], target: str, bus: str) -> None:
    spot = _decision.locate(wish(**said), found(off()))
    assert (spot.target, spot.bus, spot.found) == (target, bus, None)


def test_other_disks_of_the_task_have_their_targets() -> None:
    assert _decision.locate(wish(), found(off(), claimed=["vdb", "vdc"])).target == "vdd"
    letters = "abcdefghijklmnopqrstuvwxyz"
    assert _decision.locate(wish(), found(off(), claimed=[f"vd{one}" for one in letters])).target == "vdaa"
    with pytest.raises(DiskError, match="has no free target on bus ide"):
        _decision.locate(wish(bus="ide"), found(off(), claimed=["hda", "hdb", "hdc", "hdd"]))


def test_a_disk_is_found_again_by_its_image() -> None:
    state = off()
    spot = _decision.locate(wish(path="/images/vm.raw"), found(state, path="/images/vm.raw", by_source=state.disks[0]))
    assert (spot.target, spot.format, spot.found) == ("vda", "raw", state.disks[0])


@pytest.mark.parametrize(
    ("said", "by_source", "words"),
    [
        ({"disk": "vda"}, False, "is taken by /images/vm.raw"),
        ({"disk": "vdb"}, True, "as vda already"),
        ({"bus": "scsi"}, True, "its bus is virtio"),
        ({"device": "cdrom"}, True, "its device is disk"),
        ({"format": "qcow2"}, True, "reads /images/vm.raw as raw"),
        ({"disk": "vdb", "path": None}, False, "has no disk vdb"),
    ],
)
def test_a_disk_that_is_another_than_the_task_says_is_refused(
    said: dict[str, Any], by_source: bool, words: str
) -> None:
    state = off()
    with pytest.raises(DiskError, match=words):
        _decision.locate(wish(**said), found(state, by_source=state.disks[0] if by_source else None))


def test_the_source_is_compared_before_a_disk_goes() -> None:
    state = off()
    own = state.disks[0]
    assert _decision.leaving(wish(disk="vda", path=None), found(state)) is own
    assert _decision.leaving(wish(path="/images/vm.raw"), found(state, by_source=own)) is own
    assert _decision.leaving(wish(disk="vdx", path=None), found(state)) is None
    with pytest.raises(DiskError, match=r"has /images/vm.raw, asked to detach"):
        _decision.leaving(wish(disk="vda"), found(state))
    with pytest.raises(DiskError, match="as vda, asked to detach it as vdb"):
        _decision.leaving(wish(disk="vdb"), found(state, by_source=own))


def attached(state: DomainState, said: DiskWish, controller: int | None = None) -> tuple[Plan, list[str]]:
    hands = Recorder()
    image = Plan({"state": "absent"}, {"path": "/images/new.qcow2"}, (Step("create it", hands.create),))
    plan = _present.plan_attachment(state, said, NEW, image, controller, lambda: hands)
    plan.apply()
    return plan, hands.calls


def test_the_image_comes_before_the_controller_and_that_before_the_disk() -> None:
    plan, calls = attached(off(), wish(), controller=0)
    assert calls == ["create", "add_controller", "attach"]
    assert plan.report()["actions"] == [
        "create it",
        "add SCSI controller 0 to vm in its definition",
        "attach /images/new.qcow2 to vm as vdb in its definition",
    ]
    assert "+" in plan.diff[0]["prepared"]


def test_a_running_machine_gets_the_disk_unless_the_task_waits() -> None:
    assert attached(running(), wish())[0].report()["actions"][-1].endswith("as vdb while it runs")
    assert attached(running(), wish(live=False))[0].report()["actions"][-1].endswith("in its definition")


def changed(state: DomainState, own: DomainDisk, **said: Any) -> tuple[list[str], list[str]]:
    hands = Recorder()
    spot = Spot("vda", "virtio", "disk", "/images/vm.raw", "raw", own)
    plan = _present.plan_change(state, wish(path="/images/vm.raw", **said), spot, Plan({}, {}), None, lambda: hands)
    plan.apply()
    return plan.report()["actions"], hands.calls


def test_limits_change_in_the_machine_and_the_rest_in_the_definition() -> None:
    state = running()
    actions, calls = changed(state, state.disks[0], tuning=Tuning(cache="none", throttle={"total_iops_sec": 5}))
    assert calls == ["limit", "tune"]
    assert actions[0] == "limit vda of vm while it runs: total_iops_sec 5"
    assert changed(state, state.disks[0], tuning=Tuning(throttle={"total_iops_sec": 5}), live=False)[1] == ["tune"]
    assert changed(state, state.disks[0], tuning=Tuning(cache="default")) == ([], [])


def test_a_disk_that_is_only_in_one_of_the_two_comes_to_the_other() -> None:
    state = running()
    assert changed(state, disk(element(), None)) == (
        ["attach /images/vm.raw to vm as vda in the running machine alone"],
        ["attach"],
    )
    only_live = replace(state, definition="<domain><devices/></domain>")
    assert changed(only_live, disk(None, element())) == (
        ["attach /images/vm.raw to vm as vda in its definition"],
        ["attach"],
    )
    assert changed(state, disk(element(), None), live=False) == ([], [])


def test_what_the_next_start_brings_is_pending() -> None:
    state = running(XML.format(driver=" cache='none'"))
    assert _present.pending(state, state.disks[0]) == ["cache"]
    assert _present.pending(off(), off().disks[0]) == []
    assert _present.pending(state, disk(element(), None)) == ["attached"]
    assert _present.pending(state, disk(None, element())) == ["detached"]
    assert _present.pending(running(), disk(element(), element("/images/other.raw"))) == ["path"]


@pytest.mark.parametrize(
    ("said", "names"),
    [
        ({"tuning": Tuning(cache="none")}, ["cache"]),
        ({"tuning": Tuning(throttle={"total_iops_sec": 5})}, []),
        ({"tuning": Tuning(throttle={"total_iops_sec": 5}), "live": False}, ["throttle"]),
    ],
)
def test_what_will_be_pending_is_foretold(said: dict[str, Any], names: list[str]) -> None:
    state = running()
    spot = Spot("vda", "virtio", "disk", "/images/vm.raw", "raw", state.disks[0])
    assert _present.pending_then(state, wish(**said), spot) == names
    assert _present.pending_then(state, wish(live=False), NEW) == ["attached"]
    assert _present.pending_then(state, wish(), NEW) == []


@pytest.mark.parametrize(("target", "missing"), [("sda", 0), ("sdo", 0), ("sdp", 1), ("sdaa", 1), ("vdb", None)])
def test_a_scsi_disk_needs_the_controller_of_its_number(target: str, missing: int | None) -> None:
    spot = replace(NEW, target=target, bus="virtio" if target.startswith("v") else "scsi")
    assert _present.missing_controller(spot, EMPTY) == missing
    assert _present.missing_controller(spot, replace(EMPTY, scsi_controllers=frozenset({0, 1}))) is None


def test_a_guest_lets_a_disk_go_before_the_definition_loses_it() -> None:
    state, hands = running(), Recorder()
    removal = Plan({}, {"path": "/images/vm.raw"}, (Step("remove it", hands.remove),))
    _absent.plan_detachment(state, state.disks[0], wish(), removal, lambda: hands).apply()
    assert hands.calls == ["detach", "take_out", "remove"]
    hands = Recorder(fails="detach")
    with pytest.raises(DiskError):
        _absent.plan_detachment(state, state.disks[0], wish(), removal, lambda: hands).apply()
    assert hands.calls == ["detach"]
    assert not _absent.plan_detachment(state, None, wish(), Plan({}, {}), Recorder)


def test_ports_are_counted_with_those_that_other_disks_get() -> None:
    _obstacles.require_port(running(), "vdb", replace(EMPTY, free_ports=None), 9)
    _obstacles.require_port(running(), "vdb", replace(EMPTY, free_ports=1), 0)
    with pytest.raises(DiskError, match="add 2 of") as refused:
        _obstacles.require_port(running(), "vdd", replace(EMPTY, free_ports=1), 2)
    assert refused.value.facts == {"missing_ports": 2}


@pytest.mark.parametrize(
    ("offered", "boots"),
    [
        ({"boots_by_kind": True}, True),
        ({"boots_by_kind": True, "has_kernel": True}, False),
        ({"boot_orders": {2: "vda", 3: "vdb"}}, True),
        ({"boot_orders": {2: "vdb", 3: "vda"}}, False),
    ],
)
def test_what_a_domain_boots_from_stays_unless_forced(offered: dict[str, Any], boots: bool) -> None:
    state = off()
    asked = state, state.disks[0], replace(EMPTY, **offered), ()
    _obstacles.require_unneeded(*asked, wish(force=True))
    if not boots:
        _obstacles.require_unneeded(*asked, wish())
        return
    with pytest.raises(DiskError, match="boots from"):
        _obstacles.require_unneeded(*asked, wish())
