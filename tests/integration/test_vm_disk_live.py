# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""vm_disk on domains that run: the machine and its definition change together, and a guest keeps what it does not let
go."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import libvirt
import pytest
from lab import Disk, Guest, Hypervisor
from lab.fixtures import MakeDomain
from support.agents import feign_an_agent, wait_for_agent
from support.injection import constants, environment
from support.scene import MIB, content, definition, leftovers, make_image, state
from support.waits import wait_for

Module = Callable[..., dict[str, Any]]
MODULE = "vm_disk"
LIVE = 0
#: An environment in which the guest agent has little time.
SHORT = environment(CONSTANTS=constants({"_libvirt.acting": {"_AGENT_SECONDS": 2}}))


def disk(hv: Hypervisor, name: str, target: str, *, live: bool) -> ElementTree.Element | None:
    """The <disk> at TARGET of the running machine, or of its definition."""
    xml = definition(hv, name, LIVE) if live else definition(hv, name)
    return ElementTree.fromstring(xml).find(f"devices/disk/target[@dev='{target}']/..")


def address(hv: Hypervisor, name: str, target: str, *, live: bool) -> dict[str, str]:
    found = disk(hv, name, target, live=live)
    assert found is not None, f"{name} has no {target}"
    place = found.find("address")
    assert place is not None
    return dict(place.attrib)


class Running:
    """A running domain, and runs of the module on it."""

    def __init__(self, hv: Hypervisor, module: Module, images: Path, guest: Guest) -> None:
        self.hv, self.module, self.images, self.guest, self.name = hv, module, images, guest, guest.name

    def once(self, **params: Any) -> dict[str, Any]:
        """What a run does that check mode has foretold, and that the next run leaves as it is."""
        asked = {"name": self.name, **params}
        before = self.looks()
        foretold = self.module(MODULE, asked, check=True)
        assert foretold.get("changed"), foretold
        assert self.looks() == before
        done = self.module(MODULE, asked)
        assert done.get("changed"), done
        assert done["actions"] == foretold["actions"]
        after = self.looks()
        again = self.module(MODULE, asked)
        assert again.get("changed") is False, again
        assert self.looks() == after
        for key in ("attached", "pending", "target"):
            assert [one[key] for one in foretold["disks"]] == [one[key] for one in done["disks"]], key
        assert leftovers(self.hv, self.name, self.images) == []
        return done

    def looks(self) -> tuple[str, str, list[str]]:
        return (
            definition(self.hv, self.name),
            definition(self.hv, self.name, LIVE),
            sorted(path.name for path in self.images.iterdir()),
        )

    def refused(self, words: str, **params: Any) -> dict[str, Any]:
        before = self.looks()
        result = self.module(MODULE, {"name": self.name, **params})
        assert result.get("failed"), result
        assert words in result["msg"], result["msg"]
        assert self.looks() == before
        return result

    def has(self, target: str) -> tuple[bool, bool]:
        """Whether the machine has it, and whether its definition does."""
        return tuple(disk(self.hv, self.name, target, live=live) is not None for live in (True, False))  # type: ignore[return-value]

    def limits(self, target: str) -> dict[str, Any]:
        """Those that hold in the machine."""
        with contextlib.closing(self.hv.connect()) as connection:
            found = connection.lookupByName(self.name).blockIoTune(target, libvirt.VIR_DOMAIN_AFFECT_LIVE)
        return {name: value for name, value in found.items() if value and not name.endswith(("_length", "_name"))}


@pytest.fixture
def running(hv: Hypervisor, module: Module, images: Path, make_domain: MakeDomain) -> Running:
    """A machine without a guest, which lets no virtio disk go, and each SCSI disk at once."""
    guest = make_domain([Disk(make_image(images / "root.raw"))], kernel=False)
    hv.start(guest.name)
    return Running(hv, module, images, guest)


@pytest.fixture
def booted(hv: Hypervisor, module: Module, images: Path, make_domain: MakeDomain) -> Running:
    guest = make_domain([Disk(make_image(images / "root.raw"))], start=True, agent=True)
    wait_for_agent(hv, guest.name)
    return Running(hv, module, images, guest)


# With a guest


def test_a_guest_uses_a_new_disk_finds_it_again_after_a_restart_and_lets_it_go(booted: Running) -> None:
    path, guest = booted.images / "data.qcow2", booted.guest
    booted.once(path=str(path), size="16M", serial="fresh")
    wait_for(lambda: guest.run("test -b /dev/vdb")[0] == 0, "the disk in the guest")
    assert guest.disk_size("vdb") == 16 * MIB
    guest.must("pattern /dev/vdb 2 seed && sync")
    assert address(booted.hv, booted.name, "vdb", live=True) == address(booted.hv, booted.name, "vdb", live=False)
    with contextlib.closing(booted.hv.connect()) as connection:
        connection.lookupByName(booted.name).destroy()
    before = content(path, "qcow2")
    booted.hv.start(booted.name)
    guest.wait_ready()
    assert guest.must("cat /sys/block/vdb/serial").strip() == "fresh"
    booted.once(disk="vdb", state="absent")
    assert booted.has("vdb") == (False, False)
    assert guest.run("test -b /dev/vdb")[0] != 0
    assert content(path, "qcow2") == before


def test_a_disk_grows_below_its_guest(booted: Running) -> None:
    booted.once(path=str(booted.images / "data.qcow2"), size="8M")
    wait_for(lambda: booted.guest.run("test -b /dev/vdb")[0] == 0, "the disk in the guest")
    booted.once(disk="vdb", size="16M")
    assert booted.guest.disk_size("vdb") == 16 * MIB


def test_a_limited_disk_is_slower_in_the_guest_than_one_without_a_limit(booted: Running) -> None:
    guest = booted.guest

    def read(target: str) -> int:
        """The bytes that the guest has read of a disk."""
        return 512 * int(guest.must(f"cat /sys/block/{target}/stat").split()[2])

    booted.once(path=str(booted.images / "limited.raw"), format="raw", size="16M", throttle={"total_bytes": "64K"})
    booted.once(path=str(booted.images / "free.raw"), format="raw", size="16M")
    wait_for(lambda: guest.run("test -b /dev/vdb && test -b /dev/vdc")[0] == 0, "the disks in the guest")
    guest.must("(cat /dev/vdb >/dev/null 2>&1 &); (cat /dev/vdc >/dev/null 2>&1 &)")
    wait_for(lambda: read("vdc") >= 16 * MIB, "all of the disk without a limit")
    assert read("vdb") < 8 * MIB


def test_what_is_mounted_in_the_guest_stays(booted: Running) -> None:
    path, guest = booted.images / "data.raw", booted.guest
    booted.once(path=str(path), size="16M", format="raw")
    wait_for(lambda: guest.run("test -b /dev/vdb")[0] == 0, "the disk in the guest")
    guest.must("mke2fs -q /dev/vdb && mkdir -p /mnt/x && mount -t ext2 /dev/vdb /mnt/x || mount /dev/vdb /mnt/x")
    result = booted.refused("is mounted in the guest at /mnt/x", disk="vdb", state="absent")
    assert result["mounted"] == ["/mnt/x"]
    guest.must("umount /mnt/x")
    booted.once(disk="vdb", state="absent")


def test_an_agent_that_does_not_answer_keeps_the_disk_unless_forced(booted: Running) -> None:
    booted.once(path=str(booted.images / "data.qcow2"), size="8M")
    feign_an_agent(booted.hv, booted.guest)
    result = booted.module(MODULE, {"name": booted.name, "disk": "vdb", "state": "absent"}, env=SHORT)
    assert result.get("failed"), result
    assert "whether vdb is mounted is not known" in result["msg"]
    assert booted.has("vdb") == (True, True)
    booted.once(disk="vdb", state="absent", force=True)


def test_a_paused_guest_keeps_its_disk_until_it_is_resumed(booted: Running) -> None:
    booted.once(path=str(booted.images / "data.qcow2"), size="8M")
    with contextlib.closing(booted.hv.connect()) as connection:
        connection.lookupByName(booted.name).suspend()
        asked = {"name": booted.name, "disk": "vdb", "state": "absent", "timeout": 1, "force": True}
        result = booted.module(MODULE, asked)
        assert "its guest is paused: resume it" in result["msg"]
        assert result["state"] == "paused"
        assert booted.has("vdb") == (True, True)
        connection.lookupByName(booted.name).resume()
    done = booted.module(MODULE, {**asked, "timeout": 60})
    assert done.get("changed"), done
    assert booted.has("vdb") == (False, False)


# Without a guest


def test_a_disk_comes_to_the_machine_and_its_definition_at_the_same_address(running: Running) -> None:
    for bus, target in (("virtio", "vdb"), ("scsi", "sda"), ("scsi", "sdb")):
        done = running.once(path=str(running.images / f"{target}.qcow2"), size="1M", bus=bus)
        assert (done["disks"][0]["target"], done["disks"][0]["pending"]) == (target, [])
        assert running.has(target) == (True, True)
        live, defined = (address(running.hv, running.name, target, live=live) for live in (True, False))
        assert live == defined


def test_a_limit_holds_at_once_and_after_the_next_start(running: Running) -> None:
    running.once(path=str(running.images / "d.qcow2"), size="1M", throttle={"total_iops": 100})
    assert running.limits("vdb") == {"total_iops_sec": 100}
    done = running.once(disk="vdb", throttle={"total_bytes": "1M", "total_bytes_max": "4M", "total_iops": 0})
    assert done["disks"][0]["pending"] == []
    assert running.limits("vdb") == {"total_bytes_sec": MIB, "total_bytes_sec_max": 4 * MIB}
    running.once(disk="vdb", throttle={"read_bytes": "2M", "write_bytes": "3M"})
    assert running.limits("vdb") == {"read_bytes_sec": 2 * MIB, "write_bytes_sec": 3 * MIB}
    found = disk(running.hv, running.name, "vdb", live=False)
    assert found is not None
    limits = {one.tag: one.text for one in found.findall("iotune/*")}
    assert limits == {"read_bytes_sec": str(2 * MIB), "write_bytes_sec": str(3 * MIB)}
    running.once(disk="vdb", throttle={"read_bytes": 0, "write_bytes": 0})
    assert running.limits("vdb") == {}


def test_what_waits_for_the_next_start_is_pending_until_then(running: Running) -> None:
    running.once(path=str(running.images / "d.qcow2"), size="1M")
    done = running.once(disk="vdb", cache="none", serial="later", detect_zeroes="on")
    assert sorted(done["disks"][0]["pending"]) == ["cache", "detect_zeroes", "serial"]
    with contextlib.closing(running.hv.connect()) as connection:
        connection.lookupByName(running.name).destroy()
        connection.lookupByName(running.name).create()
    again = running.module(MODULE, {"name": running.name, "disk": "vdb", "cache": "none"})
    assert (again["changed"], again["disks"][0]["pending"]) == (False, [])


def test_a_limit_of_the_definition_alone_waits_for_the_next_start(running: Running) -> None:
    running.once(path=str(running.images / "d.qcow2"), size="1M")
    done = running.once(disk="vdb", throttle={"total_iops": 9}, live=False)
    assert done["disks"][0]["pending"] == ["throttle"]
    assert running.limits("vdb") == {}
    running.once(disk="vdb", throttle={"total_iops": 9})
    assert running.limits("vdb") == {"total_iops_sec": 9}


def test_a_medium_changes_under_a_running_machine(
    hv: Hypervisor, module: Module, images: Path, make_domain: MakeDomain
) -> None:
    one, other = (make_image(images / f"{name}.iso", seed=name) for name in ("one", "other"))
    disks = [Disk(make_image(images / "root.raw")), Disk(one, target="hdc", device="cdrom", readonly=True)]
    guest = make_domain(disks, kernel=False)
    hv.start(guest.name)
    running = Running(hv, module, images, guest)
    for path in (str(other), "", str(one)):
        running.once(disk="hdc", path=path)
        for live in (True, False):
            found = disk(hv, guest.name, "hdc", live=live)
            assert found is not None
            source = found.find("source")
            assert (source.get("file", "") if source is not None else "") == path


def test_a_disk_that_no_guest_lets_go_stays_in_the_definition_too(running: Running) -> None:
    running.once(path=str(running.images / "d.qcow2"), size="1M")
    asked = {"name": running.name, "disk": "vdb", "state": "absent", "timeout": 1}
    for _again in range(2):
        result = running.module(MODULE, asked)
        assert result.get("failed"), result
        assert "the guest has not let the disk go within 1 s" in result["msg"]
        assert running.has("vdb") == (True, True)


def test_a_disk_and_its_image_go_while_the_machine_runs(running: Running) -> None:
    path = running.images / "d.qcow2"
    running.once(path=str(path), size="1M", bus="scsi")
    running.once(path=str(path), state="absent", remove_image=True)
    assert running.has("sda") == (False, False)
    assert not path.exists()


def test_a_disk_of_the_machine_alone_becomes_part_of_the_definition(running: Running) -> None:
    path = make_image(running.images / "d.qcow2", "qcow2")
    xml = (
        f"<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{path}'/>"
        "<target dev='vdc' bus='virtio'/></disk>"
    )
    with contextlib.closing(running.hv.connect()) as connection:
        connection.lookupByName(running.name).attachDeviceFlags(xml, libvirt.VIR_DOMAIN_AFFECT_LIVE)
    done = running.once(path=str(path), cache="none")
    assert done["disks"][0]["target"] == "vdc"
    assert done["disks"][0]["pending"] == ["cache"]
    live, defined = (address(running.hv, running.name, "vdc", live=live) for live in (True, False))
    assert live == defined


def test_a_disk_of_the_definition_alone_comes_to_the_machine(running: Running) -> None:
    path = running.images / "d.qcow2"
    done = running.once(path=str(path), size="1M", live=False)
    assert (done["disks"][0]["attached"], done["disks"][0]["pending"]) == (False, ["attached"])
    assert running.has("vdb") == (False, True)
    done = running.once(path=str(path))
    assert (done["disks"][0]["attached"], done["disks"][0]["pending"]) == (True, [])
    assert address(running.hv, running.name, "vdb", live=True) == address(running.hv, running.name, "vdb", live=False)


def test_a_disk_may_stay_until_the_machine_goes_off(running: Running) -> None:
    path = running.images / "d.qcow2"
    running.once(path=str(path), size="1M")
    done = running.once(path=str(path), state="absent", live=False)
    assert (done["disks"][0]["attached"], done["disks"][0]["pending"]) == (True, ["detached"])
    assert running.has("vdb") == (True, False)


def test_disks_that_do_not_come_live_are_offered_for_the_next_start(running: Running) -> None:
    for bus in ("sata", "ide"):
        path = str(running.images / f"{bus}.qcow2")
        running.refused("set live=false", path=path, size="1M", bus=bus)
    done = running.once(path=path, size="1M", bus="ide", live=False)
    assert done["disks"][0]["pending"] == ["attached"]


def test_a_machine_without_a_free_port_says_how_many_it_lacks(
    hv: Hypervisor, module: Module, images: Path, make_domain: MakeDomain
) -> None:
    guest = make_domain([Disk(make_image(images / "root.raw"))], kernel=False, machine="q35")
    hv.start(guest.name)
    disks = [{"name": guest.name, "path": str(images / f"{one}.qcow2"), "size": "1M"} for one in range(4)]
    foretold = module(MODULE, {"disks": disks}, check=True)
    result = module(MODULE, {"disks": disks})
    for one in (foretold, result):
        assert one.get("failed"), one
        missing = [error["missing_ports"] for error in one["failed_disks"]]
        assert missing == list(range(1, len(missing) + 1))
        assert missing
        assert "pcie-root-port" in one["msg"]
    assert [one["target"] for one in foretold["disks"]] == [one["target"] for one in result["disks"]]
    assert state(hv, guest.name) == libvirt.VIR_DOMAIN_RUNNING
