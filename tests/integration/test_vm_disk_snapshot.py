# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""vm_disk_snapshot: one point in time over the disks of a domain, merged back while nobody notices, or gone back to."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import libvirt
import pytest
from lab import Disk, Guest, Hypervisor, run_module, tree_state
from lab.fixtures import MakeDomain
from support.agents import feign_an_agent, wait_for_agent
from support.guest_writes import acknowledged, file_system, number_in, start_writing, stop_writing
from support.injection import constants, environment
from support.playground import Playground, percents
from support.scene import (
    MIB,
    RECORD,
    can_revert,
    chain_of,
    content,
    definition,
    disk_of,
    image_chain,
    is_running,
    leftovers,
    make_image,
    make_overlay,
    qemu_img,
    snapshot_xmls,
    state,
    with_backing,
)

MODULE = "vm_disk_snapshot"
#: The images of the guest, without what says their format.
DISKS = ("system disk", "one", "other,x")
#: Writes the same number to the one disk, then to the other, for ever.
COUNTER = (
    "n=0; while [ ! -e /tmp/enough ]; do n=$((n+1)); for d in vdb vdc; do "
    "printf '%-512d' $n | dd of=/dev/$d conv=fsync,notrunc 2>/dev/null; done; echo $n >/tmp/count; done"
)


def files_in(xml: str) -> set[Path]:
    return {
        Path(source.attrib["file"]) for source in ElementTree.fromstring(xml).iter("source") if "file" in source.attrib
    }


def counted(path: Path) -> int:
    """The number that the guest has written last, as a raw disk has it."""
    return int(path.read_bytes()[:512].decode().strip() or 0)


# Below a guest that writes all the while


@dataclass
class Journey:
    """A guest with three disks that writes while snapshots are taken, removed in the middle, and removed at the end."""

    guest: Guest
    directory: Path
    before: str
    predicted: dict[str, Any]
    untouched_by_check: bool
    made: dict[str, Any]
    needs_recovery: tuple[bool, bool]
    first: dict[str, Any]
    again: dict[str, Any]
    overlay_owners: set[tuple[int, int, int]]
    numbers: tuple[int, int]
    later_number: int
    chains: tuple[list[str], list[str]]
    surplus_predicted: dict[str, Any]
    surplus: dict[str, Any]
    xmls: dict[str, str]
    shorter: tuple[list[str], list[str], list[str]]
    absent: dict[str, Any]
    absent_again: dict[str, Any]
    acked: list[int]
    same_process: bool


@pytest.fixture(scope="module")
def journey(hv: Hypervisor) -> Iterator[Journey]:
    directory = hv.images / "-snap: a, b ü"
    directory.mkdir(mode=0o711)
    system = file_system(directory / "system disk.raw")
    other = make_image(directory / "other,x.raw", mib=0)
    raw = make_image(directory / "one.img", mib=0)
    for path in (system, other, raw):
        os.chown(path, 4321, 4322)
        path.chmod(0o640)
    disks = [Disk(system, serial="DATA"), Disk(raw, target="vdb"), Disk(other, target="vdc")]
    hv.define(hv.domain_xml("snap", disks, agent=True, vnc_password="sesame"))
    hv.start("snap")
    guest = Guest(hv, "snap")
    guest.wait_ready()
    start_writing(guest)
    guest.must(f"({COUNTER}) >/dev/null 2>&1 &")
    number_in(guest, "/tmp/count", 0)
    wait_for_agent(hv, "snap")
    params: dict[str, Any] = {"name": "snap", "uri": hv.uri}
    before, process, tree = definition(hv, "snap"), hv.qemu_pid("snap"), set(os.listdir(directory))
    asked = {**params, "snapshot": "nightly-1", "quiesce": "required"}
    predicted = run_module(MODULE, asked, check=True, diff=True)
    untouched = definition(hv, "snap") == before and set(os.listdir(directory)) == tree
    acked = [acknowledged(guest)]
    first = run_module(MODULE, asked, diff=True)
    again = run_module(MODULE, {**asked, "disks": ["vdc", "vda", "vdb"]})
    numbers = counted(raw), counted(other)
    overlays = [Path(disk["overlay"]) for disk in first["snapshots"][0]["disks"]] if first.get("changed") else []
    owners = {at_rest(path) for path in overlays}
    chains = chain_of(hv, "snap"), chain_of(hv, "snap", live=True)
    acked.append(acknowledged(guest, acked[-1]))
    made = run_module(MODULE, {**params, "snapshot": "nightly-2", "quiesce": "never"})
    assert made.get("changed"), made
    recovery = needs_recovery(system, "raw"), needs_recovery(overlays[0], "qcow2")
    asked = {**params, "snapshot": "nightly-3", "keep": 1, "prefix": "nightly-"}
    surplus_predicted = run_module(MODULE, asked, check=True, diff=True)
    surplus = run_module(MODULE, asked, diff=True)
    xmls = snapshot_xmls(hv, "snap")
    top = disk_of(hv, "snap")[0]
    shorter = chain_of(hv, "snap"), chain_of(hv, "snap", live=True), image_chain(top, "qcow2")
    acked.append(acknowledged(guest, acked[-1]))
    later = number_in(guest, "/tmp/count", numbers[0])
    absent = run_module(MODULE, {**params, "state": "absent", "snapshot": "nightly-3", "bandwidth": "500M"}, diff=True)
    absent_again = run_module(MODULE, {**params, "state": "absent", "snapshot": "nightly-3"})
    guest.must("touch /tmp/enough")
    acked.append(stop_writing(guest))
    yield Journey(
        *(guest, directory, before, predicted, untouched, made, recovery, first, again, owners, numbers, later, chains),
        *(surplus_predicted, surplus, xmls, shorter, absent, absent_again, acked),
        same_process=hv.qemu_pid("snap") == process,
    )
    hv.remove("snap")


def needs_recovery(path: Path, image_format: str) -> bool:
    """Whether the ext4 on a disk was in use when the disk was last written to: then its journal is to be replayed."""
    flat = path.with_name("flat")
    try:
        qemu_img("convert", "-U", "-f", image_format, "-O", "raw", path, flat)
        with flat.open("rb") as stream:
            stream.seek(1024)
            data = stream.read(512)
    finally:
        flat.unlink(missing_ok=True)
    assert data[0x38:0x3A] == b"\x53\xef", "it is none"
    return bool(data[0x60] & 4)


def at_rest(path: Path) -> tuple[int, int, int]:
    """Owner, group and mode that a file has once its guest is off."""
    status = path.stat()
    with contextlib.suppress(OSError):
        owner, group = os.getxattr(path, "trusted.libvirt.security.dac").rstrip(b"\0").split(b":")
        return int(owner), int(group), status.st_mode & 0o777
    return status.st_uid, status.st_gid, status.st_mode & 0o777


def test_a_running_guest_never_stops_and_loses_no_record(journey: Journey) -> None:
    assert journey.first["changed"], journey.first
    assert journey.surplus["changed"], journey.surplus
    assert journey.absent["changed"], journey.absent
    assert journey.same_process
    assert journey.acked == sorted(set(journey.acked))


def test_the_disks_are_kept_at_one_point_in_time(journey: Journey) -> None:
    first, second = journey.numbers
    assert first > 0
    assert first - second in (0, 1), "the guest writes a number to the first disk, then to the second"
    assert journey.later_number > first, "and it went on"


def test_a_guest_agent_freezes_the_file_systems(journey: Journey) -> None:
    assert journey.first["quiesced"] is True
    assert journey.surplus["quiesced"] is True, "auto does where an agent answers"
    assert journey.made["quiesced"] is False, "never does not"
    assert journey.again["quiesced"] is None
    assert journey.needs_recovery == (False, True), "only what was frozen is clean"


def test_the_overlays_stand_beside_the_images_and_belong_to_the_same_user(journey: Journey) -> None:
    overlays = {disk["target"]: disk for disk in journey.first["snapshots"][0]["disks"]}
    names = {target: Path(disk["overlay"]).name for target, disk in overlays.items()}
    assert names == {
        "vda": "system disk.nightly-1.qcow2",
        "vdb": "one.nightly-1.qcow2",
        "vdc": "other,x.nightly-1.qcow2",
    }
    assert overlays["vdc"]["backing_file"] == str(journey.directory / "other,x.raw")
    assert {disk["backing_format"] for disk in overlays.values()} == {"raw"}
    assert journey.overlay_owners == {(4321, 4322, 0o640)}
    assert journey.chains == ([str(journey.directory / "system disk.raw")],) * 2
    assert [disk["path"] for disk in journey.first["disks"]] == [
        overlays[disk]["overlay"] for disk in ("vda", "vdb", "vdc")
    ]


def test_a_second_run_changes_nothing(journey: Journey) -> None:
    for again in (journey.again, journey.absent_again):
        assert not again["changed"], again
        assert again["actions"] == []


def test_check_mode_predicts_it_and_writes_nothing(journey: Journey) -> None:
    assert journey.untouched_by_check
    for predicted, done in ((journey.predicted, journey.first), (journey.surplus_predicted, journey.surplus)):
        assert predicted["changed"], predicted
        assert predicted["actions"] == done["actions"]
        assert predicted["diff"] == done["diff"]
        assert predicted["removed"] == done["removed"]
        for one, two in zip(predicted["snapshots"], done["snapshots"], strict=True):
            assert {**one, "date": None} == {**two, "date": None}
        assert [disk["path"] for disk in predicted["disks"]] == [disk["path"] for disk in done["disks"]]
    prepared = journey.first["diff"][1]["prepared"]
    assert '+      <source file="' in prepared
    assert "sesame" not in prepared


def test_what_is_beyond_the_number_to_keep_is_merged_the_oldest_first(journey: Journey) -> None:
    assert journey.surplus["removed"] == ["nightly-1", "nightly-2"]
    assert [one["name"] for one in journey.surplus["snapshots"]] == ["nightly-3"]
    chain = [str(journey.directory / "system disk.raw")]
    assert journey.shorter == (chain, chain, chain), "the definition, the running domain and the image say so"


def test_libvirt_knows_only_images_that_are_there(journey: Journey) -> None:
    assert set(journey.xmls) == {"nightly-3"}
    gone = {journey.directory / f"{disk}.nightly-{n}.qcow2" for n in (1, 2) for disk in DISKS}
    for xml in journey.xmls.values():
        assert not files_in(xml) & gone
        assert RECORD not in xml, "who goes back finds no record of the taking"
    kept = {path.name for path in files_in(journey.xmls["nightly-3"])}
    assert {"system disk.raw", "system disk.nightly-3.qcow2"} <= kept


def test_when_all_are_removed_all_is_as_before(hv: Hypervisor, journey: Journey) -> None:
    assert definition(hv, "snap") == journey.before
    assert snapshot_xmls(hv, "snap") == {}
    assert sorted(os.listdir(journey.directory)) == ["one.img", "other,x.raw", "system disk.raw"]
    assert leftovers(hv, "snap", journey.directory) == []
    assert journey.absent["diff"][0]["after"]["snapshots"] == []


def test_the_guest_boots_from_its_first_image_and_finds_all_that_it_wrote(hv: Hypervisor, journey: Journey) -> None:
    journey.guest.must("umount /data; sync")
    subprocess.run(["virsh", "-q", "-c", hv.uri, "destroy", "snap"], check=True)
    for path in journey.directory.iterdir():
        assert at_rest(path) == (4321, 4322, 0o640), path
    assert counted(journey.directory / "one.img") >= journey.later_number
    hv.start("snap")
    journey.guest.wait_ready()
    said = journey.guest.must("check /data/records; sha256sum -c /data/SUMS")
    assert int(said.split()[1]) >= journey.acked[-1]


# Without an agent


def test_without_an_agent_quiescing_is_done_without_or_refused(
    hv: Hypervisor, images: Path, make_domain: MakeDomain
) -> None:
    name = make_domain([Disk(make_image(images / "vm.raw"))], kernel=False).name
    hv.start(name)
    params = {"name": name, "snapshot": "s", "uri": hv.uri}
    refused = run_module(MODULE, {**params, "quiesce": "required"})
    assert "no guest agent answers" in refused["msg"]
    assert os.listdir(images) == ["vm.raw"]
    done = run_module(MODULE, params)
    assert done.get("changed"), done
    assert done["quiesced"] is False


def test_an_agent_that_does_not_answer_is_as_good_as_none(
    hv: Hypervisor, images: Path, make_domain: MakeDomain
) -> None:
    name = make_domain([Disk(make_image(images / "vm.raw"))], kernel=False, agent=True).name
    hv.start(name)
    done = run_module(MODULE, {"name": name, "snapshot": "s", "uri": hv.uri})
    assert done.get("changed"), done
    assert done["quiesced"] is False


@pytest.mark.parametrize("quiesce", ["auto", "required"])
def test_an_agent_that_answers_and_never_freezes_is_named_and_done_without_or_refused(
    hv: Hypervisor, images: Path, make_domain: MakeDomain, quiesce: str
) -> None:
    guest = make_domain([Disk(make_image(images / "vm.raw"))], start=True, agent=True)
    feign_an_agent(hv, guest)
    asked = {"name": guest.name, "snapshot": "s", "quiesce": quiesce, "uri": hv.uri}
    limits = environment(CONSTANTS=constants({"_libvirt.acting": {"_AGENT_SECONDS": 2}}))
    done = run_module(MODULE, asked, env=limits)
    said = done["msg"] if quiesce == "required" else str(done["warnings"])
    assert "agent" in said, done
    assert f"virsh domfsthaw {guest.name}" in said, "it may freeze them yet"
    assert "fsfreeze-freeze" in guest.must("cat /tmp/asked")
    if quiesce == "required":
        assert "set quiesce to auto or never" in said
        assert disk_of(hv, guest.name)[0] == str(images / "vm.raw")
        assert os.listdir(images) == ["vm.raw"]
    else:
        assert done["quiesced"] is False
        assert disk_of(hv, guest.name)[0] == str(images / "vm.s.qcow2")
    assert not leftovers(hv, guest.name, images)
    assert run_module("vm_disk_resize", {"name": guest.name, "disk": "vda", "size": "16M", "uri": hv.uri})["changed"]


def test_a_task_leaves_the_agent_without_a_time_limit_as_it_was(
    hv: Hypervisor, images: Path, make_domain: MakeDomain
) -> None:
    guest = make_domain([Disk(make_image(images / "vm.raw"))], start=True, agent=True)
    wait_for_agent(hv, guest.name)
    status = hv.directory / f"run/qemu/{guest.name}.xml"
    before = re.findall("<agentTimeout.*", status.read_text(encoding="utf-8"))
    done = run_module(MODULE, {"name": guest.name, "snapshot": "s", "quiesce": "required", "uri": hv.uri})
    assert done.get("quiesced") is True, done
    assert re.findall("<agentTimeout.*", status.read_text(encoding="utf-8")) == before


def test_a_paused_domain_gets_a_snapshot_and_stays_paused(
    hv: Hypervisor, images: Path, make_domain: MakeDomain
) -> None:
    disk = make_image(images / "vm.qcow2", "qcow2")
    name = make_domain([Disk(disk, "qcow2")], kernel=False).name
    hv.start(name)
    subprocess.run(["virsh", "-q", "-c", hv.uri, "suspend", name], check=True)
    before, wanted = definition(hv, name), content(disk, "qcow2")
    for asked in ({"snapshot": "s"}, {"snapshot": "s", "state": "absent"}):
        done = run_module(MODULE, {"name": name, "uri": hv.uri, **asked})
        assert done.get("changed"), done
        assert state(hv, name) == libvirt.VIR_DOMAIN_PAUSED
    assert definition(hv, name) == before
    assert content(disk, "qcow2") == wanted


@pytest.mark.parametrize("runs", [False, True])
def test_disks_that_libvirts_xml_leaves_out_get_an_overlay_only_when_they_are_named(
    hv: Hypervisor, images: Path, make_domain: MakeDomain, runs: bool
) -> None:
    marks = {"vda": None, "vdb": "no", "vdc": "manual", "vdd": "external", "vde": "internal"}
    disks = [Disk(make_image(images / f"{one}.raw"), target=one, snapshot=mark) for one, mark in marks.items()]
    name = make_domain(disks, kernel=False).name
    if runs:
        hv.start(name)
    before = definition(hv, name)
    done = run_module(MODULE, {"name": name, "snapshot": "all", "uri": hv.uri})
    assert [disk["target"] for disk in done["disks"]] == ["vda", "vdd", "vde"], done
    assert disk_of(hv, name, "vdb")[0] == str(images / "vdb.raw")
    named = {"name": name, "snapshot": "named", "disks": ["vdb", "vdc"], "uri": hv.uri}
    done = run_module(MODULE, named)
    assert [disk["target"] for disk in done["disks"]] == ["vdb", "vdc"], done
    assert not run_module(MODULE, named)["changed"]
    for snapshot in ("named", "all"):
        done = run_module(MODULE, {"name": name, "snapshot": snapshot, "state": "absent", "uri": hv.uri})
        assert done.get("changed"), done
    assert definition(hv, name) == before, "the marks are there as before"


# Offline


@dataclass
class Machine:
    """A domain that is off: a clone over a golden image, which the definition names, and a raw disk."""

    hv: Hypervisor
    name: str
    images: Path

    def __post_init__(self) -> None:
        self.params: dict[str, Any] = {"name": self.name, "uri": self.hv.uri}
        self.before = definition(self.hv, self.name)

    def run(self, **asked: Any) -> dict[str, Any]:
        done = run_module(MODULE, {**self.params, **asked}, diff=True)
        assert not done.get("failed"), done
        return done

    def top(self, target: str = "vda") -> str:
        return disk_of(self.hv, self.name, target)[0]

    def write(self, number: int) -> None:
        """Something new on both disks, as a guest would."""
        for target in ("vda", "vdb"):
            path, image_format = disk_of(self.hv, self.name, target)
            command = f"write -P {number} {number * 64}k 64k"
            subprocess.run(["qemu-io", "-f", image_format, "-c", command, path], check=True, capture_output=True)

    def contents(self) -> list[str]:
        return [content(*disk_of(self.hv, self.name, target)) for target in ("vda", "vdb")]


@pytest.fixture
def off(hv: Hypervisor, images: Path, make_domain: MakeDomain) -> Machine:
    golden = make_image(images / "golden.raw", mib=4)
    clone = make_overlay(images / "vm.qcow2", golden)
    data = make_image(images / "data.raw")
    for path in (clone, data):
        os.chown(path, 4321, 4321)
        path.chmod(0o640)
    name = make_domain([], kernel=False).name
    hv.remove(name)
    disks = [Disk(clone, "qcow2"), Disk(data, target="vdb")]
    hv.define(with_backing(hv.domain_xml(name, disks, kernel=False), (golden, "raw")))
    return Machine(hv, name, images)


def test_off_line_snapshots_are_taken_removed_in_the_middle_and_at_the_end(off: Machine) -> None:
    golden = (off.images / "golden.raw").read_bytes()
    kept = [off.contents()]
    for number in (1, 2, 3):
        done = off.run(snapshot=f"s{number}")
        assert done["changed"], done
        assert done["quiesced"] is None
        off.write(number)
        kept.append(off.contents())
    assert [Path(off.top(disk)).name for disk in ("vda", "vdb")] == ["vm.s3.qcow2", "data.s3.qcow2"]
    assert chain_of(off.hv, off.name) == image_chain(off.top(), "qcow2"), "the definition names all of the chain"
    assert at_rest(Path(off.top())) == (4321, 4321, 0o640)

    tree = tree_state(off.images)
    predicted = run_module(MODULE, {**off.params, "snapshot": "s2", "state": "absent"}, check=True, diff=True)
    assert tree_state(off.images) == tree
    done = off.run(snapshot="s2", state="absent")
    assert predicted["actions"] == done["actions"]
    assert predicted["diff"] == done["diff"]
    assert off.contents() == kept[3]
    left = [Path(path).name for path in image_chain(off.top(), "qcow2")]
    assert left == ["vm.s1.qcow2", "vm.qcow2", "golden.raw"]
    assert chain_of(off.hv, off.name) == image_chain(off.top(), "qcow2")
    third = {one["name"]: one for one in done["snapshots"]}["s3"]
    assert third["disks"][0]["backing_file"] == str(off.images / "vm.s1.qcow2")
    assert content(third["disks"][0]["backing_file"], "qcow2") == kept[2][0], "what s3 has kept is as it was"
    assert (third["parent"], third["current"]) == ("s1", True)
    for xml in snapshot_xmls(off.hv, off.name).values():
        assert not [path for path in files_in(xml) if not path.exists()]

    for name in ("s1", "s3"):
        assert off.run(snapshot=name, state="absent")["changed"]
    assert definition(off.hv, off.name) == off.before
    assert off.contents() == kept[3]
    assert (off.images / "golden.raw").read_bytes() == golden
    assert sorted(os.listdir(off.images)) == ["data.raw", "golden.raw", "vm.qcow2"]
    assert [at_rest(off.images / name) for name in ("vm.qcow2", "data.raw")] == [(4321, 4321, 0o640)] * 2
    assert leftovers(off.hv, off.name, off.images) == []
    assert not off.run(snapshot="s1", state="absent")["changed"]


def test_only_the_disks_that_are_named_get_an_overlay(off: Machine) -> None:
    done = off.run(snapshot="data", disks=[str(off.images / "data.raw")])
    assert [disk["target"] for disk in done["disks"]] == ["vdb"]
    assert off.top() == str(off.images / "vm.qcow2")
    assert not off.run(snapshot="data", disks=["vdb"])["changed"]
    assert not off.run(snapshot="data")["changed"], "without disks any will do"
    refused = run_module(MODULE, {**off.params, "snapshot": "data", "disks": ["vda"]})
    assert "has a snapshot data already, but not of vda and also of vdb" in refused["msg"]
    assert refused["snapshot_disks"] == ["vdb"]


def test_an_overlay_that_the_domain_left_for_an_internal_snapshot_is_named(
    hv: Hypervisor, images: Path, make_domain: MakeDomain
) -> None:
    image = make_image(images / "vm.qcow2", "qcow2")
    name = make_domain([Disk(image, "qcow2")], kernel=False).name
    virsh = ["virsh", "-q", "-c", hv.uri]
    subprocess.run([*virsh, "snapshot-create-as", name, "inside"], check=True)
    asked = {"name": name, "uri": hv.uri}
    done = run_module(MODULE, {**asked, "snapshot": "left"})
    assert (done["changed"], done["orphans"], done.get("warnings", [])) == (True, [], [])
    subprocess.run([*virsh, "snapshot-revert", name, "inside"], check=True)
    assert disk_of(hv, name)[0] == str(image)

    orphan = {"path": str(images / "vm.left.qcow2"), "snapshot": "left", "target": "vda"}
    done = run_module(MODULE, {**asked, "snapshot": "next"})
    assert done["changed"], done
    assert done["orphans"] == [orphan]
    assert orphan["path"] in str(done["warnings"])
    for check in (True, False):
        refused = run_module(MODULE, {**asked, "snapshot": "next", "state": "absent"}, check=check)
        assert refused["dependents"] == [orphan["path"]], refused
        assert f"{orphan['path']}, the overlay of its snapshot left" in refused["msg"]
    done = run_module(MODULE, {**asked, "snapshot": "left", "state": "absent"})
    assert done["orphans"] == [orphan], "the file is left, though libvirt knows it no more"
    assert orphan["path"] in str(done["warnings"])
    assert run_module("qcow2_image", {"path": orphan["path"], "state": "absent"})["changed"]
    done = run_module(MODULE, {**asked, "snapshot": "next", "state": "absent"})
    assert (done["changed"], done["orphans"]) == (True, [])
    assert sorted(os.listdir(images)) == ["vm.qcow2"]


def test_retention_alone_needs_no_name(off: Machine) -> None:
    for name in ("a-1", "b-1", "a-2"):
        off.run(snapshot=name, disks=["vdb"])
    done = off.run(keep=0, prefix="a-", state="absent")
    assert done["removed"] == ["a-1", "a-2"]
    assert [one["name"] for one in done["snapshots"]] == ["b-1"]
    assert not off.run(keep=1)["changed"]


def test_an_overlay_that_somebody_else_merged_leaves_only_a_record_of_libvirt(off: Machine) -> None:
    """As after virsh blockcommit --pivot, which tells libvirt's snapshots nothing."""
    off.hv.start(off.name)
    off.run(snapshot="s", disks=["vdb"])
    overlay = off.top("vdb")
    argv = ["virsh", "-q", "-c", off.hv.uri, "blockcommit", off.name, "vdb", "--active", "--pivot", "--wait"]
    subprocess.run(argv, check=True, capture_output=True)
    done = off.run(snapshot="s", state="absent")
    assert done["changed"]
    assert "is left alone" in done["actions"][0]
    assert snapshot_xmls(off.hv, off.name) == {}
    assert Path(overlay).exists()


def test_a_disk_that_grew_after_the_snapshot_keeps_its_size(off: Machine) -> None:
    off.run(snapshot="s", disks=["vdb"])
    asked = {**off.params, "disk": "vdb", "size": "12M"}
    assert run_module("vm_disk_resize", asked)["changed"]
    off.write(5)
    wanted = off.contents()[1]
    off.run(snapshot="s", state="absent")
    assert off.contents()[1] == wanted
    assert (off.images / "data.raw").stat().st_size == 12 * MIB


# Going back


@pytest.mark.parametrize("runs", [False, True], ids=["off", "running"])
def test_a_domain_goes_back_where_libvirt_can_and_is_refused_elsewhere(off: Machine, runs: bool) -> None:
    wanted = off.contents()
    off.run(snapshot="s")
    off.write(3)
    if runs:
        off.hv.start(off.name)
    asked = {**off.params, "snapshot": "s", "state": "reverted"}
    before, tree = definition(off.hv, off.name), sorted(os.listdir(off.images))
    predicted = run_module(MODULE, asked, check=True, diff=True)
    assert (definition(off.hv, off.name), sorted(os.listdir(off.images))) == (before, tree)
    done = run_module(MODULE, asked, diff=True)
    if not can_revert(off.hv):
        assert done["msg"] == predicted["msg"]
        assert "cannot revert to an external snapshot, which needs 9.10 or newer" in done["msg"]
        assert f"vda: {off.images}/vm.qcow2, vdb: {off.images}/data.raw" in done["msg"], "the way out"
        assert (definition(off.hv, off.name), sorted(os.listdir(off.images))) == (before, tree)
        assert is_running(off.hv, off.name) == runs
        return
    assert done.get("changed"), done
    assert done["actions"] == predicted["actions"]
    assert is_running(off.hv, off.name) == runs
    assert off.contents() == wanted
    (disk, _data) = done["disks"]
    assert disk["path"] == off.top()
    assert disk["backing_file"] == str(off.images / "vm.qcow2")
    assert Path(disk["path"]).name.startswith("vm."), "libvirt's overlay, BASE.EPOCH, is named"
    assert at_rest(Path(disk["path"])) == (4321, 4321, 0o640)
    assert leftovers(off.hv, off.name, off.images) == []
    if not runs:
        assert not run_module(MODULE, asked)["changed"]
    assert off.run(snapshot="s", state="absent")["changed"]
    assert off.contents() == wanted
    assert off.top() == str(off.images / "vm.qcow2")


# Elsewhere


def test_a_hypervisor_that_does_not_change_owners_can_take_and_merge_snapshots() -> None:
    user = pwd.getpwnam("libvirt-qemu")
    with Hypervisor(Path(tempfile.gettempdir()), f"static-{os.getpid()}", dynamic_ownership=False) as static:
        source = make_image(static.images / "vm.raw")
        os.chown(source, user.pw_uid, user.pw_gid)
        source.chmod(0o600)
        static.define(static.domain_xml("vm", [Disk(source)], kernel=False))
        params = {"name": "vm", "uri": static.uri}
        assert run_module(MODULE, {**params, "snapshot": "off"}).get("changed")
        static.start("vm")
        for asked in (
            {"snapshot": "on"},
            {"snapshot": "off", "state": "absent"},
            {"snapshot": "on", "state": "absent"},
        ):
            done = run_module(MODULE, {**params, **asked})
            assert done.get("changed"), done
            for path in static.images.iterdir():
                status = path.stat()
                assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (user.pw_uid, user.pw_gid, 0o600)
        assert os.listdir(static.images) == ["vm.raw"]
        static.remove("vm")


def test_a_playbook_shows_how_far_a_merge_is(off: Machine, ground: Playground) -> None:
    off.hv.start(off.name)
    off.run(snapshot="s", disks=["vdb"])
    task = {f"kvmops.disk.{MODULE}": {"name": off.name, "snapshot": "s", "state": "absent"}, "register": "done"}
    run = ground.play(task)
    assert {(line["subject"], line["verb"]) for line in run.lines()} == {(f"{off.name} vdb", "merge")}
    assert percents(run, "here", "merge")[-1] == 100
    assert run.result("done")["removed"] == ["s"]
