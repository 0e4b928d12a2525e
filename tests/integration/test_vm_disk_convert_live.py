# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""vm_disk_convert below a running guest: it writes all the while, and nothing of it is lost."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from lab import Disk, Guest, Hypervisor, run_module
from scene import definition, disk_of, leftovers, qemu_img

MODULE = "vm_disk_convert"


def file_system(path: Path, mib: int = 64) -> Path:
    """A raw disk with an ext4, which the lab's guest mounts."""
    qemu_img("create", "-q", "-f", "raw", path, f"{mib}M")
    subprocess.run(["mkfs.ext4", "-q", path], check=True)
    return path


def start_writing(guest: Guest) -> None:
    guest.must("pattern /data/pattern 8 live && sync && sha256sum /data/pattern >/data/SUMS")
    guest.must("(writer /data/records >/tmp/writer 2>&1 &); while [ ! -e /tmp/acked ]; do usleep 10000; done")


def stop_writing(guest: Guest) -> int:
    """Asserts that all that was acknowledged is there, and returns how many records that are."""
    guest.must("touch /tmp/stop; while pidof dd; do usleep 10000; done; sync; echo 3 >/proc/sys/vm/drop_caches")
    acked = int(guest.must("cat /tmp/acked"))
    said = guest.must("check /data/records; sha256sum -c /data/SUMS")
    assert int(said.split()[1]) >= acked > 0, said
    assert guest.must("cat /tmp/writer").strip() == ""
    return acked


@dataclass
class Journey:
    """A guest that writes while its disk goes raw → qcow2 → raw."""

    guest: Guest
    directory: Path
    before: str
    process: int
    predicted: dict[str, Any]
    untouched_by_check: bool
    there: dict[str, Any]
    between: tuple[str, str]
    again: dict[str, Any]
    back: dict[str, Any]
    acked: list[int]
    after: str
    process_after: int


@pytest.fixture(scope="module")
def journey(hv: Hypervisor) -> Iterator[Journey]:
    directory = hv.images / "live"
    directory.mkdir(mode=0o711)
    source = file_system(directory / "vm.raw")
    os.chown(source, 4321, 4321)
    source.chmod(0o640)
    xml = hv.domain_xml("live", [Disk(source, serial="DATA", cache="none")], vnc_password="sesame")
    guest = hv.boot(xml)
    start_writing(guest)
    params = {"name": "live", "disk": "vda", "uri": hv.uri}
    before, process = definition(hv, "live"), hv.qemu_pid("live")
    names = {path.name for path in directory.iterdir()}
    predicted = run_module(MODULE, params, check=True, diff=True)
    untouched = definition(hv, "live") == before and {path.name for path in directory.iterdir()} == names
    acked = [int(guest.must("cat /tmp/acked"))]
    there = run_module(MODULE, params, diff=True)
    between = disk_of(hv, "live")
    acked.append(int(guest.must("cat /tmp/acked")))
    again = run_module(MODULE, params)
    back = run_module(MODULE, {**params, "format": "raw", "mode": "live", "dest": str(directory / "back.raw")})
    acked.append(stop_writing(guest))
    yield Journey(
        *(guest, directory, before, process, predicted, untouched, there, between, again, back, acked),
        after=definition(hv, "live"),
        process_after=hv.qemu_pid("live"),
    )
    hv.remove("live")


def test_the_guest_never_stops_and_loses_no_record(journey: Journey) -> None:
    assert journey.process == journey.process_after
    assert journey.there["changed"], journey.there
    assert journey.back["changed"], journey.back
    assert journey.acked == sorted(set(journey.acked))


def test_a_running_domain_is_converted_live_unless_told_otherwise(journey: Journey) -> None:
    (disk,) = journey.there["disks"]
    assert (disk["mode"], disk["path"], disk["format"]) == ("live", str(journey.directory / "vm.qcow2"), "qcow2")
    assert (disk["previous_path"], disk["previous_format"]) == (str(journey.directory / "vm.raw"), "raw")
    assert disk["downtime_seconds"] is None
    assert [action.split()[0] for action in journey.there["actions"]] == ["copy", "let"]
    assert journey.between == (str(journey.directory / "vm.qcow2"), "qcow2")


def test_check_mode_of_a_live_conversion_predicts_it_and_writes_nothing(journey: Journey) -> None:
    assert journey.untouched_by_check
    assert journey.predicted["changed"]
    assert journey.predicted["actions"] == journey.there["actions"]
    assert journey.predicted["diff"] == journey.there["diff"]
    assert journey.predicted["disks"][0]["mode"] == "live"


def test_the_second_run_on_a_running_domain_changes_nothing(journey: Journey) -> None:
    assert not journey.again["changed"]
    assert journey.again["actions"] == []


def test_only_the_disk_changes_in_the_definition(journey: Journey) -> None:
    before, after = (ElementTree.fromstring(xml) for xml in (journey.before, journey.after))
    for tree in (before, after):
        disk = tree.find("devices/disk")
        assert disk is not None
        for name in ("source", "driver", "backingStore"):
            for element in disk.findall(name):
                disk.remove(element)
    texts = ["".join(ElementTree.tostring(tree, encoding="unicode").split()) for tree in (before, after)]
    assert texts[0] == texts[1]
    assert "sesame" in journey.after


def test_the_new_image_has_the_owner_that_the_old_one_has_at_rest(hv: Hypervisor, journey: Journey) -> None:
    old = os.stat(journey.directory / "vm.raw")
    assert (old.st_uid, old.st_gid, old.st_mode & 0o777) == (4321, 4321, 0o640)
    assert leftovers(hv, "live", journey.directory) == []


def test_the_new_disk_is_there_after_a_stop_and_a_start(hv: Hypervisor, journey: Journey) -> None:
    journey.guest.must("umount /data; sync")
    subprocess.run(["virsh", "-q", "-c", hv.uri, "destroy", "live"], check=True)
    new = os.stat(journey.directory / "back.raw")
    assert (new.st_uid, new.st_gid, new.st_mode & 0o777) == (4321, 4321, 0o640)
    assert disk_of(hv, "live") == (str(journey.directory / "back.raw"), "raw")
    hv.start("live")
    journey.guest.wait_ready()
    said = journey.guest.must("check /data/records; sha256sum -c /data/SUMS")
    assert int(said.split()[1]) >= journey.acked[-1]
