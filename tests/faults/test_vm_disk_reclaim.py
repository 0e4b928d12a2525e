# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""vm_disk_reclaim killed, starved and crossed by a start: one of two whole images stands there, a rerun converges."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from lab import Disk, Hypervisor, run_module
from lab.fixtures import MakeDomain
from support.cramped import cramped
from support.image_tools import allocated, qemu_io
from support.injection import Share, in_shares, killed_at, paused_at, points, signalled_at
from support.scene import MIB, content, definition, leftovers, make_image, qemu_img

MODULE = "vm_disk_reclaim"


class Machine:
    """A domain that is off, on an overlay with 8 MiB of zeros that take space, and what must hold of it."""

    def __init__(self, hv: Hypervisor, images: Path, name: str) -> None:
        self.hv, self.images, self.name = hv, images, name
        self.base, self.path = images / "base.raw", images / "vm.qcow2"
        make_image(self.base, mib=2, size_mib=16)
        self.make()
        hv.define(hv.domain_xml(name, [Disk(self.path, "qcow2")], kernel=False))
        self.definition = definition(hv, name)
        self.content = content(self.path, "qcow2")
        self.params: dict[str, Any] = {"name": name, "disk": "vda", "uri": hv.uri, "trusted": True}

    def make(self) -> None:
        self.path.unlink(missing_ok=True)
        qemu_img("create", "-q", "-f", "qcow2", "-b", self.base, "-F", "raw", self.path)
        qemu_img("bitmap", "--add", self.path, "daily")
        qemu_io(self.path, "write -P 5 1M 1M")
        qemu_io(self.path, f"write -P 0 4M {8 * MIB}")

    def assert_sound(self) -> None:
        assert content(self.path, "qcow2") == self.content
        assert definition(self.hv, self.name) == self.definition

    def assert_reclaimed(self) -> None:
        self.assert_sound()
        assert allocated(self.path) < 3 * MIB
        assert '"name": "daily"' in qemu_img("info", "-f", "qcow2", "--output=json", self.path)
        qemu_img("check", "-q", "-f", "qcow2", self.path)
        assert leftovers(self.hv, self.name, self.images) == []
        assert sorted(os.listdir(self.images)) == ["base.raw", "vm.qcow2"]


@pytest.fixture
def machine(hv: Hypervisor, images: Path, make_domain: MakeDomain) -> Machine:
    name = make_domain([], kernel=False).name
    hv.remove(name)
    return Machine(hv, images, name)


@in_shares(2)
def test_killed_at_any_point_the_next_run_finishes_the_job(machine: Machine, share: Share) -> None:
    log = machine.images.parent / f"{machine.name}.points"
    every_point = points(machine.params, log, module=MODULE)
    log.unlink()
    machine.assert_reclaimed()
    chosen = [point for point in every_point if not point.startswith(("fsync", "qemu-img-info"))]
    assert {"pwrite 1", "qemu-img-convert 1", "link 1", "rename 1"} <= set(chosen)
    for number, point in share.take(chosen):
        machine.make()
        killed_at(point, machine.params, children=bool(number % 2), module=MODULE)
        machine.assert_sound()
        again = run_module(MODULE, machine.params)
        assert not again.get("failed"), (point, again)
        machine.assert_reclaimed()
        assert not run_module(MODULE, machine.params)["changed"]


def test_told_to_end_it_leaves_the_old_image_as_it_was(machine: Machine) -> None:
    before = machine.path.stat()
    failed = signalled_at("qemu-img-convert 1", "SIGTERM", machine.params, module=MODULE)
    assert failed.get("failed"), failed
    machine.assert_sound()
    assert (machine.path.stat().st_ino, machine.path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert leftovers(machine.hv, machine.name, machine.images) == []
    assert run_module(MODULE, machine.params)["changed"]
    machine.assert_reclaimed()


def test_a_domain_that_is_started_meanwhile_keeps_its_old_image(machine: Machine) -> None:
    before = machine.path.stat().st_ino
    with paused_at("link 1", machine.params, module=MODULE) as run:
        machine.hv.start(machine.name)
    failed = run.result()
    assert failed.get("failed"), failed
    assert machine.path.stat().st_ino == before
    machine.hv.remove(machine.name)
    assert content(machine.path, "qcow2") == machine.content


def test_a_full_file_system_is_told_before_anything_is_written() -> None:
    with cramped(24) as (hv, small):
        path = small / "vm.raw"
        make_image(path, mib=10, size_mib=20)
        with path.open("r+b") as stream:
            stream.seek(10 * MIB)
            stream.write(bytes(9 * MIB))
        hv.define(hv.domain_xml("full", [Disk(path)], kernel=False))
        before, held = path.read_bytes(), allocated(path)
        refused = run_module(MODULE, {"name": "full", "disk": "vda", "uri": hv.uri})
        assert refused.get("failed"), refused
        assert "not enough space" in refused["msg"]
        assert refused["required_bytes"] > refused["available_bytes"]
        assert (path.read_bytes(), allocated(path)) == (before, held)
        assert os.listdir(small) == ["vm.raw"]
        hv.remove("full")
