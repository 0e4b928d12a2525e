# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""vm_disk_snapshot killed and disturbed, live and offline: the disk reads the same, and the next run finishes."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import libvirt
import pytest
from lab import Disk, Hypervisor, run_module
from lab.fixtures import MakeDomain
from lab.module import RunningModule
from support.cramped import cramped, fill
from support.injection import Share, constants, in_shares, killed_at, paused_at, points, signalled_at, signalled_during
from support.scene import (
    can_revert,
    chain_of,
    content,
    definition,
    disk_of,
    image_chain,
    is_running,
    leftovers,
    make_image,
    qemu_img,
    snapshot_xmls,
)
from support.waits import HELD, send, wait_for

MODULE = "vm_disk_snapshot"
ACTIVE = libvirt.VIR_DOMAIN_BLOCK_COMMIT_ACTIVE


class Machine:
    """A domain with a qcow2 and a raw disk, and what must hold of it whatever happens."""

    def __init__(self, hv: Hypervisor, images: Path, name: str) -> None:
        self.hv, self.images, self.name = hv, images, name
        self.params: dict[str, Any] = {"name": name, "uri": hv.uri}
        self.make_images()
        disks = [Disk(images / "vm.qcow2", "qcow2"), Disk(images / "data.raw", target="vdb")]
        hv.define(hv.domain_xml(name, disks, kernel=False))
        self.definition = definition(hv, name)
        self.contents: list[str] = []
        self.prepared: dict[tuple[str, ...], tuple[Path, str, dict[str, str]]] = {}
        self.process = 0

    def make_images(self) -> None:
        for path in self.images.iterdir():
            path.unlink()
        make_image(self.images / "vm.qcow2", "qcow2", mib=1)
        make_image(self.images / "data.raw", mib=1)

    def prepare(self, *snapshots: str, start: bool) -> None:
        """The domain as it was made, with SNAPSHOTS, between which something was written to both disks."""
        with self.domain() as domain:
            with contextlib.suppress(libvirt.libvirtError):
                domain.destroy()
            for snapshot in domain.listAllSnapshots(0):
                snapshot.delete(libvirt.VIR_DOMAIN_SNAPSHOT_DELETE_METADATA_ONLY)
        if snapshots in self.prepared:
            self._restore(*self.prepared[snapshots])
        else:
            self.hv.define(self.definition)
            self.make_images()
            for number, name in enumerate(snapshots):
                done = run_module(MODULE, {**self.params, "snapshot": name})
                assert done.get("changed"), done
                self.write(number + 1)
            self.contents = self.read()
            kept = Path(tempfile.mkdtemp(dir=self.images.parent))
            subprocess.run(["cp", "-a", f"{self.images}/.", kept], check=True)
            self.prepared[snapshots] = kept, definition(self.hv, self.name), snapshot_xmls(self.hv, self.name)
        if start:
            self.start()

    def _restore(self, kept: Path, xml: str, snapshots: dict[str, str]) -> None:
        for path in self.images.iterdir():
            path.unlink()
        subprocess.run(["cp", "-a", f"{kept}/.", self.images], check=True)
        self.hv.define(xml)
        with self.domain() as domain:
            for _name, snapshot in sorted(snapshots.items()):
                flags = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REDEFINE | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_CURRENT
                domain.snapshotCreateXML(snapshot, flags)

    def start(self) -> None:
        self.hv.start(self.name)
        self.process = self.hv.qemu_pid(self.name)

    def write(self, number: int) -> None:
        for target in ("vda", "vdb"):
            path, image_format = disk_of(self.hv, self.name, target)
            what = f"write -P {number} {number}M {2 if target == 'vda' else 1}M"
            argv = ["qemu-io", "-f", image_format, "-c", what, path]
            subprocess.run(argv, check=True, capture_output=True)

    def read(self) -> list[str]:
        return [content(*disk_of(self.hv, self.name, target)) for target in ("vda", "vdb")]

    @contextlib.contextmanager
    def domain(self) -> Iterator[libvirt.virDomain]:
        with contextlib.closing(self.hv.connect()) as connection:
            yield connection.lookupByName(self.name)

    def destroy(self) -> None:
        with contextlib.suppress(libvirt.libvirtError), self.domain() as domain:
            domain.destroy()

    def is_merging(self) -> bool:
        with self.domain() as domain:
            return bool(domain.isActive() and domain.blockJobInfo("vda", 0))

    def begin(self, *, absence: float = 3600, **asked: Any) -> RunningModule:
        """A run in the middle of its first merge, which does not end by itself; libvirtd may be away for ABSENCE
        seconds."""
        params = {**self.params, "state": "absent", "bandwidth": HELD, **asked}
        limits = constants({"_libvirt.line": {"ABSENCE": absence}})
        point = "virDomainBlockCommit 1 > ask-blockJobInfo 1"
        with paused_at(point, params, module=MODULE, CONSTANTS=limits) as run:
            assert self.is_merging()
        return run

    def let_go(self, run: RunningModule) -> bool:
        """Whether RUN, of begin(), has ended; until then its merges go on as fast as they can."""
        with self.domain() as domain:
            for target in ("vda", "vdb"):
                with contextlib.suppress(libvirt.libvirtError):  # no job, or none yet
                    domain.blockJobSetSpeed(target, 0, 0)
        return run.process.poll() is not None

    def assert_settled(self, *snapshots: str) -> None:
        """SNAPSHOTS are there, and nothing else; the disks hold what they did, and everybody names the same images."""
        overlays = [f"{stem}.{name}.qcow2" for stem in ("data", "vm") for name in snapshots]
        assert sorted(os.listdir(self.images)) == sorted(["data.raw", "vm.qcow2", *overlays])
        assert set(snapshot_xmls(self.hv, self.name)) == set(snapshots)
        assert leftovers(self.hv, self.name, self.images) == []
        if is_running(self.hv, self.name):
            assert self.hv.qemu_pid(self.name) == self.process, "it is the same guest"
            assert not self.is_merging()
            assert chain_of(self.hv, self.name, live=True) == image_chain(disk_of(self.hv, self.name)[0], "qcow2")
        if not snapshots:
            assert definition(self.hv, self.name) == self.definition
        self.destroy()
        assert self.read() == self.contents

    def assert_converges(self, *snapshots: str, **asked: Any) -> dict[str, Any]:
        """The next run does the job, and the one after it has nothing to do."""
        done = run_module(MODULE, {**self.params, **asked})
        assert done.get("changed"), done
        again = run_module(MODULE, {**self.params, **asked})
        assert again.get("changed") is False, again
        self.assert_settled(*snapshots)
        return done


@pytest.fixture
def machine(hv: Hypervisor, images: Path, make_domain: MakeDomain) -> Iterator[Machine]:
    name = make_domain([], kernel=False).name
    hv.remove(name)
    machine = Machine(hv, images, name)
    yield machine
    for kept, _xml, _snapshots in machine.prepared.values():
        shutil.rmtree(kept)


# Killed


@dataclass(frozen=True)
class Way:
    """What is asked of which snapshots, and before what a run of it is killed."""

    there: tuple[str, ...]
    live: bool
    asked: dict[str, Any]
    points: str


MERGED = {"state": "absent", "keep": 0}
WAYS = {
    "take, live": Way(
        (),
        True,
        {"snapshot": "s"},
        "link 2,virDomainSnapshotCreateXML 1,virDomainSetMetadata 3,unlink 5",
    ),
    "take, offline": Way((), False, {"snapshot": "s"}, "link 1,virDomainDefineXMLFlags 1,unlink 3"),
    "merge two, live": Way(
        ("s1", "s2"),
        True,
        MERGED,
        "virDomainBlockCommit 2,virDomainSnapshotCreateXML 1,virDomainSnapshotDelete 1,unlink 2,"
        "virDomainBlockJobAbort 2,unlink 8",
    ),
    "merge two, offline": Way(
        ("s1", "s2"),
        False,
        MERGED,
        "qemu-img-rebase 1,virDomainDefineXMLFlags 1,unlink 3,qemu-img-commit 4,unlink 9",
    ),
}


@in_shares(2)
@pytest.mark.parametrize("name", WAYS)
def test_killed_at_any_point_the_next_run_finishes_the_job(machine: Machine, name: str, share: Share) -> None:
    way = WAYS[name]
    params = {**machine.params, **way.asked}
    left = ("s",) if "snapshot" in way.asked else ()
    machine.prepare(*way.there, start=way.live)
    log = machine.images.parent / f"{machine.name}.points"
    found = points(params, log, module=MODULE)
    log.unlink()
    machine.assert_settled(*left)
    chosen = [point for point in way.points.split(",") if point in found]
    assert len(chosen) >= 3, found
    for number, point in share.take(chosen):
        machine.prepare(*way.there, start=way.live)
        killed_at(point, params, children=bool(number % 2), module=MODULE)
        if not way.live:
            assert machine.read() == machine.contents, point
        again = run_module(MODULE, params)
        try:
            assert not again.get("failed"), again
            if number % 3 == 2:
                assert not run_module(MODULE, params)["changed"]
            machine.assert_settled(*left)
        except AssertionError as error:
            raise AssertionError(f"after a kill before {point}, then {again.get('actions')}: {error}") from error


def test_the_merge_of_a_killed_run_goes_on_and_is_waited_for(machine: Machine) -> None:
    machine.prepare("s", start=True)
    machine.begin(snapshot="s").kill()
    assert machine.is_merging()
    for module, asked in {
        "vm_disk_convert": {"disk": "vda", "format": "raw", "dest": str(machine.images / "new.raw")},
        "vm_disk_flatten": {"disk": "vda"},
        "vm_disk_resize": {"disk": "vda", "size": "16M"},
    }.items():
        refused = run_module(module, {**machine.params, **asked})
        assert "a run (disk-snapshot vda, vdb) was interrupted on it" in refused["msg"], refused
        assert "run vm_disk_snapshot on" in refused["msg"]
        assert refused["interrupted"]["verb"] == "disk-snapshot"
    assert machine.is_merging()
    done = machine.assert_converges(state="absent", snapshot="s")
    assert done["actions"][0].startswith("finish merging ")


def test_whatever_the_next_run_wants_it_finishes_the_merge_first(machine: Machine) -> None:
    """The image below is not any more what the snapshot kept."""
    machine.prepare("s1", "s2", start=True)
    machine.begin(snapshot="s1").kill()
    done = run_module(MODULE, {**machine.params, "snapshot": "s1"})
    assert done.get("changed"), done
    assert done["removed"] == ["s1"]
    assert done["actions"][0].startswith("finish merging ")
    assert done["actions"][-1].startswith("take the snapshot s1")
    machine.assert_settled("s1", "s2")


def test_what_a_killed_qemu_took_along_of_a_merge_is_merged_again(machine: Machine) -> None:
    """QEMU has the image above read the one below before that one's metadata is written: killed in between, it takes
    along what it merged. Here the image below is put back to what it was before."""
    machine.prepare("s1", "s2", start=True)
    below = machine.images / "vm.qcow2"
    before = below.read_bytes()
    params = {**machine.params, "state": "absent", "snapshot": "s1"}
    killed_at("virDomainSnapshotCreateXML 1", params, module=MODULE)
    machine.destroy()
    assert machine.read() == machine.contents
    assert (machine.images / "vm.s1.qcow2").exists()
    below.write_bytes(before)
    assert machine.read() != machine.contents, "a part is lost"
    machine.start()
    refused = run_module(MODULE, params)
    assert "lost a part of what was merged into it" in refused["msg"]
    assert "destroy the domain and run again" in refused["msg"]
    machine.destroy()
    done = machine.assert_converges("s2", state="absent", snapshot="s1")
    assert done["actions"][0].startswith(f"merge {machine.images}/vm.s1.qcow2 into {below} again: vda went off")
    assert not [action for action in done["actions"] if "data.raw again" in action], "that one has all"


def test_a_merge_that_lost_nothing_is_not_done_again(machine: Machine) -> None:
    machine.prepare("s1", "s2", start=True)
    killed_at("virDomainSnapshotCreateXML 1", {**machine.params, **MERGED}, module=MODULE)
    machine.destroy()
    machine.start()
    done = machine.assert_converges("s2", state="absent", snapshot="s1")
    assert not [action for action in done["actions"] if "again" in action]


def test_a_guest_that_goes_off_in_the_middle_keeps_its_content(machine: Machine) -> None:
    machine.prepare("s", start=True)
    run = machine.begin(snapshot="s")
    machine.destroy()
    failed = run.result()
    assert "went off" in failed["msg"]
    assert machine.read() == machine.contents
    machine.assert_converges(state="absent", snapshot="s")


def test_libvirtd_killed_in_the_middle_the_next_run_finishes_the_job(machine: Machine) -> None:
    machine.prepare("s1", "s2", start=True)
    run = machine.begin(snapshot="s1", absence=0)
    machine.hv.kill_libvirtd()
    failed = run.result()
    machine.hv.start_libvirtd()
    assert failed.get("failed"), failed
    machine.assert_converges("s2", state="absent", snapshot="s1")


@pytest.mark.parametrize("snapshot", ["s1", "s2"], ids=["below the guest's image", "the guest's image"])
def test_a_libvirtd_that_is_restarted_in_the_middle_is_waited_for(machine: Machine, snapshot: str) -> None:
    machine.prepare("s1", "s2", start=True)
    run = machine.begin(snapshot=snapshot)
    machine.hv.restart()
    assert machine.is_merging()
    wait_for(lambda: machine.let_go(run), "the end of the run")
    done = run.result()
    assert done.get("changed"), done
    asked = {"state": "absent", "snapshot": snapshot}
    assert run_module(MODULE, {**machine.params, **asked}).get("changed") is False
    machine.assert_settled({"s1": "s2", "s2": "s1"}[snapshot])


# Told to end, crossed, starved


def test_a_run_that_is_told_to_end_ends_its_merge_and_the_next_one_finishes_it(machine: Machine) -> None:
    machine.prepare("s", start=True)
    run = machine.begin(snapshot="s")
    send(run.pid, signal.SIGTERM)
    assert "interrupted by SIGTERM" in run.result()["msg"]
    assert not machine.is_merging()
    late = run_module(MODULE, {**machine.params, "state": "absent", "snapshot": "s", "bandwidth": HELD, "timeout": 1})
    assert "waited 1 s for the merge of vda" in late["msg"]
    assert not machine.is_merging()
    machine.assert_converges(state="absent", snapshot="s")


@pytest.mark.parametrize("point", ["virDomainSetMetadata 1", "virDomainBlockCommit 1"])
def test_a_run_that_is_told_to_end_while_libvirt_does_what_it_asked_for_ends_that(machine: Machine, point: str) -> None:
    machine.prepare("s", start=True)
    asked = {**machine.params, "state": "absent", "snapshot": "s"}
    told = signalled_during(point, "SIGTERM", {**asked, "bandwidth": HELD}, module=MODULE)
    assert "interrupted by SIGTERM" in told["msg"], told
    assert not machine.is_merging()
    machine.assert_converges(state="absent", snapshot="s")


def test_a_run_that_is_told_to_end_while_libvirt_takes_the_snapshot_is_finished_by_the_next_run(
    machine: Machine,
) -> None:
    for live in (False, True):
        machine.prepare(start=live)
        params = {**machine.params, "snapshot": "s"}
        told = signalled_during("virDomainSnapshotCreateXML 1", "SIGTERM", params, module=MODULE)
        assert "interrupted by SIGTERM" in told["msg"], told
        again = run_module(MODULE, params)
        assert not again.get("failed"), again
        machine.assert_settled("s")


def test_a_run_that_is_told_to_end_before_it_took_the_snapshot_undoes_everything(machine: Machine) -> None:
    for live in (False, True):
        machine.prepare(start=live)
        told = signalled_at(
            "virDomainSnapshotCreateXML 1", "SIGTERM", {**machine.params, "snapshot": "s"}, module=MODULE
        )
        assert "interrupted by SIGTERM" in told["msg"]
        machine.assert_settled()


def test_the_merge_of_somebody_else_is_left_alone(machine: Machine) -> None:
    machine.prepare("s", start=True)
    with machine.domain() as domain:
        flags = libvirt.VIR_DOMAIN_BLOCK_COMMIT_ACTIVE | libvirt.VIR_DOMAIN_BLOCK_COMMIT_BANDWIDTH_BYTES
        domain.blockCommit("vda", None, None, int(HELD), flags)
        refused = run_module(MODULE, {**machine.params, "state": "absent", "snapshot": "s"})
        assert "a block job runs on vda" in refused["msg"]
        assert machine.is_merging()
        domain.blockJobAbort("vda", 0)
    machine.assert_converges(state="absent", snapshot="s")


def test_another_merge_than_the_one_that_a_killed_run_began_is_left_alone(machine: Machine) -> None:
    """It died before the first; then somebody merges another image, the same one further down, or the guest's own."""
    params = {**machine.params, "state": "absent", "snapshot": "s2"}
    others = (("vm.s1.qcow2", "vm.qcow2", 0), ("vm.s2.qcow2", "vm.qcow2", 0), (None, None, ACTIVE))
    for top, base, active in others:
        machine.prepare("s1", "s2", "s3", start=True)
        killed_at("virDomainBlockCommit 1", params, module=MODULE)
        with machine.domain() as domain:
            paths = [str(machine.images / name) if name else None for name in (base, top)]
            domain.blockCommit("vda", *paths, int(HELD), active | libvirt.VIR_DOMAIN_BLOCK_COMMIT_BANDWIDTH_BYTES)
            refused = run_module(MODULE, params)
            assert "a block job runs on vda" in refused["msg"], top
            job = domain.blockJobInfo("vda", libvirt.VIR_DOMAIN_BLOCK_JOB_INFO_BANDWIDTH_BYTES)
            assert job["bandwidth"] == int(HELD), "nobody has touched it"
            domain.blockJobAbort("vda", 0)
        done = run_module(MODULE, params)
        assert done.get("changed"), done
        machine.assert_settled("s1", "s3")


def test_of_two_runs_at_once_one_takes_the_snapshot(machine: Machine) -> None:
    machine.prepare(start=False)
    params = {**machine.params, "snapshot": "s"}
    with paused_at("virDomainSnapshotCreateXML 1", params, module=MODULE) as run:
        other = run_module(MODULE, params)
        assert "another run works on a snapshot of vd" in other["msg"]
        assert other["operation"]["pid"] == run.pid
    assert run.result()["changed"]
    assert not run_module(MODULE, params)["changed"]
    machine.assert_settled("s")


def test_an_image_that_fills_its_file_system_keeps_the_disk_and_the_next_run_finishes(machine: Machine) -> None:
    """Only where the module looks: for libvirt, which changes no image of a domain that is off, all is as it was."""
    machine.prepare("s", start=False)
    aside = machine.images.rename(machine.images.with_name(f"{machine.images.name}-aside"))
    machine.images.mkdir(mode=0o711)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m,mode=0711", "tmpfs", machine.images], check=True)
    try:
        for path in aside.iterdir():
            subprocess.run(["cp", "-a", "--sparse=always", path, machine.images], check=True)
        params = {**machine.params, "state": "absent", "snapshot": "s"}
        with paused_at("qemu-img-commit 1", params, module=MODULE) as run:
            filler = machine.images / "filler"
            with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as stream:
                while stream.write(bytes(4096)):
                    pass
        failed = run.result()
        assert "the file system is full" in failed["msg"], failed
        filler.unlink()
        assert machine.read() == machine.contents
        machine.assert_converges(state="absent", snapshot="s")
    finally:
        subprocess.run(["umount", machine.images], check=True)
        machine.images.rmdir()
        aside.rename(machine.images)


def test_a_merge_below_a_guest_that_fills_the_file_system_keeps_the_disk_and_the_next_run_finishes() -> None:
    with cramped(16) as (hypervisor, images):
        machine = Machine(hypervisor, images, "vm")
        machine.prepare("s", start=False)
        kept = images / "filler"
        fill(kept)
        refused = run_module(MODULE, {**machine.params, "state": "absent", "snapshot": "s"})
        assert refused["required_bytes"] > refused["available_bytes"]
        kept.unlink()
        machine.start()
        run = machine.begin(snapshot="s")
        fill(kept)
        wait_for(lambda: machine.let_go(run), "the merge to end")
        failed = run.result()
        assert "its file system is full" in failed["msg"], failed
        assert is_running(hypervisor, "vm")
        kept.unlink()
        machine.assert_converges(state="absent", snapshot="s")


def test_a_way_back_that_was_killed_is_finished_and_the_domain_runs_again(machine: Machine) -> None:
    """On a libvirt that cannot go back, a run says so before it touches anything."""
    machine.prepare(start=False)
    before = machine.contents
    assert run_module(MODULE, {**machine.params, "snapshot": "s"}).get("changed")
    machine.write(5)
    machine.start()
    params = {**machine.params, "snapshot": "s", "state": "reverted"}
    if not can_revert(machine.hv):
        refused = run_module(MODULE, params)
        assert "needs 9.10 or newer" in refused["msg"]
        assert leftovers(machine.hv, machine.name, machine.images) == []
        return
    for point in ("virDomainRevertToSnapshot 1", "virDomainCreate 1", "virDomainSetMetadata 2"):
        killed_at(point, params, module=MODULE)
        done = run_module(MODULE, params)
        assert not done.get("failed"), done
        assert is_running(machine.hv, machine.name), point
        assert machine.read() == before
        assert leftovers(machine.hv, machine.name, machine.images) == []
    assert qemu_img("check", "-U", "-f", "qcow2", disk_of(machine.hv, machine.name)[0])
