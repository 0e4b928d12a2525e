# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""vm_disk on domains that are off: disks made, attached, used otherwise, detached; the second run changes nothing."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from lab import Disk, Guest, Hypervisor
from lab.fixtures import MakeDomain
from support.scene import content, definition, leftovers, make_image, make_overlay, qemu_img, unchanged

Module = Callable[..., dict[str, Any]]
MODULE = "vm_disk"


def element(hv: Hypervisor, name: str, target: str) -> ElementTree.Element | None:
    """The <disk> that the definition has at TARGET."""
    return ElementTree.fromstring(definition(hv, name)).find(f"devices/disk/target[@dev='{target}']/..")


def disk(hv: Hypervisor, name: str, target: str) -> ElementTree.Element:
    found = element(hv, name, target)
    assert found is not None, f"{name} has no {target}"
    return found


def said(hv: Hypervisor, name: str, target: str, path: str) -> dict[str, str]:
    """The attributes of what is at PATH in a <disk>."""
    found = disk(hv, name, target).find(path)
    assert found is not None, f"{target} has no {path}"
    return dict(found.attrib)


def info(path: Path) -> dict[str, Any]:
    found = json.loads(qemu_img("info", "-U", "--output=json", "--", path))
    assert isinstance(found, dict)
    return found


class Machine:
    """A domain that is off, with one disk, and runs of the module on it."""

    def __init__(self, hv: Hypervisor, module: Module, images: Path, guest: Guest) -> None:
        self.hv, self.module, self.images, self.name = hv, module, images, guest.name

    def thrice(self, **params: Any) -> dict[str, Any]:
        """What a run does that check mode has foretold, and that the next run leaves as it is."""
        asked = {"name": self.name, **params}
        with unchanged(self.hv, self.images, self.name):
            foretold = self.module(MODULE, asked, check=True)
        assert foretold.get("changed"), foretold
        done = self.module(MODULE, asked)
        assert done.get("changed"), done
        assert done["actions"] == foretold["actions"]
        with unchanged(self.hv, self.images, self.name):
            again = self.module(MODULE, asked)
        assert again.get("changed") is False, again
        if params.get("state") != "absent":  # of a disk that is gone nothing is known
            assert again["disks"] == [{**one, "changed": False} for one in done["disks"]]
        for key in ("target", "path", "virtual_size", "attached", "pending"):
            assert [one[key] for one in foretold["disks"]] == [one[key] for one in done["disks"]]
        assert leftovers(self.hv, self.name, self.images) == []
        return done

    def refused(self, words: str, **params: Any) -> dict[str, Any]:
        with unchanged(self.hv, self.images, self.name):
            for check in (True, False):
                result = self.module(MODULE, {"name": self.name, **params}, check=check)
                assert result.get("failed"), result
                assert words in result["msg"], result["msg"]
        return result


@pytest.fixture
def machine(hv: Hypervisor, module: Module, images: Path, make_domain: MakeDomain) -> Machine:
    guest = make_domain([Disk(make_image(images / "root.raw"))], kernel=False)
    return Machine(hv, module, images, guest)


# Attached


def test_a_disk_is_made_and_attached(machine: Machine) -> None:
    path = machine.images / "data.qcow2"
    done = machine.thrice(path=str(path), size="64M")
    assert done["disks"][0]["target"] == "vdb"
    assert info(path)["virtual-size"] == 64 << 20
    assert said(machine.hv, machine.name, "vdb", "source") == {"file": str(path)}
    assert said(machine.hv, machine.name, "vdb", "driver") == {"name": "qemu", "type": "qcow2"}


def test_an_image_that_is_there_keeps_its_content(machine: Machine) -> None:
    path = make_image(machine.images / "there.raw", seed="there")
    before = content(path, "raw")
    machine.thrice(path=str(path), format="raw", disk="vdd")
    assert content(path, "raw") == before
    assert said(machine.hv, machine.name, "vdd", "driver")["type"] == "raw"


def test_an_image_that_is_there_grows_as_it_is_attached_and_afterwards(machine: Machine) -> None:
    path = make_image(machine.images / "there.qcow2", "qcow2")
    machine.thrice(path=str(path), size="16M")
    assert info(path)["virtual-size"] == 16 << 20
    machine.thrice(disk="vdb", size="32M")
    assert info(path)["virtual-size"] == 32 << 20


def test_an_image_is_made_as_the_task_says(machine: Machine) -> None:
    base = make_image(machine.images / "base.qcow2", "qcow2")
    overlay, thick = machine.images / "overlay.qcow2", machine.images / "thick.raw"
    machine.thrice(path=str(overlay), backing_file=str(base), backing_format="qcow2", cluster_size="128K")
    machine.thrice(path=str(thick), format="raw", size="8M", allocation="lazy_zeroed_thick", mode="0640")
    assert (info(overlay)["full-backing-filename"], info(overlay)["cluster-size"]) == (str(base), 128 << 10)
    assert thick.stat().st_blocks * 512 >= 8 << 20
    assert thick.stat().st_mode & 0o777 == 0o640


def test_a_new_image_belongs_to_the_user_of_qemu(machine: Machine) -> None:
    path = machine.images / "data.qcow2"
    done = machine.thrice(path=str(path), size="1M")
    assert path.stat().st_uid != 0
    assert path.stat().st_mode & 0o777 == 0o600
    assert done["disks"][0]["file"] == {"owner": path.owner(), "group": path.group(), "mode": "0600"}


def test_each_bus_has_targets_of_its_own_and_a_missing_controller_comes_too(machine: Machine) -> None:
    for bus, target in (("scsi", "sda"), ("sata", "sdb"), ("usb", "sdc"), ("virtio", "vdb")):
        done = machine.thrice(path=str(machine.images / f"{bus}.qcow2"), size="1M", bus=bus)
        assert done["disks"][0]["target"] == target
        assert said(machine.hv, machine.name, target, "target")["bus"] == bus
    domain = ElementTree.fromstring(definition(machine.hv, machine.name))
    assert [one.get("model") for one in domain.findall("devices/controller[@type='scsi']")] == ["virtio-scsi"]


def test_all_that_a_task_says_of_the_use_of_a_disk_is_in_the_definition(machine: Machine) -> None:
    path = machine.images / "data.raw"
    machine.thrice(
        path=str(path),
        format="raw",
        size="8M",
        cache="none",
        io="native",
        discard="unmap",
        detect_zeroes="unmap",
        error_policy="report",
        serial="one two",
        shareable=True,
        throttle={
            "read_bytes": "1M",
            "read_bytes_max": "4M",
            "read_bytes_max_length": 3,
            "total_iops": 100,
            "group": "g",
        },
    )
    found = disk(machine.hv, machine.name, "vdb")
    driver = {"cache": "none", "io": "native", "discard": "unmap", "detect_zeroes": "unmap", "error_policy": "report"}
    assert driver.items() <= said(machine.hv, machine.name, "vdb", "driver").items()
    assert found.findtext("serial") == "one two"
    assert found.find("shareable") is not None
    limits = {one.tag: one.text for one in found.findall("iotune/*")}
    assert limits == {
        "read_bytes_sec": "1048576",
        "read_bytes_sec_max": "4194304",
        "read_bytes_sec_max_length": "3",
        "total_iops_sec": "100",
        "group_name": "g",
    }


def test_a_volume_is_made_in_its_pool_and_named_by_the_definition(machine: Machine) -> None:
    pool, path = "vm-disk-pool", machine.images / "data.qcow2"
    machine.hv.pool(pool, machine.images)
    try:
        machine.thrice(pool=pool, volume=path.name, size="2M")
        assert said(machine.hv, machine.name, "vdb", "source") == {"pool": pool, "volume": path.name}
        assert info(path)["virtual-size"] == 2 << 20
        machine.thrice(pool=pool, volume=path.name, state="absent", remove_image=True)
        assert not path.exists()
    finally:
        with contextlib.closing(machine.hv.connect()) as connection:
            found = connection.storagePoolLookupByName(pool)
            found.destroy()
            found.undefine()


# Used otherwise


def test_an_update_drops_nothing_that_the_task_does_not_name(machine: Machine) -> None:
    path = str(machine.images / "data.qcow2")
    machine.thrice(path=path, size="8M", cache="none", discard="unmap", throttle={"total_bytes": "1M"}, serial="kept")
    machine.thrice(disk="vdb", detect_zeroes="on")
    machine.thrice(disk="vdb", throttle={"total_iops": 10})
    expected = {"name": "qemu", "type": "qcow2", "cache": "none", "discard": "unmap", "detect_zeroes": "on"}
    assert said(machine.hv, machine.name, "vdb", "driver") == expected
    assert disk(machine.hv, machine.name, "vdb").findtext("serial") == "kept"
    limits = {one.tag: one.text for one in disk(machine.hv, machine.name, "vdb").findall("iotune/*")}
    assert limits == {"total_bytes_sec": "1048576", "total_iops_sec": "10"}


def test_what_is_set_back_is_gone_from_the_definition(machine: Machine) -> None:
    path = str(machine.images / "data.qcow2")
    before = {"cache": "none", "serial": "x", "readonly": True, "throttle": {"total_iops": 5, "total_iops_max": 9}}
    machine.thrice(path=path, size="8M", **before)
    none = {"cache": "default", "serial": "", "readonly": False, "throttle": {"total_iops": 0, "total_iops_max": 0}}
    machine.thrice(disk="vdb", **none)
    found = disk(machine.hv, machine.name, "vdb")
    assert said(machine.hv, machine.name, "vdb", "driver") == {"name": "qemu", "type": "qcow2"}
    assert {one.tag for one in found} == {"driver", "source", "target", "address"}


def test_a_limit_on_each_direction_takes_the_place_of_one_on_both(machine: Machine) -> None:
    machine.thrice(path=str(machine.images / "a.qcow2"), size="1M", throttle={"total_bytes": "8M", "total_iops": 7})
    machine.thrice(disk="vdb", throttle={"write_bytes": "1M"})
    limits = {one.tag: one.text for one in disk(machine.hv, machine.name, "vdb").findall("iotune/*")}
    assert limits == {"write_bytes_sec": "1048576", "total_iops_sec": "7"}


def test_a_domain_boots_in_the_order_of_its_disks(
    hv: Hypervisor, module: Module, images: Path, make_domain: Any
) -> None:
    guest = make_domain([Disk(make_image(images / "root.raw"), boot_order=1)], kernel=False)
    machine = Machine(hv, module, images, guest)
    machine.thrice(path=str(images / "second.qcow2"), size="1M", boot_order=2)
    assert said(hv, guest.name, "vdb", "boot") == {"order": "2"}
    machine.refused("1 is that of vda", disk="vdb", boot_order=1)


# Drives


def test_a_drive_gets_a_medium_another_one_and_none(machine: Machine) -> None:
    one, other = make_image(machine.images / "one.iso"), make_image(machine.images / "other.iso", seed="other")
    machine.thrice(disk="hdc", device="cdrom", path=str(one))
    assert said(machine.hv, machine.name, "hdc", "source") == {"file": str(one)}
    machine.thrice(disk="hdc", path=str(other))
    assert said(machine.hv, machine.name, "hdc", "source") == {"file": str(other)}
    machine.thrice(disk="hdc", path="")
    assert disk(machine.hv, machine.name, "hdc").find("source") is None
    machine.thrice(disk="hdc", path=str(one))
    machine.thrice(disk="hdc", state="absent")
    assert element(machine.hv, machine.name, "hdc") is None


# Detached


def test_a_detached_disk_keeps_its_image(machine: Machine) -> None:
    path = machine.images / "data.qcow2"
    machine.thrice(path=str(path), size="1M")
    machine.thrice(path=str(path), state="absent")
    assert element(machine.hv, machine.name, "vdb") is None
    assert path.exists()


def test_of_an_image_that_is_not_there_nobody_knows_the_owner(machine: Machine) -> None:
    asked = {"name": machine.name, "path": str(machine.images / "data.qcow2"), "size": "1M"}
    foretold = machine.module(MODULE, asked, check=True)
    assert foretold["disks"][0]["file"] == {"owner": None, "group": None, "mode": None}


def test_an_image_is_removed_with_its_disk(machine: Machine) -> None:
    path = machine.images / "data.qcow2"
    machine.thrice(path=str(path), size="1M")
    machine.thrice(path=str(path), state="absent", remove_image=True)
    assert not path.exists()


def test_a_disk_with_another_image_than_the_task_says_is_not_detached(machine: Machine) -> None:
    path = str(machine.images / "data.qcow2")
    machine.thrice(path=path, size="1M")
    machine.refused("asked to detach", disk="vda", path=path, state="absent")
    machine.refused("has ", disk="vdb", path=str(machine.images / "other.qcow2"), state="absent")


def test_an_image_with_overlays_is_not_removed_and_its_disk_stays(machine: Machine) -> None:
    path = machine.images / "data.qcow2"
    machine.thrice(path=str(path), size="8M")
    make_overlay(machine.images / "overlay.qcow2", path, "qcow2")
    result = machine.refused("overlay.qcow2", path=str(path), state="absent", remove_image=True)
    assert result["dependents"] == [str(machine.images / "overlay.qcow2")]


def test_a_disk_that_is_not_there_is_not_missed(machine: Machine) -> None:
    with unchanged(machine.hv, machine.images, machine.name):
        assert not machine.module(MODULE, {"name": machine.name, "disk": "vdz", "state": "absent"})["changed"]


# Many


def test_one_task_has_disks_of_several_domains(machine: Machine, make_domain: MakeDomain) -> None:
    other = make_domain([Disk(make_image(machine.images / "other-root.raw"))], kernel=False)
    disks = [
        {"name": name, "path": str(machine.images / f"{name}-{number}.qcow2"), "size": "1M"}
        for name in (machine.name, other.name)
        for number in range(10)
    ]
    done = machine.module(MODULE, {"disks": disks})
    assert done.get("changed"), done
    targets = [f"vd{letter}" for letter in "bcdefghijk"]
    assert [one["target"] for one in done["disks"]] == targets * 2
    assert all(Path(one["path"]).exists() for one in disks)
    again = machine.module(MODULE, {"disks": disks})
    assert not again["changed"]
    assert [one["target"] for one in again["disks"]] == targets * 2


def test_disks_of_one_task_share_the_controller_that_comes_with_the_first(machine: Machine) -> None:
    paths = [str(machine.images / f"{number}.qcow2") for number in range(3)]
    disks = [{"name": machine.name, "path": path, "size": "1M", "bus": "scsi"} for path in paths]
    foretold = machine.module(MODULE, {"disks": disks}, check=True)
    done = machine.module(MODULE, {"disks": disks})
    assert done.get("changed"), done
    assert done["actions"] == foretold["actions"]
    assert len([action for action in done["actions"] if action.startswith("add SCSI controller")]) == 1
    assert not machine.module(MODULE, {"disks": disks})["changed"]


def test_the_error_of_one_disk_keeps_nobody_else_from_theirs(machine: Machine) -> None:
    good, bad = str(machine.images / "good.qcow2"), str(machine.images / "bad.qcow2")
    disks = [{"name": machine.name, "path": bad}, {"name": machine.name, "path": good, "size": "1M"}]
    result = machine.module(MODULE, {"disks": disks})
    assert result.get("failed"), result
    assert [one["path"] for one in result["disks"]] == [good]
    assert "give the size" in result["failed_disks"][0]["msg"]
    assert element(machine.hv, machine.name, "vdb") is not None
