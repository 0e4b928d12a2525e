# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""vm_disk killed, stopped, run twice at once, or left by libvirtd: the next run has the disk as wanted, once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from lab import Disk, Hypervisor, run_module
from lab.fixtures import MakeDomain
from support.injection import GONE, Share, at_once, in_shares, killed_at, paused_at, points, signalled_at
from support.scene import definition, is_running, leftovers, make_image, qemu_img

MODULE = "vm_disk"


class Machine:
    """A domain with a SCSI controller, which lets disks on it go at once, and the wish for one more disk."""

    def __init__(self, hv: Hypervisor, images: Path, make_domain: MakeDomain, *others: Disk, running: bool) -> None:
        self.hv, self.images, self.running = hv, images, running
        root = make_image(images / "root.raw")
        self.name = make_domain([Disk(root, target="sda"), *others], kernel=False).name
        self.image = images / "data.qcow2"
        self.files = {root.name}
        if running:
            hv.start(self.name)

    @property
    def present(self) -> dict[str, Any]:
        return {"name": self.name, "path": str(self.image), "size": "8M", "bus": "scsi", "uri": self.hv.uri}

    @property
    def absent(self) -> dict[str, Any]:
        asked = {"name": self.name, "path": str(self.image), "state": "absent", "uri": self.hv.uri}
        return {**asked, "remove_image": True}

    def addresses(self) -> list[dict[str, str] | None]:
        """Where the disk is in the definition, and in the machine that runs; None where it is not there."""
        flags = [(), (0,)] if self.running else [()]
        found = []
        for flag in flags:
            disks = ElementTree.fromstring(definition(self.hv, self.name, *flag)).findall("devices/disk")
            with_image = [one for one in disks if one.find(f"source[@file='{self.image}']") is not None]
            assert len(with_image) <= 1
            place = with_image[0].find("address") if with_image else None
            found.append(dict(place.attrib) if place is not None else None)
        return found

    def definitions(self) -> list[str]:
        """What libvirt says of the domain, and of the machine that runs, but for the numbers that it gives to media."""
        found = [definition(self.hv, self.name, *flag) for flag in ([(), (0,)] if self.running else [()])]
        return [re.sub(" index='[0-9]+'", "", xml) for xml in found]

    def assert_there(self) -> None:
        places = self.addresses()
        assert None not in places
        assert all(place == places[0] for place in places)
        self._assert_left({self.image.name})
        if not self.running:
            qemu_img("check", "-q", "-f", "qcow2", self.image)

    def assert_gone(self) -> None:
        assert not any(self.addresses())
        self._assert_left(set())

    def _assert_left(self, files: set[str]) -> None:
        assert leftovers(self.hv, self.name, self.images) == []
        assert {path.name for path in self.images.iterdir()} == self.files | files
        assert is_running(self.hv, self.name) == self.running


@pytest.fixture(params=[False, True], ids=["off", "running"])
def machine(hv: Hypervisor, images: Path, make_domain: MakeDomain, request: pytest.FixtureRequest) -> Machine:
    return Machine(hv, images, make_domain, running=request.param)


@in_shares(2)
def test_killed_at_any_point_the_next_run_attaches_the_disk_once(machine: Machine, share: Share) -> None:
    log = machine.images.parent / f"{machine.name}.points"
    every_point = points(machine.present, log, module=MODULE)
    log.unlink()
    machine.assert_there()
    assert {"qemu-img-create 1", "virDomainAttachDeviceFlags 1", "unlink 1"} <= {*every_point}
    for number, point in share.take(["record 1", *every_point]):
        assert not run_module(MODULE, machine.absent).get("failed")
        machine.assert_gone()
        killed_at(point, machine.present, children=bool(number % 2), module=MODULE)
        again = run_module(MODULE, machine.present)
        assert not again.get("failed"), (point, again)
        machine.assert_there()
        assert not run_module(MODULE, machine.present)["changed"]


@in_shares(2)
def test_killed_at_any_point_the_next_run_detaches_the_disk(machine: Machine, share: Share) -> None:
    log = machine.images.parent / f"{machine.name}.points"
    assert run_module(MODULE, machine.present).get("changed")
    every_point = points(machine.absent, log, module=MODULE)
    log.unlink()
    machine.assert_gone()
    assert {"virDomainDetachDeviceFlags 1", "unlink 1"} <= {*every_point}
    for _number, point in share.take(["record 1", *every_point]):
        assert not run_module(MODULE, machine.present).get("failed")
        machine.assert_there()
        killed_at(point, machine.absent, module=MODULE)
        again = run_module(MODULE, machine.absent)
        assert not again.get("failed"), (point, again)
        machine.assert_gone()
        assert not run_module(MODULE, machine.absent)["changed"]


#: Two ways to use the disk, each of which changes all that the other says.
TUNED = {"cache": "none", "discard": "unmap", "throttle": {"total_iops": 500}}
PLAIN = {"cache": "default", "discard": "default", "throttle": {"total_iops": 0}}


def test_killed_at_any_point_the_next_run_uses_the_disk_as_wanted(machine: Machine) -> None:
    assert run_module(MODULE, machine.present).get("changed")
    disk = {"name": machine.name, "disk": "sdb", "uri": machine.hv.uri}
    assert_converges(machine, {**disk, **PLAIN}, {**disk, **TUNED}, {"virDomainDefineXMLFlags 1"})


@pytest.mark.parametrize("running", [False, True], ids=["off", "running"])
def test_killed_at_any_point_the_next_run_puts_the_medium_in(
    hv: Hypervisor, images: Path, make_domain: MakeDomain, running: bool
) -> None:
    first, second = (make_image(images / f"{name}.iso") for name in ("first", "second"))
    machine = Machine(hv, images, make_domain, Disk(first, target="hdc", device="cdrom"), running=running)
    drive = {"name": machine.name, "disk": "hdc", "uri": hv.uri}
    assert_converges(machine, {**drive, "path": str(first)}, {**drive, "path": str(second)}, set())


def assert_converges(machine: Machine, one: dict[str, Any], other: dict[str, Any], expected: set[str]) -> None:
    """A run with the wish OTHER, killed anywhere, is finished by the next one, from what ONE wishes."""
    log = machine.images.parent / f"{machine.name}.points"
    run_module(MODULE, one)
    every_point = points(other, log, module=MODULE)
    log.unlink()
    assert expected <= {*every_point}
    wanted = machine.definitions()
    for point in every_point:
        assert run_module(MODULE, one).get("changed"), point
        killed_at(point, other, module=MODULE)
        again = run_module(MODULE, other)
        assert not again.get("failed"), (point, again)
        assert machine.definitions() == wanted, point
        assert leftovers(machine.hv, machine.name, machine.images) == []
        assert not run_module(MODULE, other)["changed"]


@pytest.mark.parametrize("point", ["qemu-img-create 1", "virDomainAttachDeviceFlags 1"])
def test_stopped_before_the_disk_is_there_all_is_as_before(machine: Machine, point: str) -> None:
    result = signalled_at(point, "SIGTERM", machine.present, module=MODULE)
    assert "interrupted by SIGTERM" in result["msg"]
    machine.assert_gone()
    assert run_module(MODULE, machine.present)["changed"]
    machine.assert_there()


def test_two_runs_at_once_attach_one_disk(machine: Machine) -> None:
    results = at_once(MODULE, machine.present, machine.present)
    assert sorted(str(one.get("changed", one)) for one in results) == ["False", "True"]
    machine.assert_there()
    results = at_once(MODULE, machine.absent, machine.absent)
    assert sorted(str(one.get("changed", one)) for one in results) == ["False", "True"]
    machine.assert_gone()


def test_two_runs_at_once_with_two_images_take_two_targets(machine: Machine) -> None:
    other = {**machine.present, "path": str(machine.images / "other.qcow2")}
    results = at_once(MODULE, machine.present, other)
    assert [one.get("changed", one) for one in results] == [True, True]
    assert {one["disks"][0]["target"] for one in results} == {"sdb", "sdc"}


@pytest.mark.parametrize("point", ["virDomainAttachDeviceFlags 1", "virDomainAttachDeviceFlags 2"])
def test_libvirtd_is_killed_and_the_next_run_attaches_the_disk(
    hv: Hypervisor, images: Path, make_domain: MakeDomain, point: str
) -> None:
    machine = Machine(hv, images, make_domain, running=True)
    with paused_at(point, machine.present, module=MODULE, CONSTANTS=GONE) as run:
        hv.kill_libvirtd()
    assert run.result().get("failed")
    hv.start_libvirtd()
    again = run_module(MODULE, machine.present)
    assert not again.get("failed"), again
    machine.assert_there()
    assert not run_module(MODULE, machine.present)["changed"]
