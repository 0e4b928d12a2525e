# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""vm_disk_resize killed, starved, run twice at once or crossed by others: nothing is lost, a rerun converges."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import libvirt
import pytest
from lab import Disk, Guest, Hypervisor, run_module, start_module
from lab.fixtures import MakeDomain
from lab.module import RunningModule
from support.cramped import cramped, fill
from support.held_qemu_img import HeldQemuImg
from support.injection import (
    Share,
    at_once,
    in_shares,
    kill_with_qemu_img,
    killed_at,
    paused_at,
    points,
    signalled_at,
    signalled_during,
    waiting,
)
from support.scene import MIB, definition, is_running, leftovers, make_image, qemu_img
from support.waits import send_to_group, wait_for
from support.write_log import cut_short

MODULE = "vm_disk_resize"


class Machine:
    """A domain on one disk of 8 MiB, and what must hold of it."""

    def __init__(self, hv: Hypervisor, path: Path, make_domain: MakeDomain, image_format: str = "qcow2") -> None:
        self.hv, self.path, self.format = hv, path, image_format
        make_image(path, image_format)
        self.name = make_domain([Disk(path, image_format)], kernel=False).name
        self.definition = definition(hv, self.name)
        self.content = self.first_8_mib()

    def params(self, size: str = "16M", **options: Any) -> dict[str, Any]:
        return {"name": self.name, "disk": "vda", "size": size, "uri": self.hv.uri, **options}

    def run(self, size: str = "16M", **options: Any) -> dict[str, Any]:
        return run_module(MODULE, self.params(size, **options))

    def size(self) -> int:
        found = json.loads(qemu_img("info", "-U", "-f", self.format, "--output=json", self.path))
        return int(found["virtual-size"])

    def first_8_mib(self) -> bytes:
        flat = self.path.with_name("flat")
        qemu_img("dd", "-U", "-f", self.format, "-O", "raw", "bs=1M", "count=8", f"if={self.path}", f"of={flat}")
        try:
            return flat.read_bytes()
        finally:
            flat.unlink()

    def assert_sound(self) -> None:
        """Whatever happened, what the guest had is there, and the definition is as it was."""
        assert self.first_8_mib() == self.content
        assert definition(self.hv, self.name) == self.definition

    def assert_settled(self, size_mib: int) -> None:
        self.assert_sound()
        assert self.size() == size_mib * MIB
        if self.format == "qcow2" and not is_running(self.hv, self.name):
            qemu_img("check", "-q", "-f", "qcow2", self.path)
        assert leftovers(self.hv, self.name, self.path.parent) == []
        assert os.listdir(self.path.parent) == [self.path.name]


@pytest.fixture
def machine(hv: Hypervisor, images: Path, make_domain: MakeDomain) -> Machine:
    return Machine(hv, images / "vm.qcow2", make_domain)


@contextlib.contextmanager
def domain(hv: Hypervisor, name: str) -> Iterator[libvirt.virDomain]:
    with contextlib.closing(hv.connect()) as connection:
        yield connection.lookupByName(name)


# Killed


@in_shares(2)
@pytest.mark.parametrize(("image_format", "options"), [("qcow2", {"preallocation": "falloc"}), ("raw", {})], ids=str)
def test_killed_at_any_point_the_next_run_finishes_the_job(
    hv: Hypervisor, images: Path, make_domain: MakeDomain, image_format: str, options: dict[str, str], share: Share
) -> None:
    machine = Machine(hv, images / "vm", make_domain, image_format)
    params = machine.params("+8M", from_size="8M", **options)
    log = images.parent / f"{machine.name}.points"
    every_point = points(params, log, module=MODULE)
    log.unlink()
    machine.assert_settled(16)
    assert {"record 1", "pwrite 1", "qemu-img-resize 1", "unlink 1"} <= {"record 1", *every_point}
    for number, point in share.take(["record 1", *every_point]):
        machine.path.unlink()
        make_image(machine.path, image_format)
        killed_at(point, params, children=bool(number % 2), module=MODULE)
        machine.assert_sound()
        again = run_module(MODULE, params)
        assert not again.get("failed"), (point, again)
        machine.assert_settled(16)
        assert not run_module(MODULE, params)["changed"]


@dataclass
class Growth:
    """A run whose qemu-img is about to grow the image."""

    run: RunningModule
    held: HeldQemuImg
    qemu_img: int


@pytest.fixture
def growth(machine: Machine, tmp_path: Path) -> Growth:
    held = HeldQemuImg(tmp_path, "resize", 0)
    run = start_module(MODULE, machine.params("64M", preallocation="full"), python=held.python())
    (qemu_img,) = held.wait()
    return Growth(run, held, qemu_img)


def test_a_growth_that_was_killed_with_qemu_img_is_checked_and_finished(machine: Machine, growth: Growth) -> None:
    kill_with_qemu_img(growth.run, growth.qemu_img)
    cut_short(machine.path, "resize", "-q", "--preallocation=full", size="64M")
    machine.assert_sound()
    params = machine.params("64M")
    predicted = run_module(MODULE, params, check=True)
    assert predicted["actions"][0].startswith(f"check {machine.path}, on which a run was interrupted at ")
    result = run_module(MODULE, params)
    assert result["actions"] == predicted["actions"]
    machine.assert_settled(64)
    assert not run_module(MODULE, params)["changed"]


def test_a_growth_goes_on_without_its_module_and_the_next_run_waits_for_it(machine: Machine, growth: Growth) -> None:
    growth.run.kill(children=False)
    with waiting(machine.params("64M"), module=MODULE) as run:
        growth.held.let_go()
    result = run.result()
    assert [action.split(",")[0] for action in result["actions"]] == [f"check {machine.path}"]
    machine.assert_settled(64)


def test_a_growth_that_is_told_to_end_is_undone(machine: Machine, growth: Growth) -> None:
    send_to_group(growth.run.pid, signal.SIGTERM)
    growth.held.open()  # also for the qemu-img that undoes it
    result = growth.run.result()
    assert "interrupted by SIGTERM" in result["msg"]
    machine.assert_settled(8)
    assert machine.run()["changed"]
    machine.assert_settled(16)


@pytest.mark.parametrize("point", ["pwrite 1", "qemu-img-resize 1"])
def test_told_to_end_before_anything_began_everything_is_as_before(machine: Machine, point: str) -> None:
    result = signalled_at(point, "SIGTERM", machine.params(), module=MODULE)
    assert "interrupted by SIGTERM" in result["msg"]
    machine.assert_settled(8)


def test_a_run_that_is_told_to_end_while_libvirt_resizes_is_finished_by_the_next_one(machine: Machine) -> None:
    machine.hv.start(machine.name)
    params = machine.params("+8M", from_size="8M")
    told = signalled_during("virDomainBlockResize 1", "SIGTERM", params, module=MODULE)
    assert "interrupted by SIGTERM" in told["msg"], told
    machine.assert_sound()
    assert not run_module(MODULE, params).get("failed")
    machine.assert_settled(16)


# What a dead run left


def dead_record(path: Path, verb: str) -> Path:
    record = path.with_name(f".{path.name}.kvmops")
    record.write_text(json.dumps({"verb": verb, "started": "2024-01-01T00:00:00+00:00"}), encoding="utf-8")
    return record


def test_a_leak_under_a_running_guest_waits_until_the_domain_is_off(machine: Machine) -> None:
    record = dead_record(machine.path, "resize")
    machine.hv.start(machine.name)
    assert machine.run()["changed"], "a leak does not get worse"
    assert record.exists()
    record.write_text(json.dumps({"verb": "unknown"}), encoding="utf-8")
    assert not machine.run()["changed"]
    refused = machine.run("24M")
    assert "it cannot be checked while" in refused["msg"]
    assert record.exists()
    with domain(machine.hv, machine.name) as running:
        running.destroy()
    result = machine.run("24M")
    assert [action.split()[0] for action in result["actions"]] == ["check", "grow"]
    machine.assert_settled(24)


@pytest.mark.parametrize("verb", ["convert", "flatten"])
def test_what_is_left_beside_an_image_of_a_run_that_was_through_does_not_stop_its_growth(
    machine: Machine, verb: str
) -> None:
    """What was not through is in the domain's metadata, too: see the next test."""
    record = dead_record(machine.path, verb)
    machine.hv.start(machine.name)
    assert machine.run()["changed"]
    assert machine.size() == 16 * MIB
    assert json.loads(record.read_text(encoding="utf-8"))["verb"] == verb, "it is left to those that know it"


def test_a_disk_on_which_a_conversion_died_is_left_to_that_and_another_one_grows(
    hv: Hypervisor, images: Path, make_domain: MakeDomain
) -> None:
    disks = [Disk(make_image(images / f"{target}.raw"), target=target) for target in ("vda", "vdb")]
    name = make_domain(disks, kernel=False).name
    params = {"name": name, "disk": "vda", "uri": hv.uri}
    killed_at("qemu-img-convert 1", params, module="vm_disk_convert")
    for running in (False, True):
        if running:
            hv.start(name)
        refused = run_module(MODULE, {**params, "size": "16M"})
        assert "a run (convert vda) was interrupted on it" in refused["msg"]
        assert "run vm_disk_convert on vda again" in refused["msg"]
        assert run_module(MODULE, {**params, "disk": "vdb", "size": f"{17 + running}M"})["changed"]
    assert (images / "vda.raw").stat().st_size == 8 * MIB
    with paused_at("virDomainBlockCopy 1", params) as run:
        lives = run_module(MODULE, {**params, "size": "16M"})
        assert f"another run converts vda to {images / 'vda.qcow2'}" in lives["msg"]
        assert f"(process {run.pid})" in lives["msg"]
    assert run.result()["changed"]


def test_a_corrupt_image_stops_every_run_and_its_record_stays(machine: Machine) -> None:
    with machine.path.open("r+b") as stream:
        stream.seek(int.from_bytes(machine.path.read_bytes()[48:56], "big"))
        stream.write(bytes(8))
    record = dead_record(machine.path, "resize")
    before = machine.path.read_bytes()
    for _again in range(2):
        assert "corruption(s) in the metadata" in machine.run()["msg"]
        assert record.exists()
        assert machine.path.read_bytes() == before


# Starved


@dataclass
class Full:
    """A guest on a file system that is full: a thin qcow2 image, a thin raw one, a raw one with all of its blocks."""

    guest: Guest
    directory: Path

    def grow(self, target: str, size: str, **more: Any) -> dict[str, Any]:
        return run_module(MODULE, {**self.params(target, size), **more})

    def params(self, target: str, size: str) -> dict[str, Any]:
        return {"name": self.guest.name, "disk": target, "size": size, "uri": self.guest.hv.uri}

    def is_paused(self) -> bool:
        with domain(self.guest.hv, self.guest.name) as found:
            return bool(found.state()[0] == libvirt.VIR_DOMAIN_PAUSED)


@pytest.fixture(scope="module")
def booted() -> Iterator[Full]:
    with cramped(16) as (hypervisor, small):
        images = [make_image(small / "thin.qcow2", "qcow2", mib=1), make_image(small / "thin.raw", mib=1)]
        images.append(make_image(small / "thick.raw", mib=2, size_mib=2))
        disks = [
            Disk(image, image.suffix[1:], target) for image, target in zip(images, ("vda", "vdb", "vdc"), strict=True)
        ]
        guest = hypervisor.boot(hypervisor.domain_xml("full", disks))
        yield Full(guest, small)


@pytest.fixture
def full(booted: Full) -> Full:
    fill(booted.directory / "fat")
    return booted


def test_a_thin_disk_grows_under_its_guest_on_a_full_file_system_since_that_takes_nothing(full: Full) -> None:
    for target in ("vda", "vdb"):
        size = full.guest.disk_size(target) + 4 * MIB
        assert full.grow(target, str(size))["changed"]
        assert full.guest.disk_size(target) == size
    assert shutil.disk_usage(full.directory).free == 0


def test_a_growth_that_needs_larger_tables_is_refused_on_a_full_file_system_and_nothing_changes(full: Full) -> None:
    before, size = definition(full.guest.hv, full.guest.name), full.guest.disk_size("vda")
    image = full.directory / "thin.qcow2"
    for check in (True, False):
        refused = run_module(MODULE, full.params("vda", "20G"), check=check)
        assert "thin.qcow2: not enough space in" in refused["msg"]
        assert (refused["required_bytes"], refused["available_bytes"]) == (65536, 0)
    fat = full.directory / "fat"
    os.truncate(fat, fat.stat().st_size - 2 * MIB)
    with paused_at("virDomainBlockResize 1", full.params("vda", "20G"), module=MODULE) as run:
        fill(fat)
    failed = run.result()
    assert f"the file system of {image} is full: the disk has" in failed["msg"]
    assert failed["available_bytes"] < MIB
    assert full.guest.disk_size("vda") == size
    assert definition(full.guest.hv, full.guest.name) == before
    assert leftovers(full.guest.hv, full.guest.name, full.directory) == []
    assert not full.is_paused()


def test_what_is_added_is_not_reserved_and_a_guest_that_writes_there_waits_until_there_is_space(full: Full) -> None:
    refused = full.grow("vdc", "6M", preallocation="falloc")
    assert "cannot be reserved" in refused["msg"]
    assert full.guest.disk_size("vdc") == 2 * MIB
    grown = full.grow("vdc", "6M")
    assert any("what is added while its guest runs is not" in str(said) for said in grown["warnings"])
    assert full.guest.disk_size("vdc") == 6 * MIB
    full.guest.must("pattern /tmp/tail 1 tail")
    full.guest.must(
        "(dd if=/tmp/tail of=/dev/vdc bs=1M seek=4 conv=fsync,notrunc && touch /tmp/written) >/dev/null 2>&1 &"
    )
    wait_for(full.is_paused, "the guest is paused")
    (full.directory / "fat").unlink()
    with domain(full.guest.hv, full.guest.name) as found:
        found.resume()
    full.guest.must("until [ -e /tmp/written ]; do sleep 0.1; done")
    full.guest.must("dd if=/dev/vdc bs=1M skip=4 count=1 | cmp - /tmp/tail")


@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
def test_space_that_is_gone_at_the_last_moment_leaves_the_image_as_it_was(
    hv: Hypervisor, images: Path, make_domain: MakeDomain, image_format: str
) -> None:
    small = images / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m,mode=0711", "tmpfs", small], check=True)
    try:
        machine = Machine(hv, small / "vm", make_domain, image_format)
        with paused_at("qemu-img-resize 1", machine.params("24M", preallocation="full"), module=MODULE) as run:
            subprocess.run(["fallocate", "-l", "32M", small / "filler"], check=True)
        result = run.result()
        assert result["failed"], result
        assert "qemu-img resize" in result["msg"]
        (small / "filler").unlink()
        machine.assert_settled(8)
        assert machine.run("24M", preallocation="full")["changed"]
        machine.assert_settled(24)
    finally:
        subprocess.run(["umount", "--lazy", small], check=True)


# At once, and with others


@pytest.mark.parametrize("running", [False, True])
def test_runs_at_once_grow_once_from_a_size_and_each_time_without(machine: Machine, running: bool) -> None:
    if running:
        machine.hv.start(machine.name)
    results = at_once(MODULE, *[machine.params("+8M", from_size="8M")] * 4)
    assert [result for result in results if result.get("failed")] == []
    assert sorted(result["changed"] for result in results) == [False, False, False, True]
    machine.assert_settled(16)
    assert all(result.get("changed") for result in at_once(MODULE, *[machine.params("+1M")] * 3))
    machine.assert_settled(19)


@pytest.mark.parametrize(("point", "said"), [("pwrite 1", "was started"), ("qemu-img-resize 1", "lock")])
def test_a_domain_that_is_started_meanwhile_keeps_its_disk(machine: Machine, point: str, said: str) -> None:
    with paused_at(point, machine.params(), module=MODULE) as run:
        machine.hv.start(machine.name)
    result = run.result()
    assert said in result["msg"]
    assert "while that was being undone" not in result["msg"]
    machine.assert_settled(8)
    assert machine.run()["disks"][0]["mode"] == "live"
    machine.assert_settled(16)


def test_a_domain_that_goes_off_meanwhile_is_left_as_it_is(machine: Machine) -> None:
    machine.hv.start(machine.name)
    at = "virDomainBlockResize 1"
    with paused_at(at, machine.params(), module=MODULE) as run, domain(machine.hv, machine.name) as running:
        running.destroy()
    result = run.result()
    assert "the domain went off in the meantime: nothing was changed: run again" in result["msg"]
    machine.assert_settled(8)
    assert machine.run()["disks"][0]["mode"] == "offline"


@pytest.mark.parametrize(
    ("point", "said"),
    [
        ("record 1", "cannot shrink from 32 MiB to 16 MiB while it is running"),
        ("virDomainGetBlockInfo 2", "was resized to 32 MiB in the meantime: nothing was changed"),
    ],
)
def test_a_disk_that_somebody_grew_meanwhile_is_not_shrunk(machine: Machine, point: str, said: str) -> None:
    machine.hv.start(machine.name)
    with paused_at(point, machine.params(), module=MODULE) as run, domain(machine.hv, machine.name) as running:
        running.blockResize("vda", 32 * MIB, libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)
    assert said in run.result()["msg"]
    machine.assert_settled(32)
