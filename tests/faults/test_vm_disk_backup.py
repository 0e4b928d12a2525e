# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""vm_disk_backup killed and disturbed: what is called whole afterwards is right, and nothing is left of the rest."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import libvirt
import libvirt_qemu
import pytest
from lab import Disk, Guest, run_module, start_module
from lab.fixtures import MakeDomain
from support.cramped import cramped
from support.injection import Share, constants, environment, in_shares, killed_at, points, signalled_at
from support.scene import qemu_img
from support.waits import wait_for

MODULE = "vm_disk_backup"
MIB = 1 << 20
#: The size of a disk, in GiB, that takes seconds to be copied.
WIDE = 64


class Machine:
    """A running guest that writes to its disk, and the backups of that."""

    def __init__(self, guest: Guest, dest: Path) -> None:
        self.guest, self.hv, self.name = guest, guest.hv, guest.name
        self.dest = dest
        self.written = 0

    def params(self, backup: str, **options: Any) -> dict[str, Any]:
        usual = {"name": self.name, "uri": self.hv.uri, "dest_dir": str(self.dest), "disks": ["vda"]}
        return {**usual, "backup": backup, **options}

    @contextlib.contextmanager
    def domain(self) -> Iterator[libvirt.virDomain]:
        with contextlib.closing(self.hv.connect()) as connection:
            yield connection.lookupByName(self.name)

    def write(self, kib: int = 128) -> None:
        """Something new, each time elsewhere."""
        self.written += 1
        offset = 0 if kib > 1024 else self.written * 5 % 200
        self.guest.must(f"dd if=/dev/urandom of=/dev/vda bs=64k seek={offset} count={kib // 64} 2>/dev/null; sync")

    def content(self) -> str:
        """The SHA-256 of what the guest has on its disk."""
        self.guest.must("echo 3 > /proc/sys/vm/drop_caches")
        return self.guest.must("sha256sum /dev/vda").split()[0]

    def is_now(self, backup: dict[str, Any]) -> bool:
        return content_of(backup) == self.content()

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

    def ask_monitor(self, command: str, **arguments: Any) -> Any:
        """The answer of QEMU's monitor."""
        with self.domain() as domain:
            asked = json.dumps({"execute": command, "arguments": arguments})
            return json.loads(libvirt_qemu.qemuMonitorCommand(domain, asked, 0))["return"]

    def nodes(self) -> list[dict[str, Any]]:
        """The images that QEMU has open, as its monitor says."""
        found = self.ask_monitor("query-named-block-nodes", flat=True)
        assert isinstance(found, list)
        return found

    def lasts(self, target: str) -> bool:
        """Whether QEMU copies that disk; from now on so slowly that it does not get done."""
        jobs = [job["id"] for job in self.ask_monitor("query-jobs") if job["id"].startswith(f"backup-{target}-")]
        for job in jobs:
            self.ask_monitor("block-job-set-speed", device=job, speed=1)
        return bool(jobs)

    def bitmaps(self) -> list[str]:
        """The names of the bitmaps that QEMU has."""
        return [bitmap["name"] for node in self.nodes() for bitmap in node.get("dirty-bitmaps", ()) if "name" in bitmap]

    def files_open_below(self, directory: Path) -> list[str]:
        """The files there that QEMU has open."""
        return [node["file"] for node in self.nodes() if node["file"].startswith(str(directory))]

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


def content_of(backup: dict[str, Any]) -> str:
    """The SHA-256 of the disk that plain qemu-img reads from the backup."""
    path = Path(backup["disks"][0]["path"])
    raw = path.parents[2] / "content.raw"
    qemu_img("convert", "-f", "qcow2", "-O", "raw", path, raw)
    found = hashlib.sha256(raw.read_bytes()).hexdigest()
    raw.unlink()
    return found


@pytest.fixture
def machine(images: Path, make_domain: MakeDomain) -> Machine:
    """With a second disk that takes minutes to be copied."""
    for name, size in (("vm", "16M"), ("huge", "4T")):
        qemu_img("create", "-q", "-f", "qcow2", images / f"{name}.qcow2", size)
    (images / "backups").mkdir(mode=0o711)
    disks = [Disk(images / "vm.qcow2", "qcow2"), Disk(images / "huge.qcow2", "qcow2", "vdb")]
    return Machine(make_domain(disks, start=True), images / "backups")


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
        kept = machine.content()
        killed_at(point, machine.params(f"b{number}"), module=MODULE)
        machine.write()
        assert machine.content() != kept
        same = number % 8 < 4
        result = run_module(MODULE, machine.params(f"b{number}" if same else f"c{number}"))
        if same and not result.get("changed"):  # it was whole already when it was killed
            assert result.get("backup", {}).get("whole"), (point, result)
            backup, adopted = result["backup"], True
        else:
            backup = whole(result)
            adopted = any("wait for the backup" in action for action in result["actions"])
        assert content_of(backup) == (kept if adopted else machine.content()), point
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


@contextlib.contextmanager
def libvirtd_forgets(machine: Machine) -> Iterator[None]:
    """libvirtd is killed at the end of the block, before it has noted anything of what was begun in it: it writes down
    what a domain is at in a new file, which is in the way here."""
    in_the_way = machine.hv.directory / "run/qemu" / f"{machine.name}.xml.new"
    in_the_way.mkdir()
    yield
    machine.hv.kill_libvirtd()
    in_the_way.rmdir()
    machine.hv.start_libvirtd()


@pytest.fixture
def wide(images: Path, make_domain: MakeDomain) -> Machine:
    """With a second disk, empty, of which much has changed since its backup: its copy takes seconds."""
    disks = [Disk(images / "vm.qcow2", "qcow2"), Disk(images / "wide.qcow2", "qcow2", "vdb")]
    qemu_img("create", "-q", "-f", "qcow2", disks[0].path, "16M")
    qemu_img("create", "-q", "-f", "qcow2", "-o", "cluster_size=2M", disks[1].path, f"{WIDE}G")
    (images / "backups").mkdir(mode=0o711)
    machine = Machine(make_domain(disks, start=True), images / "backups")
    machine.write()
    whole(run_module(MODULE, machine.params("first", disks=["vda", "vdb"])))
    with machine.domain() as domain:
        domain.destroy()
    changes = [word for gib in range(WIDE) for word in ("-c", f"write -q -z {gib}G 1G")]
    subprocess.run(["qemu-io", "-f", "qcow2", *changes, disks[1].path], check=True)
    machine.guest = machine.hv.wake(machine.name)
    return machine


@pytest.mark.parametrize("module_too", [True, False], ids=["with the module", "alone"])
def test_after_libvirtd_was_killed_and_has_forgotten_the_job_the_next_backup_lacks_nothing(
    wide: Machine, module_too: bool
) -> None:
    """QEMU keeps the bitmap of that job then, and libvirt would refuse the next one (HAZARDS K7)."""
    machine = wide
    machine.write()
    with libvirtd_forgets(machine):
        run = start_module(MODULE, machine.params("second", disks=["vda", "vdb"], mode="incremental"))
        wait_for(lambda: machine.lasts("vdb"), "the job")
        if module_too:
            run.kill()
    assert not machine.is_backed_up()
    if module_too:
        assert "backup-vdb" in machine.bitmaps()
    else:
        assert "libvirt does not tell how it ended" in run.result()["msg"]
    machine.write()
    backup = whole(run_module(MODULE, machine.params("third", disks=["vda", "vdb"], mode="incremental")))
    assert machine.is_now(backup)
    machine.require_clean(backup)
    assert {*machine.bitmaps()} == {backup["checkpoint"]}
    assert machine.files_open_below(machine.dest) == []


def test_a_full_file_system_costs_this_backup_and_no_other() -> None:
    with cramped(40) as (hypervisor, small):
        image = hypervisor.images / "vm.qcow2"
        qemu_img("create", "-q", "-f", "qcow2", image, "16M")
        hypervisor.define(hypervisor.domain_xml("cramped", [Disk(image, "qcow2")]))
        machine = Machine(hypervisor.wake("cramped"), small)
        machine.write()
        first = whole(run_module(MODULE, machine.params("first")))
        machine.write(15 * 1024)
        ballast = small / "ballast"
        room = os.statvfs(small)
        ballast.write_bytes(bytes(room.f_bavail * room.f_frsize - 6 * MIB))
        unmeasured = constants({"_vm_disk_backup.survey": {"_FIRST_CLUSTERS": -(1 << 30)}})
        failed = run_module(MODULE, machine.params("second"), env=environment(CONSTANTS=unmeasured))
        assert "failed: " in failed.get("msg", ""), failed
        ballast.unlink()
        machine.require_clean(first)
        backup = whole(run_module(MODULE, machine.params("third", mode="incremental")))
        assert machine.is_now(backup)


@in_shares(4)
def test_killed_while_it_removes_an_old_chain_each_backup_is_whole_or_gone(
    images: Path, make_domain: MakeDomain, tmp_path: Path, share: Share
) -> None:
    qemu_img("create", "-q", "-f", "qcow2", images / "vm.qcow2", "16M")
    (images / "backups").mkdir(mode=0o711)
    machine = Machine(make_domain([Disk(images / "vm.qcow2", "qcow2")], start=True), images / "backups")
    expected: dict[str, str] = {}

    def chain(*names: str) -> None:
        for name, kind in zip(names, ("full", "incremental"), strict=False):
            machine.write()
            expected[name] = content_of(whole(run_module(MODULE, machine.params(name, kind=kind))))
            assert expected[name] == machine.content()

    chain("kept")
    tidying = machine.params("kept", keep={"last": 1})
    chain("p", "q")
    chain("r", "s")
    for number, point in share.take(points(tidying, tmp_path / "points", module=MODULE)):
        added = [f"{word}{number}" for word in ("x", "y")]
        chain(*added)
        killed_at(point, tidying, module=MODULE)
        found = run_module("vm_disk_backup_info", {"dest_dir": str(machine.dest), "verify": True})["backups"]
        assert {one["name"]: one["problems"] for one in found if not one["whole"]} == {}, point
        assert all(content_of(one) == expected[one["name"]] for one in found), point
        run_module(MODULE, tidying)
        assert not run_module(MODULE, tidying)["changed"], point
        names = [path.name for path in (machine.dest / found[0]["uuid"]).iterdir()]
        assert sorted(names) == sorted(["kept", *added]), point
    chain("z")
