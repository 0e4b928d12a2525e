# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qcow2_check says what is wrong with an image, repairs it where that is asked for, and proves what it left alone."""

from __future__ import annotations

import json
import os
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
from lab import Disk, Hypervisor
from lab.fixtures import MakeDomain
from lab.module import run_module
from lab.tree import tree_state
from support.damage import leak, miscount, table_at, write_at
from support.image_tools import (
    MIB,
    content,
    create,
    image_params,
    names,
    opened_by_a_process,
    overlay,
    qemu_img,
    qemu_io,
    small_file_system,
    specific,
)
from support.injection import at_once
from support.snapshot_tools import GOOD, consistency, marked, predicted, refused, succeeded
from unit.qcow2_header import CORRUPT, DIRTY

MODULE = "qcow2_check"


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = create(tmp_path / "disk.qcow2")
    qemu_io(path, "write -P 0x11 1M 1M")
    qemu_img("snapshot", "-c", "before", path)
    qemu_io(path, "write -P 0x22 1M 512k")
    return path


# --- what is found ------------------------------------------------------------------------------------------------


def test_a_good_image_is_good_and_never_changed(disk: Path) -> None:
    before = tree_state(disk.parent)
    for repair in ("none", "leaks", "all"):
        for check in (True, False):
            result = succeeded(MODULE, disk, check=check, repair=repair)
            assert (result["changed"], result["actions"], result["check"]) == (False, [], GOOD)
            assert result["content_unchanged"] is None
    assert tree_state(disk.parent) == before


def test_leaks_are_no_failure_and_given_back_when_asked(disk: Path) -> None:
    leak(disk)
    seen = content(disk)
    found = succeeded(MODULE, disk)
    assert (found["changed"], found["check"]) == (False, {**GOOD, "result": "leaks", "leaks": 3})
    prediction = succeeded(MODULE, disk, check=True, repair="leaks")
    assert prediction["check"] == found["check"]
    result = predicted(MODULE, disk, repair="leaks")
    assert result["actions"] == [f"repair {disk}: 3 leaked cluster(s)"]
    assert result["diff"]["before"] == {"result": "leaks", "corruptions": 0, "leaks": 3, "dirty": False}
    assert result["diff"]["after"] == {"result": "good", "corruptions": 0, "leaks": 0, "dirty": False}
    assert result["check"] == {**GOOD, "leaks_fixed": 3}
    assert result["content_unchanged"] is True
    assert (consistency(disk), content(disk), names(disk.parent)) == ("good", seen, [disk.name])


def test_a_corruption_is_a_failure_unless_it_is_to_be_repaired(disk: Path) -> None:
    seen = content(disk)
    miscount(disk)
    leak_too = {"result": "corrupt", "leaks": 0}
    for repair, asked in (("none", "nothing"), ("leaks", "leaks only")):
        result = refused(MODULE, disk, repair=repair)
        assert f"corruption(s) in its metadata, asked to repair {asked}" in result["msg"]
        assert result["check"].items() >= leak_too.items()
        assert result["check"]["corruptions"] > 0
    result = predicted(MODULE, disk, repair="all")
    assert (result["check"]["result"], result["content_unchanged"]) == ("good", True)
    assert result["check"]["corruptions_fixed"] > 0
    assert "warnings" not in result
    assert content(disk) == seen
    qemu_img("snapshot", "-a", "before", disk)
    qemu_io(disk, "read -P 0x11 1M 1M")


def test_a_repair_that_may_have_changed_content_says_so(disk: Path) -> None:
    """A guest cluster lies in the refcount table, which the repair writes."""
    qemu_img("snapshot", "-d", "before", disk)
    write_at(disk, table_at(disk, 40, 0, 16), struct.pack(">Q", 0x10000))
    result = run_module(MODULE, image_params(disk, {"repair": "all"}))
    assert not result.get("failed"), result
    assert result["content_unchanged"] is False
    assert "do not prove that its content is unchanged" in str(result["warnings"])


def test_what_a_repair_cannot_mend_is_a_failure(disk: Path) -> None:
    """Cut off in the middle: clusters that are referred to are not there any more."""
    os.truncate(disk, 7 * 65536)
    assert "corruption(s) and" in refused(MODULE, disk)["msg"]
    result = run_module(MODULE, image_params(disk, {"repair": "all"}))
    assert result.get("failed"), result
    assert "are left in its metadata after the repair" in result["msg"]
    assert result["check"]["result"] == "corrupt"
    assert names(disk.parent) == [disk.name]


def test_the_mark_that_an_image_is_corrupt_is_a_failure_and_can_be_removed(disk: Path) -> None:
    marked(disk, CORRUPT)
    result = refused(MODULE, disk)
    assert "is marked corrupt, and QEMU refuses to write it" in result["msg"]
    assert result["check"] == {**GOOD, "result": "corrupt"}
    removed = predicted(MODULE, disk, repair="all")
    assert removed["actions"] == [f"repair {disk}: the mark that it is corrupt"]
    assert specific(disk)["corrupt"] is False


def test_an_image_that_was_not_closed_properly_is_closed(disk: Path) -> None:
    miscount(marked(disk, DIRTY))
    assert "it was not closed properly, which repair=all puts right" in refused(MODULE, disk)["msg"]
    assert predicted(MODULE, disk, repair="all")["changed"]
    marked(disk, DIRTY)
    assert succeeded(MODULE, disk)["check"] == GOOD
    closed = predicted(MODULE, disk, repair="leaks")
    assert closed["actions"] == [f"repair {disk}: the mark that it was not closed properly"]


@pytest.mark.parametrize("name", ["raw", "qcow", "vpc", "qed", "vmdk", "vdi", "vhdx", "parallels"])
def test_formats_without_a_check_say_so_and_the_others_are_checked(name: str, tmp_path: Path) -> None:
    path = create(tmp_path / f"disk.{name}", name, MIB)
    checked = name in ("qed", "vmdk", "vdi", "vhdx", "parallels")
    result = succeeded(MODULE, path, format=name, repair="all")
    assert (result["changed"], result["check"]) == (False, {**GOOD, "result": "good" if checked else "unsupported"})
    if name in ("qed", "parallels"):
        os.truncate(path, path.stat().st_size + MIB)
        assert succeeded(MODULE, path, format=name)["check"]["result"] == "leaks"
        gives_back = name == "parallels"
        repaired = predicted(MODULE, path, format=name, repair="all")
        assert repaired["changed"] is gives_back
        assert repaired["diff"]["after"]["result"] == ("good" if gives_back else "leaks")


def test_a_format_that_qemu_cannot_repair_says_so(tmp_path: Path) -> None:
    path = create(tmp_path / "disk.vdi", "vdi", MIB)
    write_at(path, 0x180, b"\7")  # as many blocks are said to be allocated
    for repair in ("none", "leaks", "all"):
        result = refused(MODULE, path, format="vdi", repair=repair)
        assert "QEMU cannot repair vdi images" in result["msg"]
        assert result["check"]["result"] == "corrupt"


def test_what_is_no_such_image_is_refused(tmp_path: Path) -> None:
    create(tmp_path / "qcow2", "qcow2", MIB)
    create(tmp_path / "raw", "raw", MIB)
    secret = ["--object", "secret,id=s,data=x", "-o", "encrypt.format=aes,encrypt.key-secret=s"]
    create(tmp_path / "encrypted", "qcow2", MIB, *secret)
    write_at(create(tmp_path / "future", "qcow2", MIB), 72, b"\x80")
    (tmp_path / "cut").write_bytes((tmp_path / "qcow2").read_bytes()[:80])
    os.mkfifo(tmp_path / "fifo")
    wishes: list[tuple[str, dict[str, Any], str]] = [
        ("raw", {}, "found a raw image, asked for qcow2"),
        ("qcow2", {"format": "vmdk"}, "found a qcow2 image, asked for vmdk"),
        ("qcow2", {"format": "raw"}, "begins like qcow2"),
        ("encrypted", {}, "is encrypted"),
        ("future", {}, "needs features that no known QEMU has"),
        ("cut", {}, "header is cut off"),
        ("fifo", {}, "neither a regular file"),
        ("missing", {}, "no such image"),
    ]
    for name, params, reason in wishes:
        assert reason in refused(MODULE, tmp_path / name, **params)["msg"]


# --- what it leaves alone -----------------------------------------------------------------------------------------


def test_nothing_but_the_image_is_opened(tmp_path: Path) -> None:
    """Whoever opens a FIFO waits for ever; in a chain that runs in a circle, qemu-img takes all memory (F4)."""
    base = create(tmp_path / "base", "raw", MIB)
    top = overlay(tmp_path / "-top, of: it", "base", "raw")
    base.unlink()
    os.mkfifo(base)
    data = tmp_path / "data"
    external = create(tmp_path / "external", "qcow2", MIB, "-o", f"data_file={data}")
    qemu_io(external, "write -P 0x11 0 512k")
    data.unlink()
    os.mkfifo(data)
    circle = create(tmp_path / "circle", "qcow2", MIB)
    qemu_img("rebase", "-u", "-f", "qcow2", "-b", circle, "-F", "qcow2", circle)
    for path in (top, external, circle):
        assert succeeded(MODULE, path)["check"] == GOOD
        leak(path)
        assert succeeded(MODULE, path, repair="all")["check"] == {**GOOD, "leaks_fixed": 3}


def test_an_image_that_is_written_is_not_checked_and_one_that_is_used_not_repaired(
    hv: Hypervisor, images: Path, make_domain: MakeDomain
) -> None:
    base = create(images / "base.qcow2")
    top = overlay(images / "top.qcow2", "base.qcow2")
    leak(top)
    leak(base)
    assert succeeded(MODULE, base, uri=hv.uri)["check"]["leaks"] == 3
    guest = make_domain([Disk(top, "qcow2")])
    hv.start(guest.name)
    before = tree_state(images)
    for path, repair in ((top, "none"), (top, "leaks"), (base, "leaks")):
        result = run_module(MODULE, {"path": str(path), "repair": repair, "uri": hv.uri})
        assert f"running domain {guest.name}" in result["msg"]
        assert {user["domain"] for user in result["in_use_by"]} == {guest.name}
    assert succeeded(MODULE, base, uri=hv.uri)["check"]["leaks"] == 3, "a base that is only read is checked"
    assert tree_state(images) == before


def test_an_image_that_a_process_has_open_is_left_alone(disk: Path) -> None:
    with opened_by_a_process(disk):
        for repair in ("none", "all"):
            result = run_module(MODULE, image_params(disk, {"repair": repair}))
            assert "in use by a process that libvirt does not know" in result["msg"]


# --- after a run that died ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["repair", "snapshot-delete", "reconcile"])
def test_a_dead_run_is_settled_by_a_repair_and_only_seen_by_a_check(verb: str, disk: Path) -> None:
    record = disk.with_name(f".{disk.name}.kvmops")
    record.write_text(json.dumps({"verb": verb, "started": "2024-01-01T00:00:00+00:00"}), encoding="utf-8")
    assert not succeeded(MODULE, disk)["changed"]
    assert record.exists(), "a check writes nothing"
    forgotten = predicted(MODULE, disk, repair="leaks")
    assert forgotten["actions"] == [f"forget the run that was interrupted on {disk} at 2024-01-01T00:00:00+00:00"]
    assert not record.exists()

    miscount(disk)
    record.write_text(json.dumps({"verb": verb, "started": "2024-01-01T00:00:00+00:00"}), encoding="utf-8")
    refused(MODULE, disk, repair="leaks")
    assert record.exists()
    assert predicted(MODULE, disk, repair="all")["check"]["result"] == "good"
    assert names(disk.parent) == [disk.name]


def test_runs_at_once_repair_exactly_once(disk: Path) -> None:
    leak(disk)
    results = at_once(MODULE, *[image_params(disk, {"repair": "all"})] * 3)
    assert [result for result in results if result.get("failed")] == []
    assert sorted(result["changed"] for result in results) == [False, False, True]
    assert (consistency(disk), names(disk.parent)) == ("good", [disk.name])


def test_a_full_disk_can_be_checked_and_is_not_half_repaired(tmp_path: Path) -> None:
    with small_file_system(tmp_path / "small", "2M") as small:
        path = create(small / "disk", size=MIB)
        leak(path)
        (small / "filler").write_bytes(bytes(shutil.disk_usage(small).free))
        before = tree_state(small)
        assert succeeded(MODULE, path)["check"]["leaks"] == 3
        result = run_module(MODULE, image_params(path, {"repair": "all"}))
        assert "cannot write the record of the operation" in result["msg"]
        assert {**tree_state(small), ".": None} == {**before, ".": None}
        (small / "filler").unlink()
        assert succeeded(MODULE, path, repair="all")["changed"]
