# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""vm_disk_backup killed and disturbed: what is called whole afterwards is right, and nothing is left of the rest."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import libvirt
import libvirt_qemu
import pytest
from lab import Disk, Hypervisor, run_module, start_module
from lab.fixtures import MakeDomain
from support.cramped import cramped
from support.injection import Share, constants, environment, in_shares, killed_at, paused_at, points, signalled_at
from support.scene import qemu_img
from support.waits import wait_for

MODULE = "vm_disk_backup"
MIB = 1 << 20


class Machine:
    """A running domain without an operating system, whose disk is written through its QEMU, and its backups."""

    def __init__(self, hv: Hypervisor, images: Path, name: str) -> None:
        self.hv, self.name = hv, name
        self.image, self.dest, self.kept = images / "vm.qcow2", images / "backups", images / "kept.raw"
        self.written = 0
        self.dest.mkdir(mode=0o711)
        qemu_img("create", "-q", "-f", "qcow2", self.image, "16M")

    def params(self, backup: str, **options: Any) -> dict[str, Any]:
        return {
            "name": self.name,
            "uri": self.hv.uri,
            "backup": backup,
            "dest_dir": str(self.dest),
            "disks": ["vda"],
            **options,
        }

    @contextlib.contextmanager
    def domain(self) -> Iterator[libvirt.virDomain]:
        with contextlib.closing(self.hv.connect()) as connection:
            yield connection.lookupByName(self.name)

    def monitor(self, command: str) -> None:
        """Has QEMU do something with the image of the disk."""
        with self.domain() as domain:
            asked = json.dumps({"execute": "query-named-block-nodes", "arguments": {"flat": True}})
            nodes = json.loads(libvirt_qemu.qemuMonitorCommand(domain, asked, 0))["return"]
            (node,) = [one["node-name"] for one in nodes if (one["drv"], one["file"]) == ("qcow2", str(self.image))]
            words = {"execute": "human-monitor-command", "arguments": {"command-line": f'qemu-io {node} "{command}"'}}
            said = json.loads(libvirt_qemu.qemuMonitorCommand(domain, json.dumps(words), 0))["return"]
            assert "rror" not in said, said

    def write(self) -> None:
        """Something new, each time elsewhere."""
        self.written += 1
        offset = self.written * 5 * 64 * 1024 % (15 * MIB)
        self.monitor(f"write -P {self.written % 250 + 1} {offset} 128k")
        self.monitor("flush")

    def keep(self) -> None:
        """What the disk holds now, for is_kept()."""
        qemu_img("convert", "-U", "-f", "qcow2", "-O", "raw", self.image, self.kept)

    def is_kept(self, backup: dict[str, Any]) -> bool:
        argv = ["qemu-img", "compare", "-f", "raw", "-F", "qcow2", self.kept, backup["disks"][0]["path"]]
        return subprocess.run(argv, check=False, capture_output=True).returncode == 0

    def is_now(self, backup: dict[str, Any]) -> bool:
        argv = ["qemu-img", "compare", "-U", "-f", "qcow2", "-F", "qcow2", self.image, backup["disks"][0]["path"]]
        return subprocess.run(argv, check=False, capture_output=True).returncode == 0

    def checkpoints(self) -> list[str]:
        with self.domain() as domain:
            return [one.getName() for one in domain.listAllCheckpoints()]

    def is_backed_up(self) -> bool:
        with self.domain() as domain:
            try:
                domain.backupGetXMLDesc()
            except libvirt.libvirtError:
                return False
            return True

    def require_clean(self, backup: dict[str, Any]) -> None:
        """Nothing is left of any run but whole backups, and the checkpoint of the newest."""
        assert not self.is_backed_up()
        assert self.checkpoints() == [backup["checkpoint"]]
        assert sorted(path.name for path in self.dest.iterdir()) == [backup["uuid"]]
        (place,) = self.dest.iterdir()
        assert [path.name for path in place.iterdir() if path.name.startswith(".")] == []
        found = run_module("vm_disk_backup_info", {"dest_dir": str(self.dest), "verify": True})["backups"]
        assert [one["problems"] for one in found if not one["whole"]] == []
        assert found[-1] == backup


@pytest.fixture
def machine(hv: Hypervisor, images: Path, make_domain: MakeDomain) -> Machine:
    """With a second disk that takes minutes to be copied."""
    huge = images / "huge.qcow2"
    guest = make_domain([Disk(images / "vm.qcow2", "qcow2"), Disk(huge, "qcow2", "vdb")], kernel=False)
    qemu_img("create", "-q", "-f", "qcow2", huge, "4T")
    made = Machine(hv, images, guest.name)
    hv.start(guest.name)
    return made


def whole(result: dict[str, Any]) -> dict[str, Any]:
    assert result.get("changed"), result
    backup = result["backup"]
    assert isinstance(backup, dict)
    assert backup["whole"], backup
    return backup


@in_shares(4)
def test_killed_at_any_moment_the_next_backup_lacks_nothing(machine: Machine, tmp_path: Path, share: Share) -> None:
    machine.write()
    whole(run_module(MODULE, machine.params("first")))
    machine.write()
    found = points(machine.params("second"), tmp_path / "points", module=MODULE)
    for number, point in share.take(found):
        machine.write()
        machine.keep()
        killed_at(point, machine.params(f"b{number}"), module=MODULE)
        machine.write()
        same = number % 8 < 4
        result = run_module(MODULE, machine.params(f"b{number}" if same else f"c{number}"))
        if same and not result.get("changed"):  # it was whole already when it was killed
            assert result.get("backup", {}).get("whole"), (point, result)
            backup, adopted = result["backup"], True
        else:
            backup = whole(result)
            adopted = any("wait for the backup" in action for action in result["actions"])
        assert machine.is_kept(backup) if adopted else machine.is_now(backup), point
        newest = whole(run_module(MODULE, machine.params(f"d{number}")))
        assert machine.is_now(newest), point
        machine.require_clean(newest)


@pytest.mark.parametrize("point", ["virDomainBackupBegin 1", "fsync 6"])
def test_told_to_end_it_leaves_neither_files_nor_a_checkpoint(machine: Machine, point: str) -> None:
    machine.write()
    first = whole(run_module(MODULE, machine.params("first")))
    machine.write()
    result = signalled_at(point, "SIGTERM", machine.params("second"), module=MODULE)
    assert "interrupted by SIGTERM" in result["msg"]
    machine.require_clean(first)
    machine.write()
    backup = whole(run_module(MODULE, machine.params("third", mode="incremental")))
    assert machine.is_now(backup)


def test_a_killed_libvirtd_costs_this_backup_and_no_other(machine: Machine) -> None:
    """The job goes on without it, and so does its checkpoint, which is no base (HAZARDS K1, K7)."""
    machine.write()
    whole(run_module(MODULE, machine.params("first")))
    machine.write()
    after_its_begin = "virDomainBackupBegin 1 > ask-backupGetXMLDesc 1"
    with paused_at(after_its_begin, machine.params("second"), module=MODULE) as run:
        machine.hv.kill_libvirtd()
    assert run.result()["failed"]
    machine.hv.start_libvirtd()
    result = run_module(MODULE, machine.params("second"))
    if result.get("failed"):  # libvirtd had the end of the job in its memory alone
        assert "libvirt does not tell how it ended" in result["msg"]
        result = run_module(MODULE, machine.params("second"))
    backup = whole(result)
    assert machine.is_now(backup)
    machine.require_clean(backup)


def test_an_aborted_job_is_no_backup_and_its_checkpoint_no_base(machine: Machine) -> None:
    """HAZARDS K1: libvirt keeps the checkpoint of a job that was aborted, and an increment from it would be wrong."""
    machine.write()
    first = whole(run_module(MODULE, machine.params("first")))
    machine.write()
    run = start_module(MODULE, machine.params("second", disks=["vda", "vdb"]))
    wait_for(machine.is_backed_up, "the job")
    with machine.domain() as domain:
        domain.abortJob()
    result = run.result()
    assert "failed: Operation canceled" in result["msg"], result
    machine.require_clean(first)
    machine.write()
    backup = whole(run_module(MODULE, machine.params("third", mode="incremental")))
    assert machine.is_now(backup)


def test_a_full_file_system_costs_this_backup_and_no_other() -> None:
    with cramped(40) as (hypervisor, small):
        machine = Machine(hypervisor, hypervisor.images, "cramped")
        machine.dest = small
        hypervisor.define(hypervisor.domain_xml(machine.name, [Disk(machine.image, "qcow2")], kernel=False))
        hypervisor.start(machine.name)
        machine.write()
        first = whole(run_module(MODULE, machine.params("first")))
        machine.monitor(f"write -P 77 0 {15 * MIB}")
        ballast = small / "ballast"
        room = os.statvfs(small)
        ballast.write_bytes(bytes(room.f_bavail * room.f_frsize - 6 * MIB))
        unmeasured = constants({"_vm_disk_backup.survey": {"_FIRST_CLUSTERS": -(1 << 30)}})
        failed = run_module(MODULE, machine.params("second"), env=environment(CONSTANTS=unmeasured))
        assert "its file system is full" in failed["msg"], failed
        ballast.unlink()
        machine.require_clean(first)
        backup = whole(run_module(MODULE, machine.params("third", mode="incremental")))
        assert machine.is_now(backup)
