# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""vm_disk_flatten killed and disturbed, live and offline: nothing is lost, a rerun finishes the job."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest
from lab import Disk, Hypervisor, run_module
from lab.fixtures import MakeDomain
from lab.module import RunningModule
from lab.tree import file_digest
from support.cramped import cramped
from support.injection import Share, constants, in_shares, killed_at, paused_at, points, signalled_at, signalled_during
from support.scene import (
    RECORD,
    chain_of,
    content,
    definition,
    image_chain,
    is_running,
    leftovers,
    make_image,
    make_overlay,
    with_backing,
)
from support.waits import HELD, send, wait_for

MODULE = "vm_disk_flatten"


class Machine:
    """A domain over a chain of three that its definition names, and what must hold of it whatever happens."""

    def __init__(self, hv: Hypervisor, images: Path, name: str) -> None:
        self.hv, self.images, self.name = hv, images, name
        self.base, self.middle, self.top = images / "base.raw", images / "middle.qcow2", images / "vm.qcow2"
        make_image(self.base, mib=3)
        make_overlay(self.middle, self.base)
        self.make_top()
        xml = hv.domain_xml(name, [Disk(self.top, "qcow2")], kernel=False)
        hv.define(with_backing(xml, (self.middle, "qcow2"), (self.base, "raw")))
        self.params: dict[str, Any] = {"name": name, "disk": "vda", "uri": hv.uri}
        self.definition = definition(hv, name)
        self.content = content(self.top, "qcow2")
        self.below = file_digest(self.base), file_digest(self.middle)
        self.process = 0

    def make_top(self) -> None:
        """The overlay hides something of what is below it by zeros."""
        make_overlay(self.top, self.middle, "qcow2")
        argv = ["qemu-io", "-f", "qcow2", "-c", "write -z 1M 512k", "-c", "write -P 9 5M 64k", str(self.top)]
        subprocess.run(argv, check=True, capture_output=True)

    def start(self) -> None:
        self.hv.start(self.name)
        self.process = self.hv.qemu_pid(self.name)

    def reset(self, *, start: bool) -> None:
        self.destroy()
        self.hv.define(self.definition)
        self.top.unlink()
        self.make_top()
        if start:
            self.start()

    def destroy(self) -> None:
        with contextlib.suppress(libvirt.libvirtError), self.domain() as domain:
            domain.destroy()

    def kill_qemu(self) -> None:
        """As where the host fails: what QEMU has in its memory is gone."""
        send(self.hv.qemu_pid(self.name), signal.SIGKILL)
        wait_for(lambda: not is_running(self.hv, self.name), "the domain is off")

    @contextlib.contextmanager
    def domain(self) -> Iterator[libvirt.virDomain]:
        with contextlib.closing(self.hv.connect()) as connection:
            yield connection.lookupByName(self.name)

    def is_pulled(self) -> bool:
        with self.domain() as domain:
            return bool(domain.isActive() and domain.blockJobInfo("vda", 0))

    def begin(self, *, absence: float = 3600, **more: Any) -> RunningModule:
        """A run in the middle of its pull, which does not end by itself; libvirtd may be away for ABSENCE seconds."""
        params = {**self.params, "bandwidth": HELD, **more}
        limits = constants({"_libvirt.line": {"ABSENCE": absence}})
        with paused_at("virDomainBlockPull 1 > ask-blockJobInfo 1", params, module=MODULE, CONSTANTS=limits) as run:
            assert self.is_pulled()
        return run

    def assert_as_before(self) -> None:
        assert image_chain(self.top, "qcow2") == chain_of(self.hv, self.name) == [str(self.middle), str(self.base)]
        assert definition(self.hv, self.name) == self.definition
        assert content(self.top, "qcow2") == self.content
        assert not self.is_pulled()
        assert leftovers(self.hv, self.name, self.images) == []

    def assert_flat(self, *kept: Path) -> None:
        chain = [str(path) for path in kept]
        assert image_chain(self.top, "qcow2") == chain
        assert chain_of(self.hv, self.name) == chain
        assert content(self.top, "qcow2") == self.content
        assert (file_digest(self.base), file_digest(self.middle)) == self.below
        assert leftovers(self.hv, self.name, self.images) == []
        assert sorted(os.listdir(self.images)) == ["base.raw", "middle.qcow2", "vm.qcow2"]
        if is_running(self.hv, self.name):
            assert chain_of(self.hv, self.name, live=True) == chain
            assert RECORD not in definition(self.hv, self.name, 0)
            assert self.hv.qemu_pid(self.name) == self.process, "it is the same guest"

    def assert_converges(self, *kept: Path, **more: Any) -> dict[str, Any]:
        """The next run does the job, and the one after it has nothing to do."""
        done = run_module(MODULE, {**self.params, **more})
        assert done.get("changed"), done
        self.assert_flat(*kept)
        again = run_module(MODULE, {**self.params, **more})
        assert not again["changed"], again
        return done


@pytest.fixture
def off(hv: Hypervisor, images: Path, make_domain: MakeDomain) -> Machine:
    name = make_domain([], kernel=False).name
    hv.remove(name)
    return Machine(hv, images, name)


@pytest.fixture
def running(off: Machine) -> Machine:
    off.start()
    return off


# Killed


#: The first and the last point from, and to, which a run is killed.
WAYS = {
    "live": ("pwrite 1", "unlink 1"),
    "offline": ("pwrite 1", "unlink 2"),
    "down to a base, the host fails, too": ("virDomainBlockRebase 1", "virDomainSetMetadata 2"),
}


@in_shares(3)
@pytest.mark.parametrize("way", WAYS)
def test_killed_at_any_point_the_next_run_finishes_the_job(off: Machine, way: str, share: Share) -> None:
    """Where the host fails, what is in QEMU's memory is gone: a reference that was changed too early is put back."""
    live, host_fails = way != "offline", "host" in way
    kept = [off.base] if host_fails else []
    params = {**off.params, **({"base": str(off.base)} if kept else {})}
    if live:
        off.start()
    log = off.images.parent / f"{off.name}.points"
    every_point = points(params, log, module=MODULE)
    log.unlink()
    off.assert_flat(*kept)
    expected = {"virDomainQemuMonitorCommand 1"} if live else {"qemu-img-rebase 1", "link 1", "rename 1"}
    first, last = (every_point.index(point) for point in WAYS[way])
    chosen = [point for point in every_point[first : last + 1] if not point.startswith(("fsync", "qemu-img-info"))]
    assert expected <= set(chosen)
    for number, point in share.take(chosen):
        off.reset(start=live)
        killed_at(point, params, children=bool(number % 2), module=MODULE)
        if host_fails:
            off.kill_qemu()
        elif not live:
            assert content(off.top, "qcow2") == off.content, point
        again = run_module(MODULE, params)
        try:
            assert not again.get("failed"), again
            off.assert_flat(*kept)
            if number % 6 == 5:
                assert not run_module(MODULE, params)["changed"]
        except AssertionError as error:
            raise AssertionError(f"after a kill before {point}, then {again.get('actions')}: {error}") from error


def test_the_pull_of_a_killed_run_goes_on_and_is_waited_for(running: Machine) -> None:
    running.begin().kill()
    assert running.is_pulled()
    other = {"name": running.name, "disk": "vda", "uri": running.hv.uri, "dest": str(running.images / "new.raw")}
    refused = run_module("vm_disk_convert", {**other, "format": "raw"})
    assert "a run (flatten vda) was interrupted on it" in refused["msg"]
    assert "run vm_disk_flatten on vda again" in refused["msg"]
    assert refused["interrupted"]["verb"] == "flatten"
    size = {"name": running.name, "disk": "vda", "uri": running.hv.uri, "size": "16M"}
    assert "run vm_disk_flatten on vda again" in run_module("vm_disk_resize", size)["msg"]
    assert running.is_pulled()
    done = running.assert_converges()
    assert done["actions"][0].startswith("wait for the pull of ")


def test_a_pull_that_is_over_is_found_and_written_out(running: Machine) -> None:
    with paused_at("virDomainQemuMonitorCommand 1", running.params, module=MODULE) as run:
        assert not running.is_pulled()
        is_kept_in_memory(running)
        run.kill()
    running.assert_converges()


def test_what_is_pulled_otherwise_than_it_is_wanted_now_is_ended(running: Machine) -> None:
    running.begin().kill()
    done = running.assert_converges(running.base, base=str(running.base))
    assert done["actions"][0].startswith("end the pull into ")


def test_a_guest_that_goes_off_in_the_middle_keeps_its_image(running: Machine) -> None:
    run = running.begin()
    running.destroy()
    failed = run.result()
    assert failed.get("failed"), failed
    assert "went off" in failed["msg"]
    running.assert_as_before()
    running.assert_converges()


def test_a_guest_that_runs_on_an_image_that_lost_content_is_not_left_alone(running: Machine) -> None:
    killed_at("virDomainQemuMonitorCommand 1", running.params, module=MODULE)
    running.kill_qemu()
    lost = is_kept_in_memory(running)
    running.start()
    if lost:
        refused = run_module(MODULE, running.params)
        assert "lost a part of what was pulled into it" in refused["msg"]
        running.destroy()
    running.assert_converges()


def is_kept_in_memory(machine: Machine) -> bool:
    """Whether the image does not hold what was pulled into it: so it is with QEMU 7.2, and no more with 10.0."""
    said = subprocess.run(["qemu-img", "--version"], stdout=subprocess.PIPE, text=True, check=True).stdout
    found = re.search(r"version (\d+)", said)
    assert found
    lost = content(machine.top, "qcow2") != machine.content
    assert lost or int(found[1]) >= 8, "QEMU has it in its image: this test shows nothing"
    return lost


def test_libvirtd_killed_in_the_middle_the_next_run_finishes_the_job(running: Machine) -> None:
    run = running.begin(absence=0)
    running.hv.kill_libvirtd()
    failed = run.result()
    running.hv.start_libvirtd()
    assert failed.get("failed"), failed
    assert running.hv.qemu_pid(running.name) == running.process
    running.assert_converges()


def test_a_libvirtd_that_is_restarted_in_the_middle_is_waited_for(running: Machine) -> None:
    run = running.begin()
    running.hv.restart()
    assert running.is_pulled()
    with running.domain() as domain:
        domain.blockJobSetSpeed("vda", 0, 0)
    done = run.result()
    assert done.get("changed"), done
    running.assert_flat()
    assert not run_module(MODULE, running.params)["changed"]


# Told to end, crossed, starved


def test_a_run_that_is_told_to_end_ends_its_pull(running: Machine) -> None:
    run = running.begin()
    send(run.pid, signal.SIGTERM)
    told = run.result()
    assert "interrupted by SIGTERM" in told["msg"]
    running.assert_as_before()
    failed = run_module(MODULE, {**running.params, "bandwidth": HELD, "copy_timeout": 1})
    assert "waited 1 s for the backing files of vda to be in its image" in failed["msg"]
    running.assert_as_before()
    assert running.hv.qemu_pid(running.name) == running.process


@pytest.mark.parametrize("point", ["virDomainSetMetadata 1", "virDomainBlockPull 1"])
def test_a_run_that_is_told_to_end_while_libvirt_does_what_it_asked_for_undoes_that(
    running: Machine, point: str
) -> None:
    told = signalled_during(point, "SIGTERM", {**running.params, "bandwidth": HELD}, module=MODULE)
    assert "interrupted by SIGTERM" in told["msg"], told
    running.assert_as_before()


@pytest.mark.parametrize("point", ["qemu-img-rebase 1", "link 1", "virDomainDefineXMLFlags 1"])
def test_a_run_that_is_told_to_end_off_line_undoes_everything(off: Machine, point: str) -> None:
    inode = os.stat(off.top).st_ino
    told = signalled_at(point, "SIGTERM", off.params, module=MODULE)
    assert "interrupted by SIGTERM" in told["msg"]
    assert os.stat(off.top).st_ino == inode
    off.assert_as_before()


def test_the_pull_of_somebody_else_is_left_alone(running: Machine) -> None:
    with running.domain() as domain:
        domain.blockPull("vda", int(HELD), libvirt.VIR_DOMAIN_BLOCK_PULL_BANDWIDTH_BYTES)
        refused = run_module(MODULE, running.params)
        assert "a block job runs on vda" in refused["msg"]
        assert refused["block_jobs"] == ["vda"]
        assert running.is_pulled()
        domain.blockJobAbort("vda", 0)
    running.assert_converges()


def test_a_pull_that_somebody_ends_is_reported(running: Machine) -> None:
    run = running.begin()
    with running.domain() as domain:
        domain.blockJobAbort("vda", 0)
    failed = run.result()
    assert "failed, or was ended from outside" in failed["msg"]
    running.assert_as_before()


def test_of_two_runs_at_once_one_flattens(off: Machine) -> None:
    with paused_at("qemu-img-compare 1", off.params, module=MODULE) as run:
        other = run_module(MODULE, off.params)
        assert "another run flattens vda" in other["msg"]
        assert other["operation"]["pid"] == run.pid
    assert run.result()["changed"]
    off.assert_flat()


def test_a_conversion_that_was_interrupted_is_left_to_its_module(off: Machine) -> None:
    asked = {**off.params, "format": "raw", "dest": str(off.images / "vm.raw")}
    killed_at("qemu-img-convert 1", asked)
    refused = run_module(MODULE, off.params)
    assert "a run (convert vda) was interrupted on it" in refused["msg"]
    assert "run vm_disk_convert on vda again" in refused["msg"]
    assert run_module("vm_disk_convert", asked)["changed"]


@pytest.mark.parametrize("point", ["virDomainQemuMonitorCommand 1", "qemu-img-compare 1"], ids=["live", "offline"])
def test_an_edit_of_the_definition_in_the_middle_is_kept(off: Machine, point: str) -> None:
    if point.startswith("vir"):
        off.start()
    with paused_at(point, off.params, module=MODULE) as run:
        off.hv.define(definition(off.hv, off.name).replace("placement='static'>1<", "placement='static'>2<"))
    assert run.result()["changed"]
    assert ">2</vcpu>" in definition(off.hv, off.name)
    off.assert_flat()


def test_a_domain_that_somebody_starts_in_the_middle_loses_nothing(off: Machine) -> None:
    with paused_at("qemu-img-compare 1", off.params, module=MODULE) as run:
        off.start()
    failed = run.result()
    assert failed.get("failed"), failed
    off.destroy()
    off.assert_as_before()


def test_what_a_guest_wrote_in_the_middle_is_not_lost(off: Machine) -> None:
    with paused_at("link 1", off.params, module=MODULE) as run:
        argv = ["qemu-io", "-f", "qcow2", "-c", "write -P 3 6M 64k", str(off.top)]
        subprocess.run(argv, check=True, capture_output=True)
    failed = run.result()
    assert "was written to while it was copied" in failed["msg"]
    off.content = content(off.top, "qcow2")
    off.assert_as_before()
    off.assert_converges()


def test_a_file_system_that_is_full_or_fills_up_leaves_the_image_as_it_was() -> None:
    with cramped(12) as (hypervisor, images):
        machine = Machine(hypervisor, images, "vm")
        machine.start()
        fat = images / "fat"
        free = shutil.disk_usage(images).free
        fat.write_bytes(bytes(free - (1 << 20)))
        refused = run_module(MODULE, machine.params)
        assert refused["required_bytes"] > refused["available_bytes"] > 0
        os.truncate(fat, 0)
        run = machine.begin()
        with contextlib.suppress(OSError):  # the pull takes some of it meanwhile
            fat.write_bytes(bytes(shutil.disk_usage(images).free - (256 << 10)))
        with machine.domain() as domain:
            domain.blockJobSetSpeed("vda", 0, 0)
        failed = run.result()
        assert "its file system is full" in failed["msg"]
        fat.unlink()
        machine.assert_as_before()
        machine.assert_converges()
