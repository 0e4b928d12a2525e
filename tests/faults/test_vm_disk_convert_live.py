# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""vm_disk_convert below a running guest, killed and disturbed: the guest runs on, and a rerun finishes the job."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest
from lab import Disk, Hypervisor, run_module, start_module
from lab.fixtures import MakeDomain
from lab.module import RunningModule
from support.cramped import cramped, fill
from support.injection import (
    Share,
    constants,
    in_shares,
    killed_at,
    paused_at,
    points,
    signalled_at,
    signalled_during,
    wait_in,
)
from support.processes import is_gone
from support.scene import (
    RECORD,
    content,
    definition,
    disk_of,
    image_chain,
    is_running,
    leftovers,
    make_image,
    make_overlay,
    qemu_img,
)
from support.waits import HELD, be_late, send, wait_for

MODULE = "vm_disk_convert"


class Machine:
    """A running domain on a raw disk, and what must hold of it whatever happens."""

    def __init__(self, hv: Hypervisor, images: Path, name: str) -> None:
        self.hv, self.images, self.name = hv, images, name
        self.source, self.dest = images / "vm.raw", images / "vm.qcow2"
        self.params: dict[str, Any] = {"name": name, "disk": "vda", "uri": hv.uri}
        self.definition = definition(hv, name)
        self.content = content(self.source, "raw")
        self.process = hv.qemu_pid(name)

    @contextlib.contextmanager
    def domain(self) -> Iterator[libvirt.virDomain]:
        with contextlib.closing(self.hv.connect()) as connection:
            yield connection.lookupByName(self.name)

    def live(self) -> str:
        return definition(self.hv, self.name, 0)

    def is_copied(self) -> bool:
        return "<mirror" in self.live()

    def begin(self, *, absence: float = 3600, **more: Any) -> RunningModule:
        """A run in the middle of its copy, which does not end by itself; libvirtd may be away for ABSENCE seconds."""
        limits, params = constants({"_libvirt.line": {"ABSENCE": absence}}), {**self.params, "bandwidth": HELD, **more}
        with paused_at("virDomainBlockCopy 1 > ask-blockJobInfo 1", params, CONSTANTS=limits) as run:
            assert self.is_copied()
        return run

    def assert_same_guest(self) -> None:
        """It has not stopped, and both what it uses and what is defined are complete."""
        assert self.hv.qemu_pid(self.name) == self.process
        assert is_running(self.hv, self.name)
        path, image_format = disk_of(self.hv, self.name)
        assert content(path, image_format) == self.content
        assert f"<source file='{path}' index" in self.live()

    def assert_as_before(self, *files: str) -> None:
        self.assert_same_guest()
        assert definition(self.hv, self.name) == self.definition
        assert not self.is_copied()
        assert leftovers(self.hv, self.name, self.images) == []
        assert sorted(os.listdir(self.images)) == sorted(["vm.raw", *files])

    def assert_converted(self) -> None:
        path = str(self.dest)
        assert disk_of(self.hv, self.name) == (path, "qcow2")
        assert content(path, "qcow2") == self.content
        assert leftovers(self.hv, self.name, self.images) == []
        assert RECORD not in self.live() if is_running(self.hv, self.name) else True
        assert sorted(os.listdir(self.images)) == ["vm.qcow2", "vm.raw"]

    def assert_converges(self, **more: Any) -> dict[str, Any]:
        """The next run does the job, and the one after it has nothing to do."""
        done = run_module(MODULE, {**self.params, **more})
        assert done.get("changed"), done
        self.assert_converted()
        again = run_module(MODULE, {**self.params, **more})
        assert not again["changed"], again
        return done


def info(path: Path) -> str:
    return qemu_img("info", "-U", "--output=json", "-f", "qcow2", path)


@pytest.fixture
def machine(hv: Hypervisor, images: Path, make_domain: MakeDomain) -> Machine:
    name = make_domain([Disk(make_image(images / "vm.raw"))], kernel=False).name
    hv.start(name)
    return Machine(hv, images, name)


@in_shares(3)
def test_killed_at_any_point_the_guest_runs_on_and_the_next_run_finishes_the_job(
    machine: Machine, share: Share
) -> None:
    log = machine.images.parent / f"{machine.name}.points"
    every_point = points(machine.params, log)
    log.unlink()
    machine.assert_converted()
    machine.assert_same_guest()
    assert {"virDomainSetMetadata 1", "link 1", "virDomainBlockCopy 1", "virDomainBlockJobAbort 1"} <= set(every_point)
    for number, point in share.take(every_point):
        with contextlib.suppress(libvirt.libvirtError), machine.domain() as domain:
            domain.destroy()
        machine.hv.define(machine.definition)
        machine.dest.unlink()
        machine.hv.start(machine.name)
        machine.process = machine.hv.qemu_pid(machine.name)
        killed_at(point, machine.params, children=bool(number % 2))
        machine.assert_same_guest()
        again = run_module(MODULE, machine.params)
        try:
            assert not again.get("failed"), again
            machine.assert_same_guest()
            machine.assert_converted()
            assert not machine.is_copied()
            if number % 5 == 0:
                assert not run_module(MODULE, machine.params)["changed"]
        except AssertionError as error:
            raise AssertionError(f"after a kill before {point}, then {again.get('actions')}: {error}") from error


def test_the_copy_of_a_killed_run_goes_on_and_is_adopted(machine: Machine) -> None:
    machine.begin().kill()
    assert machine.is_copied()
    identity = machine.dest.stat().st_ino
    predicted = run_module(MODULE, machine.params, check=True)
    assert machine.is_copied()
    done = machine.assert_converges()
    assert done["actions"] == predicted["actions"]
    assert done["actions"][0].startswith("resume the copy of vda")
    assert machine.dest.stat().st_ino == identity
    machine.assert_same_guest()


def test_the_copy_of_a_killed_run_is_ended_where_another_place_is_wanted(machine: Machine) -> None:
    machine.begin().kill()
    other = machine.images / "other.qcow2"
    done = run_module(MODULE, {**machine.params, "dest": str(other)})
    assert done.get("changed"), done
    assert done["actions"][0].startswith(f"end the copy of vda to {machine.dest}")
    assert disk_of(machine.hv, machine.name) == (str(other), "qcow2")
    assert leftovers(machine.hv, machine.name, machine.images) == []
    assert sorted(os.listdir(machine.images)) == ["other.qcow2", "vm.raw"]
    machine.assert_same_guest()


@pytest.mark.parametrize(
    ("begun", "wanted", "is_so"),
    [
        ({}, {"cluster_size": "2M"}, lambda path: '"cluster-size": 2097152' in info(path)),
        ({"allocation": "lazy_zeroed_thick"}, {}, lambda path: path.stat().st_blocks * 512 < 8 << 20),
    ],
    ids=["cluster_size", "no preallocation"],
)
def test_the_copy_of_a_killed_run_is_ended_where_its_image_is_laid_out_otherwise_than_is_wanted_now(
    machine: Machine, begun: dict[str, Any], wanted: dict[str, Any], is_so: Callable[[Path], bool]
) -> None:
    machine.begin(**begun).kill()
    predicted = run_module(MODULE, {**machine.params, **wanted}, check=True)
    done = machine.assert_converges(**wanted)
    assert done["actions"] == predicted["actions"]
    assert [action.split(" of ")[0].split(", ")[0] for action in done["actions"]][:3] == [
        "end the copy",
        f"remove {machine.dest}",
        "copy vda",
    ]
    assert is_so(machine.dest)
    machine.assert_same_guest()


def test_the_copy_of_a_killed_run_is_ended_where_it_keeps_or_loses_a_chain_that_is_wanted_otherwise(
    hv: Hypervisor, images: Path, make_domain: MakeDomain
) -> None:
    base = make_image(images / "base.raw", mib=4)
    top = make_overlay(images / "vm.qcow2", base)
    name = make_domain([Disk(top, "qcow2")], kernel=False).name
    hv.start(name)
    seen = content(top, "qcow2")
    params = {"name": name, "disk": "vda", "uri": hv.uri}
    for number, (begun, wanted) in enumerate([(False, True), (True, False)]):
        dest = images / f"new-{number}.qcow2"
        run = start_module(MODULE, {**params, "dest": str(dest), "shallow": begun, "bandwidth": HELD})
        wait_in(run, lambda: "<mirror" in definition(hv, name, 0), "the copy")
        run.kill()
        done = run_module(MODULE, {**params, "dest": str(dest), "shallow": wanted})
        assert done["actions"][0].startswith(f"end the copy of vda to {dest}"), done
        assert image_chain(dest, "qcow2") == ([str(base)] if wanted else [])
        assert content(dest, "qcow2") == seen
        assert leftovers(hv, name, images) == []


def test_the_copy_to_a_block_device_of_a_killed_run_goes_on_only_where_such_a_device_is_meant(
    machine: Machine, tmp_path: Path
) -> None:
    backing = tmp_path / "device"
    backing.write_bytes(b"")
    os.truncate(backing, 8 << 20)
    losetup = ["losetup", "--find", "--show", str(backing)]
    device = subprocess.run(losetup, check=True, capture_output=True, text=True).stdout.strip()
    try:
        wanted: dict[str, Any] = {"dest": device, "format": "raw"}
        machine.begin(**wanted, block_device=True).kill()
        refused = run_module(MODULE, {**machine.params, **wanted})
        assert "is a block device, whose content would be overwritten" in refused["msg"]
        machine.assert_as_before()
        machine.begin(**wanted, block_device=True).kill()
        done = run_module(MODULE, {**machine.params, **wanted, "block_device": True})
        assert done["actions"][0].startswith("resume the copy of vda"), done
        assert machine.hv.qemu_pid(machine.name) == machine.process
        assert f"<source dev='{device}'/>" in definition(machine.hv, machine.name)
    finally:
        machine.hv.remove(machine.name)
        subprocess.run(["losetup", "--detach", device], check=True)


def test_the_copy_of_a_killed_run_is_ended_where_the_disk_is_wanted_as_it_is(machine: Machine) -> None:
    machine.begin().kill()
    params = {**machine.params, "format": "raw"}
    assert run_module(MODULE, params)["changed"]
    machine.assert_as_before()
    assert not run_module(MODULE, params)["changed"]


def test_the_copy_of_a_killed_run_is_ended_where_the_next_wish_is_refused(machine: Machine) -> None:
    machine.begin().kill()
    refused = run_module(MODULE, {**machine.params, "dest": str(machine.images / "missing" / "vm.qcow2")})
    assert "does not exist" in refused["msg"]
    machine.assert_as_before()


def test_a_copy_that_still_has_its_run_is_left_alone(machine: Machine) -> None:
    run = machine.begin()
    refused = run_module(MODULE, {**machine.params, "dest": str(machine.images / "other.qcow2")})
    assert "another run converts vda" in refused["msg"]
    assert machine.is_copied()
    run.kill()
    machine.assert_converges()


@pytest.mark.parametrize(
    ("name", "point"),
    [
        ("SIGTERM", "virDomainSetMetadata 1"),
        ("SIGHUP", "qemu-img-create 1"),
        ("SIGINT", "virDomainBlockCopy 1"),
        ("SIGTERM", "virDomainBlockJobAbort 1"),
    ],
)
def test_a_run_that_is_told_to_end_ends_its_copy_and_removes_it(machine: Machine, point: str, name: str) -> None:
    told = signalled_at(point, name, machine.params)
    assert told.get("failed"), told
    assert f"interrupted by {name}" in told["msg"]
    machine.assert_as_before()


@pytest.mark.parametrize("point", ["virDomainSetMetadata 1", "virDomainBlockCopy 1"])
def test_a_run_that_is_told_to_end_while_libvirt_does_what_it_asked_for_undoes_that(
    machine: Machine, point: str
) -> None:
    told = signalled_during(point, "SIGTERM", {**machine.params, "bandwidth": HELD})
    assert "interrupted by SIGTERM" in told["msg"], told
    machine.assert_as_before()


def test_a_run_that_is_told_to_end_while_libvirt_pivots_is_finished_by_the_next_run(machine: Machine) -> None:
    told = signalled_during("virDomainBlockJobAbort 1", "SIGTERM", machine.params)
    assert "interrupted by SIGTERM" in told["msg"], told
    machine.assert_same_guest()
    assert not run_module(MODULE, machine.params).get("failed")
    machine.assert_converted()
    machine.assert_same_guest()


def test_a_run_that_is_told_to_end_in_the_middle_of_the_copy_undoes_everything(machine: Machine) -> None:
    run = machine.begin()
    send(run.pid, signal.SIGINT)
    told = run.result()
    assert "interrupted by SIGINT" in told["msg"]
    machine.assert_as_before()


def test_after_the_death_of_libvirtd_in_the_middle_of_the_copy_the_next_run_adopts_it(machine: Machine) -> None:
    run = machine.begin(absence=0)
    machine.hv.kill_libvirtd()
    try:
        failed = run.result()
    finally:
        machine.hv.start_libvirtd()
    assert failed.get("failed"), failed
    assert "went away, and was not back" in failed["msg"]
    machine.assert_same_guest()
    assert machine.is_copied()
    done = machine.assert_converges()
    assert done["actions"][0].startswith("resume the copy")
    machine.assert_same_guest()


@pytest.mark.parametrize("how", ["restarted", "killed, and away for a while"])
def test_a_libvirtd_that_comes_back_in_the_middle_of_the_copy_is_waited_for(machine: Machine, how: str) -> None:
    run = machine.begin()
    if how == "restarted":
        machine.hv.restart()
    else:
        machine.hv.kill_libvirtd()
        be_late()
        machine.hv.start_libvirtd()
    assert machine.is_copied()
    with machine.domain() as domain:
        domain.blockJobSetSpeed("vda", 0, 0)
    done = run.result()
    assert done.get("changed"), done
    machine.assert_converted()
    machine.assert_same_guest()
    assert not run_module(MODULE, machine.params)["changed"]


def test_a_libvirtd_that_is_restarted_right_before_the_pivot_still_makes_it(machine: Machine) -> None:
    with paused_at("virDomainBlockJobAbort 1", machine.params) as run:
        machine.hv.restart()
    done = run.result()
    assert done.get("changed"), done
    machine.assert_converted()
    machine.assert_same_guest()


def test_a_source_whose_owner_libvirt_forgets_meanwhile_gets_it_back(
    hv: Hypervisor, images: Path, make_domain: MakeDomain
) -> None:
    """libvirt 9.0 does where virt-aa-helper fails: with AppArmor the old image stays QEMU's."""
    source = make_image(images / "vm.raw")
    os.chown(source, 4321, 4321)
    name = make_domain([Disk(source)], kernel=False).name
    hv.start(name)
    assert os.stat(source).st_uid != 4321
    machine = Machine(hv, images, name)
    with paused_at("virDomainBlockJobAbort 1", machine.params) as run:
        for attribute in os.listxattr(source):
            os.removexattr(source, attribute)
    done = run.result()
    assert done.get("changed"), done
    assert "warnings" not in done
    assert (os.stat(source).st_uid, os.stat(source).st_gid) == (4321, 4321)
    machine.assert_converted()


def test_the_new_image_has_the_label_that_the_old_one_has_while_no_guest_runs_on_it(machine: Machine) -> None:
    """Without SELinux in the lab's kernel its file systems keep labels all the same, and this libvirt leaves them."""
    at_rest, running = (
        f"system_u:object_r:{label}\0".encode() for label in ("virt_image_t:s0", "svirt_image_t:s0:c1,c7")
    )
    os.setxattr(machine.source, "security.selinux", running)
    os.setxattr(machine.source, "trusted.libvirt.security.selinux", at_rest.rstrip(b"\0"))
    assert run_module(MODULE, machine.params).get("changed")
    assert os.getxattr(machine.dest, "security.selinux") == at_rest
    machine.assert_converted()


def test_a_guest_that_is_destroyed_in_the_middle_of_the_copy_has_its_old_disk(machine: Machine) -> None:
    run = machine.begin()
    with machine.domain() as domain:
        domain.destroy()
    failed = run.result()
    assert "went off" in failed["msg"]
    assert definition(machine.hv, machine.name) == machine.definition
    assert leftovers(machine.hv, machine.name, machine.images) == []
    assert os.listdir(machine.images) == ["vm.raw"]
    machine.assert_converges()
    assert not is_running(machine.hv, machine.name)


@pytest.mark.parametrize("back", ["off", "running"])
def test_after_the_host_went_down_in_the_middle_of_the_copy_the_next_run_begins_anew(
    machine: Machine, back: str
) -> None:
    """Everything is killed, then started again; what was copied so far is worth nothing."""
    run = machine.begin()
    machine.hv.kill_libvirtd()
    run.kill()
    send(machine.process, signal.SIGKILL)
    wait_for(lambda: is_gone(machine.process), "the end of QEMU")
    machine.hv.start_libvirtd()
    assert not is_running(machine.hv, machine.name)
    assert content(machine.source, "raw") == machine.content
    if back == "running":
        machine.hv.start(machine.name)
    done = machine.assert_converges()
    assert done["disks"][0]["mode"] == {"off": "offline", "running": "live"}[back]
    assert is_running(machine.hv, machine.name) == (back == "running")


def test_a_foreign_copy_is_refused_and_goes_on(machine: Machine) -> None:
    foreign = machine.images / "foreign.raw"
    with machine.domain() as domain:
        xml = f"<disk type='file'><source file='{foreign}'/><driver type='raw'/></disk>"
        limit = {libvirt.VIR_DOMAIN_BLOCK_COPY_BANDWIDTH: int(HELD)}
        domain.blockCopy("vda", xml, limit, libvirt.VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB)
        refused = run_module(MODULE, machine.params)
        assert "a block job runs on vda" in refused["msg"]
        assert str(foreign) in machine.live()
        assert machine.is_copied()
        domain.blockJobAbort("vda", 0)


def test_a_foreign_copy_to_the_place_of_a_dead_run_is_refused_and_goes_on(machine: Machine) -> None:
    """A dead run left its record; then somebody began another copy by hand."""
    killed_at("virDomainBlockCopy 1", machine.params)
    foreign = machine.images / "foreign.raw"
    with machine.domain() as domain:
        xml = f"<disk type='file'><source file='{foreign}'/><driver type='raw'/></disk>"
        limit = {libvirt.VIR_DOMAIN_BLOCK_COPY_BANDWIDTH: int(HELD)}
        domain.blockCopy("vda", xml, limit, libvirt.VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB)
        refused = run_module(MODULE, machine.params)
        assert "a block job runs on vda" in refused["msg"]
        assert machine.is_copied()
        domain.blockJobAbort("vda", 0)
    foreign.unlink()
    machine.assert_converges()


def test_a_file_system_that_fills_up_in_the_middle_of_the_copy_ends_it() -> None:
    with cramped(6) as (hypervisor, small):
        image = make_image(small.parent / "vm.raw")
        hypervisor.define(hypervisor.domain_xml("vm", [Disk(image)], kernel=False))
        hypervisor.start("vm")
        machine = Machine(hypervisor, image.parent, "vm")
        with paused_at("virDomainBlockCopy 1", {**machine.params, "dest_dir": str(small)}) as run:
            fill(small / "filler")
        failed = run.result()
        assert failed.get("failed"), failed
        assert "its file system is full" in failed["msg"]
        assert os.listdir(small) == ["filler"]
        machine.assert_as_before("small")


def test_an_edit_of_the_definition_in_the_middle_of_the_copy_is_kept(machine: Machine) -> None:
    with paused_at("virDomainBlockJobAbort 1", machine.params) as run:
        changed = definition(machine.hv, machine.name).replace("placement='static'>1<", "placement='static'>2<")
        machine.hv.define(changed)
    assert run.result()["changed"]
    assert ">2</vcpu>" in definition(machine.hv, machine.name)
    machine.assert_converted()


def test_another_disk_in_the_definition_in_the_middle_of_the_copy_ends_it(machine: Machine) -> None:
    other = make_image(machine.images / "other.raw")
    run = machine.begin()
    machine.hv.define(definition(machine.hv, machine.name).replace(str(machine.source), str(other)))
    with machine.domain() as domain:
        domain.blockJobSetSpeed("vda", 0, 0)
    failed = run.result()
    assert "was changed in the definition in the meantime" in failed["msg"]
    assert disk_of(machine.hv, machine.name) == (str(other), "raw")
    assert not machine.is_copied()
    assert not machine.dest.exists()


def test_a_domain_that_is_undefined_in_the_middle_of_the_copy_keeps_its_old_disk(machine: Machine) -> None:
    run = machine.begin()
    with machine.domain() as domain:
        domain.undefine()
        with contextlib.suppress(libvirt.libvirtError):
            domain.blockJobSetSpeed("vda", 0, 0)
        failed = run.result()
        assert "was undefined in the meantime" in failed["msg"]
        assert not machine.dest.exists()
        assert not machine.is_copied()
        assert str(machine.source) in machine.live()
        machine.hv.define(machine.definition)
    machine.assert_as_before()


def test_a_copy_that_takes_too_long_is_ended_and_says_so(machine: Machine) -> None:
    failed = run_module(MODULE, {**machine.params, "bandwidth": HELD, "copy_timeout": 1})
    assert "waited 1 s for the copy of vda to" in failed["msg"]
    machine.assert_as_before()


def test_a_guest_that_goes_on_with_its_new_disk_keeps_it_when_the_run_dies_before_the_source_goes(
    machine: Machine,
) -> None:
    params = {**machine.params, "keep_source": False}
    killed_at("virDomainBlockJobAbort 1", params)
    with machine.domain() as domain:
        domain.blockJobAbort("vda", libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT)
    done = run_module(MODULE, params)
    assert not done.get("failed"), done
    machine.assert_same_guest()
    assert os.listdir(machine.images) == ["vm.qcow2"]
    assert leftovers(machine.hv, machine.name, machine.images) == []
    assert not run_module(MODULE, params)["changed"]
