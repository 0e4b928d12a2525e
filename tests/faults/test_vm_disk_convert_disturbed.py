# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""vm_disk_convert disturbed in the middle: signals, full disks, other runs, other people, a libvirtd that dies."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest
from lab import Disk, Hypervisor, run_module, start_module
from lab.fixtures import MakeDomain
from lab.tree import file_digest
from support.held_qemu_img import HeldQemuImg
from support.injection import GONE, at_once, killed_at, paused_at, signalled_at, signalled_during, wait_in
from support.processes import is_gone
from support.scene import (
    RECORD,
    content,
    definition,
    disk_of,
    is_running,
    leftovers,
    make_image,
    make_overlay,
)
from support.waits import send, wait_for
from support.withheld import between

MODULE = "vm_disk_convert"


class Machine:
    """A domain on a raw disk, and what must hold of it."""

    def __init__(self, hv: Hypervisor, images: Path, name: str) -> None:
        self.hv, self.images, self.name = hv, images, name
        self.source, self.dest = images / "vm.raw", images / "vm.qcow2"
        self.params: dict[str, Any] = {
            "name": name,
            "disk": "vda",
            "uri": hv.uri,
            "mode": "offline",
            "shutdown": "force",
        }
        self.definition = definition(hv, name)
        self.content = content(self.source, "raw")
        self.was_running = is_running(hv, name)

    def assert_as_before(self, *files: str) -> None:
        """Nothing happened: the definition, the source, whether it runs; beside it there are just FILES."""
        assert definition(self.hv, self.name) == self.definition
        assert content(self.source, "raw") == self.content
        assert is_running(self.hv, self.name) == self.was_running
        assert leftovers(self.hv, self.name, self.images) == []
        assert sorted(os.listdir(self.images)) == sorted(["vm.raw", *files])

    def assert_converts(self) -> None:
        """The next run does the job, and the one after it has nothing to do."""
        done = run_module(MODULE, self.params)
        assert done.get("changed"), done
        self.assert_converted()
        assert not run_module(MODULE, self.params)["changed"]

    def assert_converted(self) -> None:
        assert disk_of(self.hv, self.name) == (str(self.dest), "qcow2")
        assert content(self.dest, "qcow2") == self.content
        assert is_running(self.hv, self.name) == self.was_running
        assert leftovers(self.hv, self.name, self.images) == []


@pytest.fixture
def running(hv: Hypervisor, images: Path, make_domain: MakeDomain) -> Machine:
    name = make_domain([Disk(make_image(images / "vm.raw"))], kernel=False).name
    hv.start(name)
    return Machine(hv, images, name)


@pytest.fixture
def off(hv: Hypervisor, images: Path, make_domain: MakeDomain) -> Machine:
    return Machine(hv, images, make_domain([Disk(make_image(images / "vm.raw"))], kernel=False).name)


@contextlib.contextmanager
def domain_of(machine: Machine) -> Iterator[libvirt.virDomain]:
    with contextlib.closing(machine.hv.connect()) as connection:
        yield connection.lookupByName(machine.name)


# Told to end


@pytest.mark.parametrize(
    ("name", "point"),
    [
        ("SIGTERM", "virDomainSetMetadata 1"),
        ("SIGTERM", "qemu-img-convert 1"),
        ("SIGINT", "link 1"),
        ("SIGHUP", "virDomainDefineXMLFlags 1"),
        ("SIGTERM", "virDomainCreate 1"),
    ],
)
def test_a_run_that_is_told_to_end_undoes_everything_at_once(running: Machine, point: str, name: str) -> None:
    told = signalled_at(point, name, running.params)
    assert told.get("failed"), told
    assert f"interrupted by {name}" in told["msg"]
    running.assert_as_before()


def test_a_run_that_is_told_to_end_while_the_guest_shuts_down_starts_it_again(
    hv: Hypervisor, images: Path, make_domain: MakeDomain
) -> None:
    make_image(images / "vm.raw")
    guest = make_domain([Disk(images / "vm.raw")], start=True)
    machine = Machine(hv, images, guest.name)
    asked = {**machine.params, "shutdown": "graceful"}
    with paused_at("virDomainShutdown 1 > virDomainIsActive 1", asked) as run:
        wait_for(lambda: not is_running(hv, guest.name), "the guest goes off")
        send(run.pid, signal.SIGTERM)
    told = run.result()
    assert told.get("failed"), told
    assert "interrupted by SIGTERM" in told["msg"]
    machine.assert_as_before()
    guest.wait_ready()


@pytest.mark.parametrize("point", ["virDomainSetMetadata 1", "virDomainDestroy 1", "virDomainDefineXMLFlags 1"])
def test_a_run_that_is_told_to_end_while_libvirt_does_what_it_asked_for_undoes_that(
    running: Machine, point: str
) -> None:
    told = signalled_during(point, "SIGTERM", running.params)
    assert "interrupted by SIGTERM" in told["msg"], told
    running.assert_as_before()


@pytest.mark.parametrize("runs", [True, False], ids=["running", "off"])
def test_a_run_that_is_told_to_end_once_the_new_disk_is_in_use_undoes_nothing(running: Machine, runs: bool) -> None:
    """The source is to go next: it may be gone, so there is no way back."""
    machine = running
    params = {**machine.params, "keep_source": False, "restart": runs}
    told = signalled_at("unlink 2", "SIGTERM", params)
    assert "or is finished by the next run" in told["msg"]
    machine.was_running = runs
    assert is_running(machine.hv, machine.name) == runs
    assert disk_of(machine.hv, machine.name) == (str(machine.dest), "qcow2")
    assert content(machine.dest, "qcow2") == machine.content
    assert run_module(MODULE, params)["changed"]
    machine.assert_converted()
    assert os.listdir(machine.images) == ["vm.qcow2"]


# A disk that fills up, a qemu-img that dies


def test_a_disk_that_fills_up_midway_leaves_everything_as_it_was(running: Machine) -> None:
    small = running.images / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m,mode=0711", "tmpfs", small], check=True)
    try:
        with paused_at("qemu-img-convert 1", {**running.params, "dest_dir": str(small)}) as run:
            assert any(".kvmops" in path.name for path in small.iterdir()), "it has begun"
            (small / "somebody's").write_bytes(bytes(7 << 20))
        failed = run.result()
        assert failed.get("failed"), failed
        assert "the file system is full" in failed["msg"]
        assert os.listdir(small) == ["somebody's"]
        running.assert_as_before("small")
    finally:
        subprocess.run(["umount", small], check=True)
    running.assert_converts()


def test_a_copy_that_differs_is_not_used(running: Machine) -> None:
    with paused_at("qemu-img-compare 1", running.params) as run:
        (copy,) = running.images.glob(".*.kvmops.d/*/vm.qcow2")
        subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -P 1 4k 512", copy], check=True, capture_output=True)
    failed = run.result()
    assert failed.get("failed"), failed
    assert f"vm.qcow2: the new image has other content than {running.source}" in failed["msg"]
    running.assert_as_before()


@pytest.fixture
def large(hv: Hypervisor, images: Path, make_domain: MakeDomain) -> Machine:
    """A domain whose disk is more than what qemu-img copies at once."""
    source = make_image(images / "vm.raw", mib=20, size_mib=24)
    return Machine(hv, images, make_domain([Disk(source)], kernel=False).name)


@pytest.mark.parametrize("verb", ["convert", "compare"])
def test_a_qemu_img_that_is_killed_leaves_everything_as_it_was(large: Machine, verb: str, tmp_path: Path) -> None:
    held = HeldQemuImg(tmp_path, verb, 25)
    run = start_module(MODULE, large.params, python=held.python())
    (qemu_img,) = held.wait()
    send(qemu_img, signal.SIGKILL)
    failed = run.result()
    assert failed.get("failed"), failed
    assert f"qemu-img {verb} was ended by SIGKILL" in failed["msg"]
    large.assert_as_before()


def test_a_qemu_img_does_not_outlive_a_module_that_is_killed(large: Machine, tmp_path: Path) -> None:
    held = HeldQemuImg(tmp_path, "convert", 25)
    run = start_module(MODULE, large.params, python=held.python())
    (qemu_img,) = held.wait()
    run.kill(children=False)
    wait_for(lambda: is_gone(qemu_img), "qemu-img ends")
    large.assert_converts()


# Other runs and other people


def test_of_two_runs_at_once_one_converts(running: Machine) -> None:
    results = at_once(MODULE, *[running.params] * 2)
    changed = [result for result in results if result.get("changed")]
    assert len(changed) == 1, results
    (other,) = (result for result in results if not result.get("changed"))
    assert not other.get("failed") or "another run" in other["msg"], other
    running.assert_converted()
    assert not run_module(MODULE, running.params)["changed"]


def test_a_run_beside_one_that_lasts_says_so(running: Machine) -> None:
    with paused_at("qemu-img-compare 1", running.params) as run:
        other = run_module(MODULE, running.params)
        assert other.get("failed"), other
        assert "another run converts vda" in other["msg"]
        assert str(run.pid) in other["msg"]
        assert other["operation"]["pid"] == run.pid
    assert run.result()["changed"]
    running.assert_converted()


def test_a_domain_that_somebody_starts_in_the_middle_loses_nothing(off: Machine) -> None:
    with paused_at("virDomainDefineXMLFlags 1", off.params) as run:
        off.hv.start(off.name)
    failed = run.result()
    assert failed.get("failed"), failed
    assert "was written to" in failed["msg"] or "was started" in failed["msg"]
    with domain_of(off) as domain:
        domain.destroy()
    off.assert_as_before()
    off.assert_converts()


def test_what_a_guest_wrote_in_the_middle_is_not_lost(off: Machine) -> None:
    """Somebody starts the domain, its guest writes, and it goes off again, all between the copy and the definition."""
    with paused_at("link 1", off.params) as run, open(off.source, "r+b") as disk:
        disk.write(b"written by the guest")
    failed = run.result()
    assert failed.get("failed"), failed
    assert "was written to while it was converted" in failed["msg"]
    off.content = content(off.source, "raw")
    off.assert_as_before()
    off.assert_converts()


def test_a_file_that_appears_at_the_destination_is_left_alone(running: Machine) -> None:
    with paused_at("link 1", running.params) as run:
        running.dest.write_text("somebody's file")
    failed = run.result()
    assert failed.get("failed"), failed
    assert "a file appeared here in the meantime" in failed["msg"]
    assert running.dest.read_text() == "somebody's file"
    running.assert_as_before("vm.qcow2")


def test_a_change_of_the_definition_in_the_middle_is_kept(off: Machine) -> None:
    with paused_at("qemu-img-compare 1", off.params) as run:
        changed = definition(off.hv, off.name).replace("<vcpu placement='static'>1<", "<vcpu placement='static'>2<")
        off.hv.define(changed)
    assert run.result()["changed"]
    assert ">2</vcpu>" in definition(off.hv, off.name)
    off.assert_converted()


# What a dead run left, and a task that asks for something else


def test_a_domain_that_a_dead_run_had_stopped_runs_again_even_if_the_next_wish_is_refused(running: Machine) -> None:
    killed_at("qemu-img-convert 1", running.params)
    assert not is_running(running.hv, running.name)
    refused = run_module(MODULE, {**running.params, "dest": str(running.images / "missing" / "vm.qcow2")})
    assert "does not exist" in refused["msg"]
    running.assert_as_before()


def test_what_stood_in_the_way_may_go_while_a_run_looks_again(running: Machine) -> None:
    """The first look finds the wish refused and a dead run to settle, the second, under the lock, nothing refused."""
    killed_at("qemu-img-convert 1", {**running.params, "dest": str(running.images / "first.qcow2")})
    running.dest.write_text("somebody's file")
    with paused_at("record 1", running.params) as run:
        running.dest.unlink()
    done = run.result()
    assert done.get("changed"), done
    running.assert_converted()


def test_check_mode_leaves_to_the_run_what_a_dead_run_left(running: Machine) -> None:
    killed_at("qemu-img-compare 1", running.params)
    before = definition(running.hv, running.name), sorted(os.listdir(running.images))
    predicted = run_module(MODULE, running.params, check=True)
    assert predicted["changed"]
    assert (definition(running.hv, running.name), sorted(os.listdir(running.images))) == before
    assert not is_running(running.hv, running.name)
    done = run_module(MODULE, running.params)
    assert done["actions"] == predicted["actions"]
    running.assert_converted()


def test_a_task_with_another_destination_takes_over_from_a_dead_run(running: Machine) -> None:
    killed_at("virDomainDefineXMLFlags 1", running.params)
    assert running.dest.exists()
    done = run_module(MODULE, {**running.params, "dest": str(running.images / "other.qcow2")})
    assert done.get("changed"), done
    assert disk_of(running.hv, running.name) == (str(running.images / "other.qcow2"), "qcow2")
    assert is_running(running.hv, running.name)
    assert leftovers(running.hv, running.name, running.images) == []
    assert sorted(os.listdir(running.images)) == ["other.qcow2", "vm.raw"]


def test_an_image_that_a_dead_run_put_in_place_but_somebody_replaced_is_left_alone(off: Machine) -> None:
    killed_at("virDomainDefineXMLFlags 1", off.params)
    replaced = off.images / "replaced"
    replaced.write_text("somebody's file")
    replaced.rename(off.dest)
    refused = run_module(MODULE, off.params)
    assert "exists already" in refused["msg"]
    assert off.dest.read_text() == "somebody's file"


def test_the_source_that_a_dead_run_owed_to_remove_stays_where_it_is_wanted_now(running: Machine) -> None:
    killed_at("virDomainCreate 1", {**running.params, "keep_source": False})
    assert run_module(MODULE, running.params)["changed"]
    assert running.source.exists()
    running.assert_converted()


def test_the_source_that_a_dead_run_owed_to_remove_stays_where_an_overlay_came_to_need_it(running: Machine) -> None:
    killed_at("virDomainCreate 1", {**running.params, "keep_source": False})
    make_overlay(running.images / "overlay.qcow2", running.source)
    assert run_module(MODULE, {**running.params, "keep_source": False})["changed"]
    assert running.source.exists()
    running.assert_converted()


def test_a_domain_that_was_to_stay_off_is_not_started_for_a_dead_run(running: Machine) -> None:
    params = {**running.params, "restart": False}
    killed_at("virDomainSetMetadata 2", params)
    assert not is_running(running.hv, running.name)
    assert run_module(MODULE, params)["changed"]
    assert not is_running(running.hv, running.name)
    running.was_running = False
    running.assert_converted()


# A libvirtd that dies


@pytest.mark.parametrize("point", ["qemu-img-convert 1", "virDomainDefineXMLFlags 1", "virDomainCreate 1"])
def test_after_the_death_of_libvirtd_the_next_run_finishes_the_job(running: Machine, point: str) -> None:
    try:
        with paused_at(point, running.params, CONSTANTS=GONE) as run:
            running.hv.kill_libvirtd()
        failed = run.result()
    finally:
        running.hv.start_libvirtd()
    assert failed.get("failed"), failed
    path, image_format = disk_of(running.hv, running.name)
    assert content(path, image_format) == running.content
    running.assert_converts()


def test_after_the_host_went_down_in_the_middle_the_next_run_finishes_the_job_and_starts_the_domain(
    running: Machine,
) -> None:
    """The domain was off for its conversion then, and libvirtd does not start it by itself."""
    killed_at("qemu-img-compare 1", running.params, children=True)
    running.hv.kill_libvirtd()
    running.hv.start_libvirtd()
    assert not is_running(running.hv, running.name)
    running.assert_converts()


def test_a_definition_that_libvirtd_took_while_it_died_names_a_complete_image(off: Machine) -> None:
    """libvirtd dies after it took the new definition and before it could say so (HAZARDS G9)."""
    file = off.hv.directory / "etc" / "qemu" / f"{off.name}.xml"
    named = f"{off.dest}'/>\n      <target"
    with between(off.hv) as libvirtd:
        with paused_at("virDomainDefineXMLFlags 1", {**off.params, "uri": libvirtd.uri}, CONSTANTS=GONE) as run:
            libvirtd.withhold()
        wait_in(run, lambda: named in file.read_text(encoding="utf-8"), "the new definition")
        off.hv.kill_libvirtd()
        try:
            result = run.result()
        finally:
            off.hv.start_libvirtd()
    assert result.get("failed"), result
    path, image_format = disk_of(off.hv, off.name)
    assert (path, image_format) == (str(off.dest), "qcow2")
    assert content(path, image_format) == off.content
    off.assert_converts()


def test_the_old_image_is_never_written_to(running: Machine) -> None:
    digest = file_digest(running.source)
    for point in ("qemu-img-convert 1", "virDomainDefineXMLFlags 1", "virDomainCreate 1"):
        killed_at(point, running.params)
    assert file_digest(running.source) == digest
    assert RECORD in definition(running.hv, running.name)
    running.assert_converts()
