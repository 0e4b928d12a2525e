# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""vm_disk_backup: what it calls whole holds what the guest had at that moment, by plain qemu-img."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest
from lab import Disk, Guest, tree_state
from lab.fixtures import MakeDomain
from support.scene import MIB, make_encrypted, make_image, qemu_img

Module = Callable[..., dict[str, Any]]
MODULE = "vm_disk_backup"


@pytest.fixture
def store(images: Path) -> Path:
    """A directory for backups that QEMU's user may enter."""
    directory = images / "backups"
    directory.mkdir(mode=0o711)
    return directory


@pytest.fixture
def back_up(module: Module, store: Path) -> Callable[..., dict[str, Any]]:
    def run(guest: Guest, name: str, **options: Any) -> dict[str, Any]:
        check = options.pop("check", False)
        params = {"name": guest.name, "backup": name, "dest_dir": str(store), **options}
        return module(MODULE, params, check=check)

    return run


@contextlib.contextmanager
def domain(guest: Guest) -> Iterator[libvirt.virDomain]:
    with contextlib.closing(guest.hv.connect()) as connection:
        yield connection.lookupByName(guest.name)


def checkpoints(guest: Guest) -> list[str]:
    with domain(guest) as found:
        return [one.getName() for one in found.listAllCheckpoints()]


def restored(backup: dict[str, Any], target: str, tmp_path: Path) -> str:
    """The SHA-256 of a disk as plain qemu-img reads it from the backup."""
    (disk,) = [disk for disk in backup["disks"] if disk["target"] == target]
    raw = tmp_path / f"{backup['name']}.{target}.raw"
    qemu_img("convert", "-f", "qcow2", "-O", "raw", disk["path"], raw)
    return hashlib.sha256(raw.read_bytes()).hexdigest()


def now(guest: Guest, dev: str = "vda") -> str:
    """The SHA-256 of what the guest has on the disk at this moment."""
    guest.must("sync; echo 3 > /proc/sys/vm/drop_caches")
    return guest.must(f"sha256sum /dev/{dev}").split()[0]


def whole(result: dict[str, Any]) -> dict[str, Any]:
    assert result.get("changed"), result
    backup = result["backup"]
    assert isinstance(backup, dict)
    assert backup["whole"], backup
    return backup


def write(guest: Guest, seed: str, mib: int = 1) -> None:
    guest.must(f"pattern /dev/vda {mib} {seed}; sync")


@pytest.fixture
def running(images: Path, make_domain: MakeDomain) -> Guest:
    qemu_img("create", "-q", "-f", "qcow2", images / "a.qcow2", "16M")
    qemu_img("create", "-q", "-f", "raw", images / "b.raw", "4M")
    qemu_img("create", "-q", "-f", "qcow2", "-o", "compat=0.10", images / "c.qcow2", "4M")
    disks = [
        Disk(images / "a.qcow2", "qcow2"),
        Disk(images / "b.raw", "raw", "vdb"),
        Disk(images / "c.qcow2", "qcow2", "vdc"),
    ]
    return make_domain(disks, start=True)


def test_a_chain_of_a_running_domain_reads_as_the_guest_had_it_at_each_point(
    running: Guest, back_up: Callable[..., dict[str, Any]], tmp_path: Path, store: Path
) -> None:
    expected: dict[str, tuple[dict[str, Any], str, str]] = {}
    for number, name in enumerate(["full", "one", "two"]):
        write(running, name, 3 - number)
        running.must(f"pattern /dev/vdb 1 {name}; pattern /dev/vdc 1 {name}; sync")
        result = back_up(running, name)
        backup = whole(result)
        expected[name] = backup, now(running), now(running, "vdb")
        assert backup["kind"] == ("full" if number == 0 else "incremental")
        kinds = {disk["target"]: (disk["kind"], disk["tracked"]) for disk in backup["disks"]}
        assert kinds == {"vda": (backup["kind"], True), "vdb": ("full", False), "vdc": ("full", False)}
        assert checkpoints(running) == [backup["checkpoint"]]
        assert result["reason"] == ("no earlier whole backup has a checkpoint" if number == 0 else None)
        header = json.loads(qemu_img("info", "--output=json", "-f", "qcow2", backup["disks"][0]["path"]))
        assert header.get("backing-filename") == [None, "../full/vda.qcow2", "../one/vda.qcow2"][number]
    write(running, "later", 4)
    for backup, vda, vdb in expected.values():
        assert restored(backup, "vda", tmp_path) == vda
        assert restored(backup, "vdb", tmp_path) == vdb
    (place,) = store.iterdir()
    for backup, _vda, _vdb in expected.values():
        path = Path(backup["path"])
        assert (path.stat().st_uid, path.stat().st_mode & 0o7777) == (0, 0o700)
        for file in path.iterdir():
            assert (file.stat().st_uid, file.stat().st_gid, file.stat().st_mode & 0o7777) == (0, 0, 0o600)
        assert {file.name for file in path.iterdir()} == {
            "backup.json",
            "domain.xml",
            "vda.qcow2",
            "vdb.qcow2",
            "vdc.qcow2",
        }
        recorded = json.loads((path / "backup.json").read_text())["files"]
        for name, facts in recorded.items():
            content = (path / name).read_bytes()
            assert facts == {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert sorted(one.name for one in place.iterdir()) == ["full", "one", "two"]


def test_a_backup_that_is_there_is_left_alone_and_check_mode_writes_nothing(
    running: Guest, back_up: Callable[..., dict[str, Any]], store: Path
) -> None:
    before = tree_state(store)
    predicted = back_up(running, "full", check=True)
    assert predicted["changed"]
    assert predicted["backup"]["kind"] == "full"
    assert tree_state(store) == before
    assert checkpoints(running) == []
    done = back_up(running, "full")
    assert done["actions"] == predicted["actions"]
    assert done["diff"] == predicted["diff"]
    before = tree_state(store)
    again = back_up(running, "full")
    assert (again["changed"], again["actions"]) == (False, [])
    assert again["backup"] == whole(done)
    assert tree_state(store) == before
    assert len(checkpoints(running)) == 1


def test_a_domain_that_is_off_is_copied_as_a_whole_and_stays_off(
    images: Path, make_domain: MakeDomain, back_up: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    disk = make_image(images / "off.qcow2", "qcow2")
    guest = make_domain([Disk(disk, "qcow2")])
    before = tree_state(images)
    result = back_up(guest, "off")
    backup = whole(result)
    assert (backup["kind"], backup["online"], backup["quiesced"], backup["checkpoint"]) == ("full", False, None, None)
    assert "the domain is off" in result["reason"]
    qemu_img("convert", "-f", "qcow2", "-O", "raw", disk, tmp_path / "expected")
    assert restored(backup, "vda", tmp_path) == hashlib.sha256((tmp_path / "expected").read_bytes()).hexdigest()
    assert tree_state(images)["off.qcow2"] == before["off.qcow2"]
    with domain(guest) as found:
        assert not found.isActive()
    assert not back_up(guest, "off")["changed"]
    refused = back_up(guest, "next", mode="incremental")
    assert "the domain is off" in refused["msg"]


def test_the_backup_after_a_killed_qemu_is_a_full_one_that_says_why(
    running: Guest, back_up: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    write(running, "first")
    whole(back_up(running, "full", disks=["vda"]))
    os.kill(int(running.hv.qemu_pid(running.name)), 9)
    running.wait_off(60)
    running.hv.wake(running.name)
    write(running, "second")
    result = back_up(running, "after", disks=["vda"])
    assert "it is not known what has changed in vda" in result["reason"]
    backup = whole(result)
    assert backup["kind"] == "full"
    assert restored(backup, "vda", tmp_path) == now(running)
    assert checkpoints(running) == [backup["checkpoint"]]


def test_the_next_backup_continues_over_an_orderly_restart(
    running: Guest, back_up: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    write(running, "first")
    whole(back_up(running, "full", disks=["vda"]))
    write(running, "second")
    with domain(running) as found:
        found.destroy()  # QEMU ends in an orderly way
    running.hv.wake(running.name)
    write(running, "third", 2)
    backup = whole(back_up(running, "next", disks=["vda"], mode="incremental"))
    assert restored(backup, "vda", tmp_path) == now(running)


def test_a_job_that_takes_too_long_leaves_neither_files_nor_a_checkpoint(
    images: Path, make_domain: MakeDomain, store: Path, back_up: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """The checkpoint of a backup that failed is no base: what it lacks is in the next one."""
    for name, size in (("a", "16M"), ("huge", "4T")):
        qemu_img("create", "-q", "-f", "qcow2", images / f"{name}.qcow2", size)
    disks = [Disk(images / "a.qcow2", "qcow2"), Disk(images / "huge.qcow2", "qcow2", "vdb")]
    guest = make_domain(disks, start=True)
    write(guest, "first")
    whole(back_up(guest, "full", disks=["vda"]))
    write(guest, "lost", 8)
    before = checkpoints(guest)
    (place,) = store.iterdir()
    failed = back_up(guest, "slow", timeout=1)
    assert "was not done within" in failed["msg"], failed
    assert checkpoints(guest) == before
    assert sorted(one.name for one in place.iterdir()) == ["full"]
    with domain(guest) as found, pytest.raises(libvirt.libvirtError):
        found.backupGetXMLDesc()
    backup = whole(back_up(guest, "next", disks=["vda"], mode="incremental"))
    assert restored(backup, "vda", tmp_path) == now(guest)


def test_foreign_checkpoints_are_left_alone(running: Guest, back_up: Callable[..., dict[str, Any]]) -> None:
    xml = (
        "<domaincheckpoint><name>theirs</name><disks><disk name='vda' checkpoint='bitmap'/>"
        "<disk name='vdb' checkpoint='no'/><disk name='vdc' checkpoint='no'/></disks></domaincheckpoint>"
    )
    with domain(running) as found:
        found.checkpointCreateXML(xml)
    names = [whole(back_up(running, name, disks=["vda"]))["checkpoint"] for name in ("full", "one")]
    assert sorted(checkpoints(running)) == sorted(["theirs", names[-1]])


def test_a_damaged_backup_is_refused_by_name_and_is_no_base(
    running: Guest, back_up: Callable[..., dict[str, Any]]
) -> None:
    backup = whole(back_up(running, "full", disks=["vda"]))
    image = Path(backup["disks"][0]["path"])
    os.truncate(image, image.stat().st_size - 512)
    again = back_up(running, "full", disks=["vda"])
    assert "vda.qcow2 has" in again["msg"]
    assert again["failed"]
    result = back_up(running, "next", disks=["vda"])
    assert result["reason"] == "no earlier whole backup has a checkpoint"
    assert whole(result)["kind"] == "full"


def test_an_encrypted_disk_is_refused(
    images: Path, make_domain: MakeDomain, back_up: Callable[..., dict[str, Any]], store: Path
) -> None:
    disk = make_encrypted(images / "secret.qcow2")
    guest = make_domain([Disk(disk, "qcow2")])
    refused = back_up(guest, "no")
    assert refused["failed"]
    assert "encrypted" in refused["msg"]
    assert list(store.iterdir()) == []


def test_too_little_space_is_found_before_the_first_byte(running: Guest, module: Module, open_directory: Path) -> None:
    small = open_directory / "small"
    small.mkdir(mode=0o711)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=0711", "none", small], check=True)
    try:
        params = {"name": running.name, "backup": "big", "dest_dir": str(small)}
        refused = module(MODULE, params)
        assert refused["failed"]
        assert refused["required_bytes"] > refused["available_bytes"]
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", small], check=True)


def test_the_length_of_an_image_is_not_what_counts(
    images: Path, make_domain: MakeDomain, back_up: Callable[..., dict[str, Any]]
) -> None:
    """A disk of many terabytes of which little is written is backed up in a moment, and takes little."""
    disk = images / "huge.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", disk, "100G")
    backup = whole(back_up(make_domain([Disk(disk, "qcow2")]), "huge"))
    assert backup["bytes"] < 40 * MIB
    assert backup["disks"][0]["virtual_size"] == 100 << 30


def test_a_domain_with_a_snapshot_is_backed_up_too(
    images: Path, make_domain: MakeDomain, module: Module, back_up: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    qemu_img("create", "-q", "-f", "qcow2", images / "a.qcow2", "16M")
    guest = make_domain([Disk(images / "a.qcow2", "qcow2")], start=True)
    write(guest, "first")
    assert module("vm_disk_snapshot", {"name": guest.name, "snapshot": "before"})["changed"]
    write(guest, "second", 2)
    backup = whole(back_up(guest, "full"))
    assert restored(backup, "vda", tmp_path) == now(guest)
    write(guest, "third", 3)
    backup = whole(back_up(guest, "next"))
    assert restored(backup, "vda", tmp_path) == now(guest)


def test_what_was_written_offline_is_in_the_next_backup(
    running: Guest, images: Path, back_up: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """QEMU's own tools note what they write in the bitmap, as a guest does."""
    write(running, "first")
    whole(back_up(running, "full", disks=["vda"]))
    with domain(running) as found:
        found.destroy()
    what = ["-c", "write -P 0x33 9M 1M"]
    subprocess.run(["qemu-io", "-f", "qcow2", *what, images / "a.qcow2"], check=True, capture_output=True)
    running.hv.wake(running.name)
    backup = whole(back_up(running, "next", disks=["vda"], mode="incremental"))
    assert restored(backup, "vda", tmp_path) == now(running)


def test_a_grown_disk_is_backed_up_with_what_is_in_its_new_part(
    running: Guest, back_up: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    whole(back_up(running, "full", disks=["vda"]))
    with domain(running) as found:
        found.blockResize("vda", 24 * MIB, libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)
    running.must("pattern /tmp/p 2 grown; dd if=/tmp/p of=/dev/vda bs=1M seek=20; sync")
    backup = whole(back_up(running, "next", disks=["vda"], mode="incremental"))
    assert backup["disks"][0]["virtual_size"] == 24 * MIB
    assert restored(backup, "vda", tmp_path) == now(running)


def test_uefi_variables_and_the_definition_are_in_the_backup(
    images: Path, make_domain: MakeDomain, back_up: Callable[..., dict[str, Any]]
) -> None:
    nvram = images / "vars.fd"
    nvram.write_bytes(b"variables" * 1000)
    disk = make_image(images / "a.qcow2", "qcow2")
    guest = make_domain([Disk(disk, "qcow2")], nvram=nvram, vnc_password="sesame")
    backup = whole(back_up(guest, "one"))
    path = Path(backup["path"])
    assert (path / "nvram").read_bytes() == nvram.read_bytes()
    assert "sesame" in (path / "domain.xml").read_text()
