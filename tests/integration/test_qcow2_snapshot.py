# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qcow2_snapshot takes, deletes and keeps snapshots by their exact names, and brings a disk back to one."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from lab import Disk, Hypervisor
from lab.fixtures import MakeDomain
from lab.module import run_module
from support.image_tools import (
    MIB,
    NOBODY,
    content,
    create,
    info,
    names,
    opened_by_a_process,
    overlay,
    qemu_img,
    qemu_io,
)
from support.snapshot_tools import consistency, marked, predicted, refused, snapshots_of, succeeded
from unit.qcow2_header import CORRUPT, DIRTY

MODULE = "qcow2_snapshot"
ODD_NAMES = ["-x", "a,b=c", "with space", "später: ☃", "json:{}", "x" * 255, "'\"\\", "1a"]


def write(path: Path, pattern: int, where: str = "1M 1M") -> None:
    qemu_io(path, f"write -P {pattern:#x} {where}")


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = create(tmp_path / "disk.qcow2")
    write(path, 0x11)
    return path


# --- taken, deleted, gone back to ---------------------------------------------------------------------------------


def test_a_snapshot_is_taken_gone_back_to_and_deleted(disk: Path) -> None:
    at_snapshot, begun = content(disk), datetime.now(timezone.utc).replace(microsecond=0)
    taken = predicted(MODULE, disk, snapshot="before")
    assert taken["actions"] == [f"take snapshot before of {disk}"]
    assert taken["diff"] == {"before": {"snapshots": []}, "after": {"snapshots": ["before"]}}
    (found,) = taken["snapshots"]
    assert (found["id"], found["name"], found["virtual_size"], found["vm_state_size"]) == ("1", "before", 10 * MIB, 0)
    assert begun <= datetime.fromisoformat(found["date"]) <= datetime.now(timezone.utc)
    assert taken["image"]["snapshots"] == taken["snapshots"]
    assert content(disk) == at_snapshot
    assert not succeeded(MODULE, disk, snapshot="before", state="reverted")["changed"], "nothing was written since"

    write(disk, 0x22)
    assert not succeeded(MODULE, disk, snapshot="before")["changed"], "it exists; what the disk holds is not compared"
    reverted = predicted(MODULE, disk, snapshot="before", state="reverted")
    assert reverted["actions"] == [f"revert {disk} to its snapshot before"]
    assert reverted["diff"]["after"] == {"reverted_to": "before", "virtual_size": 10 * MIB}
    assert content(disk) == at_snapshot

    write(disk, 0x33, "4M 1M")
    written = content(disk)
    deleted = predicted(MODULE, disk, snapshot="before", state="absent")
    assert (deleted["actions"], deleted["removed"]) == ([f"delete snapshot before of {disk}"], ["before"])
    assert (content(disk), snapshots_of(disk), consistency(disk)) == (written, [], "good")
    assert "has no snapshot 'before' to revert to" in refused(MODULE, disk, snapshot="before", state="reverted")["msg"]
    assert names(disk.parent) == [disk.name]


def test_check_mode_predicts_the_facts_of_a_new_snapshot(disk: Path) -> None:
    succeeded(MODULE, disk, snapshot="one")
    prediction = succeeded(MODULE, disk, check=True, snapshot="two")
    result = succeeded(MODULE, disk, snapshot="two")
    assert [{**found, "date": None} for found in result["snapshots"]] == [
        {**found, "date": None} for found in prediction["snapshots"]
    ]
    assert prediction["snapshots"][1]["date"] is None
    assert prediction["image"]["snapshots"] == prediction["snapshots"]


@pytest.mark.parametrize("grown", [True, False])
def test_a_revert_restores_the_virtual_size_and_says_so(grown: bool, disk: Path) -> None:
    succeeded(MODULE, disk, snapshot="before")
    before = content(disk)
    qemu_img("resize", "-q", "-f", "qcow2", *([] if grown else ["--shrink"]), disk, "20M" if grown else "5M")
    result = predicted(MODULE, disk, snapshot="before", state="reverted")
    assert result["diff"]["before"] == {"reverted_to": None, "virtual_size": (20 if grown else 5) * MIB}
    assert result["diff"]["after"] == {"reverted_to": "before", "virtual_size": 10 * MIB}
    assert "which has 10 MiB instead of" in result["actions"][0]
    assert result["image"]["virtual_size"] == info(disk)["virtual-size"] == 10 * MIB
    assert (content(disk), consistency(disk)) == (before, "good")


@pytest.mark.parametrize("options", ["compat=0.10,cluster_size=512", "extended_l2=on,cluster_size=16k"])
def test_every_kind_of_qcow2_goes_back(options: str, tmp_path: Path) -> None:
    path = create(tmp_path / "disk", "qcow2", 4 * MIB, "-o", options)
    write(path, 0x11)
    before = content(path)
    succeeded(MODULE, path, snapshot="one")
    write(path, 0x22, "0 2M")
    succeeded(MODULE, path, snapshot="two")
    assert predicted(MODULE, path, snapshot="one", state="reverted")["changed"]
    assert (content(path), consistency(path)) == (before, "good")
    assert succeeded(MODULE, path, snapshot="two", state="reverted")["changed"]


def test_odd_names_mean_what_they_say(disk: Path) -> None:
    path = disk.rename(disk.with_name("-a, b:c,ü=1.qcow2"))
    for number, name in enumerate(ODD_NAMES):
        assert succeeded(MODULE, path, snapshot=name)["snapshots"][-1]["name"] == name
        write(path, number)
    assert snapshots_of(path) == ODD_NAMES
    for name in ODD_NAMES[:2]:
        assert predicted(MODULE, path, snapshot=name, state="reverted")["changed"]
    assert predicted(MODULE, path, snapshot=ODD_NAMES[2], state="absent")["removed"] == [ODD_NAMES[2]]
    assert succeeded(MODULE, path, keep=0, prefix="")["removed"] == [*ODD_NAMES[:2], *ODD_NAMES[3:]]
    assert (snapshots_of(path), consistency(path), names(path.parent)) == ([], "good", [path.name])


def test_a_name_is_never_taken_for_an_id(disk: Path) -> None:
    """QEMU reverts to the snapshot with the ID first, and deletes the one with the name first (HAZARDS E2)."""
    qemu_img("snapshot", "-c", "first", disk)
    write(disk, 0x22)
    first = content(disk)
    qemu_img("snapshot", "-c", "second", disk)
    write(disk, 0x33)
    for state in ("present", "absent", "reverted"):
        assert "could be the ID of a snapshot" in refused(MODULE, disk, snapshot="2", state=state)["msg"]
    assert succeeded(MODULE, disk, snapshot="second", state="reverted")["changed"]
    assert content(disk) == first


def test_a_name_that_two_snapshots_have_is_refused(disk: Path) -> None:
    for name in ("twice", "twice", "once"):
        qemu_img("snapshot", "-c", name, disk)
    for params in ({"state": "present"}, {"state": "absent"}, {"state": "reverted"}, {"keep": 1, "prefix": "tw"}):
        result = refused(MODULE, disk, snapshot="twice", **params)
        assert "has 2 snapshots named 'twice' (IDs 1, 2)" in result["msg"]
    assert "named 'twice'" in refused(MODULE, disk, keep=0, prefix="")["msg"]
    assert succeeded(MODULE, disk, snapshot="once", state="absent")["changed"]


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"snapshot": "x" * 256}, "from 1 to 255 bytes"),
        ({"state": "absent"}, "one of the following is required"),
        ({"snapshot": "a", "keep": 1}, "required together"),
        ({"snapshot": "a", "path": "disk.qcow2"}, "relative"),
        ({"snapshot": "a", "search_paths": ["/nonexistent"]}, "not a directory"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wish_that_cannot_be_is_refused(params: dict[str, Any], reason: str, disk: Path) -> None:
    assert reason in refused(MODULE, params.pop("path", disk), **params)["msg"]


# --- retention ----------------------------------------------------------------------------------------------------


def test_the_newest_are_kept_and_the_oldest_reported(disk: Path) -> None:
    for number in range(4):
        qemu_img("snapshot", "-c", f"nightly-{number}", disk)
        write(disk, number)
    qemu_img("snapshot", "-c", "before-upgrade", disk)
    seen = content(disk)
    result = predicted(MODULE, disk, snapshot="nightly-4", keep=3, prefix="nightly-")
    assert result["removed"] == ["nightly-0", "nightly-1"]
    assert [action.split(" of ")[0] for action in result["actions"]] == [
        "take snapshot nightly-4",
        "delete snapshot nightly-0",
        "delete snapshot nightly-1",
    ]
    assert snapshots_of(disk) == ["nightly-2", "nightly-3", "before-upgrade", "nightly-4"]
    assert [found["name"] for found in result["snapshots"]] == snapshots_of(disk)

    assert predicted(MODULE, disk, keep=1, prefix="nightly-", state="absent")["removed"] == ["nightly-2", "nightly-3"]
    kept = predicted(MODULE, disk, snapshot="before-upgrade", keep=1, prefix="")
    assert kept["changed"] is False, "the newest stays, and so does the one that the task names"
    assert predicted(MODULE, disk, keep=0, prefix="")["removed"] == ["before-upgrade", "nightly-4"]
    assert (content(disk), consistency(disk)) == (seen, "good")


# --- what it leaves alone -----------------------------------------------------------------------------------------


def test_nothing_but_the_image_is_opened(tmp_path: Path) -> None:
    """A FIFO as backing file: whoever opens it waits for ever. And a chain in a circle, in which QEMU runs (F4)."""
    base = create(tmp_path / "base", "raw", MIB)
    top = overlay(tmp_path / "top", "base", "raw")
    write(top, 0x44, "0 512k")
    base.unlink()
    os.mkfifo(base)
    for path in (top, circle(tmp_path)):
        assert succeeded(MODULE, path, snapshot="one")["changed"]
        qemu_img("resize", "-q", "--image-opts", f"driver=qcow2,file.filename={path},backing=", "2M")
        assert succeeded(MODULE, path, snapshot="one", state="reverted", allow_dependents=True)["changed"]
        assert succeeded(MODULE, path, snapshot="one", state="absent")["changed"]


def circle(directory: Path) -> Path:
    """An image whose backing file is itself."""
    path = create(directory / "circle", "qcow2", MIB)
    qemu_img("rebase", "-u", "-f", "qcow2", "-b", path, "-F", "qcow2", path)
    return path


def test_what_has_no_snapshots_is_refused(tmp_path: Path) -> None:
    create(tmp_path / "raw", "raw", MIB)
    create(tmp_path / "vmdk", "vmdk", MIB)
    (tmp_path / "random").write_bytes(os.urandom(512))
    for name, reason in (("raw", "found a raw image"), ("vmdk", "found a vmdk image"), ("random", "found a raw image")):
        assert reason in refused(MODULE, tmp_path / name, snapshot="one")["msg"]
    assert "no such image" in refused(MODULE, tmp_path / "missing", snapshot="one")["msg"]
    (tmp_path / "directory").mkdir()
    assert "neither a regular file" in refused(MODULE, tmp_path / "directory", snapshot="one")["msg"]


def test_images_that_qemu_would_not_write_are_refused_with_the_reason(disk: Path, tmp_path: Path) -> None:
    external = create(tmp_path / "external", "qcow2", MIB, "-o", f"data_file={tmp_path}/data")
    secret = ["--object", "secret,id=s,data=x", "-o", "encrypt.format=aes,encrypt.key-secret=s"]
    encrypted = create(tmp_path / "encrypted", "qcow2", MIB, *secret)
    narrow = create(tmp_path / "narrow", "qcow2", MIB, "-o", "refcount_bits=1")
    for path, reason in (
        (external, "keeps its data in another file"),
        (encrypted, "is encrypted"),
        (narrow, "reference counts of 1 bit(s)"),
        (marked(disk, CORRUPT), "is marked corrupt"),
        (marked(Path(shutil.copyfile(disk, tmp_path / "dirty")), DIRTY), "was not closed properly"),
    ):
        assert reason in refused(MODULE, path, snapshot="one")["msg"]


def test_an_old_image_cannot_change_its_size_and_says_so(disk: Path) -> None:
    succeeded(MODULE, disk, snapshot="one")
    qemu_img("resize", "-q", "-f", "qcow2", disk, "20M")
    with disk.open("r+b") as stream:  # no version of qemu-img makes one
        stream.seek(4)
        stream.write(bytes([0, 0, 0, 2]))
    assert (
        "compat 0.10 with snapshots cannot be resized" in refused(MODULE, disk, snapshot="one", state="reverted")["msg"]
    )


def test_an_image_that_a_process_has_open_is_left_alone(disk: Path) -> None:
    succeeded(MODULE, disk, snapshot="one")
    with opened_by_a_process(disk):
        for params in (
            {"snapshot": "two"},
            {"snapshot": "one", "state": "absent"},
            {"snapshot": "one", "state": "reverted"},
        ):
            result = run_module(MODULE, {"path": str(disk), **params})
            assert "in use by a process that libvirt does not know" in result["msg"]
        assert not succeeded(MODULE, disk, snapshot="one")["changed"]


def test_a_base_is_not_written_under_its_overlays(disk: Path, tmp_path: Path) -> None:
    succeeded(MODULE, disk, snapshot="one")
    write(disk, 0x22)
    elsewhere = tmp_path / "clones"
    elsewhere.mkdir()
    clone = overlay(elsewhere / "clone", str(disk))
    seen = content(clone)
    wish: dict[str, Any] = {"snapshot": "one", "state": "reverted"}
    for asked in (wish, {"snapshot": "two"}, {"snapshot": "one", "state": "absent"}):
        assert refused(MODULE, disk, search_paths=[str(elsewhere)], **asked)["dependents"] == [str(clone)]
    given_up: dict[str, Any] = {"search_paths": [str(elsewhere)], "allow_dependents": True}
    assert succeeded(MODULE, disk, snapshot="two", **given_up)["changed"]
    assert succeeded(MODULE, disk, snapshot="two", state="absent", **given_up)["changed"]
    assert content(clone) == seen
    assert succeeded(MODULE, disk, **given_up, **wish)["changed"]


def test_disks_of_domains_are_left_alone_while_they_run_or_are_saved(
    hv: Hypervisor, images: Path, make_domain: MakeDomain
) -> None:
    disk = create(images / "disk.qcow2")
    qemu_img("snapshot", "-c", "one", disk)
    write(disk, 0x22)
    guest = make_domain([Disk(disk, "qcow2")])
    wish: dict[str, Any] = {"snapshot": "one", "state": "reverted", "uri": hv.uri}
    assert succeeded(MODULE, disk, **wish)["changed"], "a domain that is off is no hindrance"
    hv.start(guest.name)
    for params in (
        {"snapshot": "two"},
        {"snapshot": "one", "state": "absent"},
        {"snapshot": "one", "state": "reverted"},
    ):
        result = run_module(MODULE, {"path": str(disk), "uri": hv.uri, **params})
        assert f"running domain {guest.name}" in result["msg"]
        assert result["in_use_by"][0]["running"]
    with contextlib.closing(hv.connect()) as connection:
        connection.lookupByName(guest.name).managedSave()
    try:
        write(disk, 0x33)
        result = refused(MODULE, disk, **wish)
        assert f"domain {guest.name} has a managed-save image" in result["msg"]
    finally:
        with contextlib.closing(hv.connect()) as connection:
            connection.lookupByName(guest.name).managedSaveRemove()
    assert succeeded(MODULE, disk, **wish)["changed"]


def test_a_snapshot_in_libvirts_records_is_left_to_libvirt(
    hv: Hypervisor, images: Path, make_domain: MakeDomain
) -> None:
    disk = create(images / "disk.qcow2")
    guest = make_domain([Disk(disk, "qcow2")])
    with contextlib.closing(hv.connect()) as connection:
        domain = connection.lookupByName(guest.name)
        domain.snapshotCreateXML("<domainsnapshot><name>theirs</name></domainsnapshot>")
        try:
            assert snapshots_of(disk) == ["theirs"]
            assert succeeded(MODULE, disk, snapshot="ours", uri=hv.uri)["changed"]
            for wish in ({"snapshot": "theirs", "state": "absent"}, {"keep": 0, "prefix": ""}):
                result = run_module(MODULE, {"path": str(disk), "uri": hv.uri, **wish})
                assert f"'theirs' is one of domain {guest.name}, in libvirt's records" in result["msg"]
            assert succeeded(MODULE, disk, snapshot="ours", state="absent", uri=hv.uri)["changed"]
        finally:
            domain.snapshotLookupByName("theirs").delete()
    assert snapshots_of(disk) == []


def test_a_table_of_65536_snapshots_is_read_in_bounded_time(disk: Path) -> None:
    """All of them in the header, and each a valid entry (HAZARDS F6)."""
    entry = bytes(12) + b"\0\1\0\2" + bytes(20) + (16).to_bytes(4, "big") + bytes(16) + b"1ab"
    size = disk.stat().st_size
    with disk.open("r+b") as stream:
        stream.seek(60)
        stream.write((65536).to_bytes(4, "big") + (-(-size // 65536) * 65536).to_bytes(8, "big"))
        stream.seek(-(-size // 65536) * 65536)
        stream.write((entry + bytes(-len(entry) % 8)) * 65536)
    result = refused(MODULE, disk, snapshot="one")
    assert "65536 snapshots, as many as an image can have" in result["msg"]


def test_it_works_without_root(open_directory: Path) -> None:
    own = open_directory / "own"
    own.mkdir()
    path = create(own / "disk")
    for name in (own, path):
        os.chown(name, 65533, 65533)
    params = {"path": str(path), "snapshot": "one", "uri": NOBODY}
    assert run_module(MODULE, params, as_user=65533)["changed"]
    assert snapshots_of(path) == ["one"]
    assert subprocess.run(["qemu-img", "check", "-q", path], check=False).returncode == 0
