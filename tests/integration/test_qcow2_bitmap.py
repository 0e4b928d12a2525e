# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qcow2_bitmap adds, enables, clears, merges and removes dirty bitmaps, and reads what is set in them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from lab import Disk, Hypervisor
from lab.fixtures import MakeDomain
from lab.module import run_module
from lab.tree import tree_state
from support.image_tools import (
    MIB,
    content,
    create,
    image_params,
    info,
    names,
    opened_by_a_process,
    qemu_img,
    qemu_io,
    small_file_system,
)
from support.injection import at_once, killed_at, signalled_at
from support.processes import is_gone
from support.snapshot_tools import consistency, marked, predicted, refused, succeeded
from support.waits import wait_for
from unit.qcow2_header import CORRUPT, DIRTY

MODULE = "qcow2_bitmap"


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return create(tmp_path / "disk.qcow2")


def bitmaps(path: Path) -> dict[str, tuple[int, list[str]]]:
    """Granularity and flags by name, as qemu-img tells them."""
    found = info(path)["format-specific"]["data"].get("bitmaps", [])
    return {one["name"]: (one["granularity"], one["flags"]) for one in found}


def dirty(path: Path, name: str) -> list[tuple[int, int]]:
    """The ranges of the disk, in KiB, that are set in a bitmap: as qemu-nbd tells them to qemu-img map."""
    socket, process = path.with_name("socket"), path.with_name("process")
    node = f"driver=nbd,server.type=unix,server.path={socket},x-dirty-bitmap=qemu:dirty-bitmap:{name}"
    # It goes into the background when it serves.
    options = ["--read-only", "-f", "qcow2", "-B", name, "--fork", "--pid-file", str(process), "--socket", str(socket)]
    subprocess.run(["qemu-nbd", *options, path], check=True)
    try:
        rows = json.loads(qemu_img("map", "--output=json", "--image-opts", node))
    finally:
        pid = int(process.read_text(encoding="ascii"))
        os.kill(pid, signal.SIGTERM)
        wait_for(lambda: is_gone(pid), "the end of qemu-nbd")
        for path in (socket, process):
            path.unlink(missing_ok=True)
    return [(row["start"] >> 10, (row["start"] + row["length"]) >> 10) for row in rows if not row["data"]]


def bitmap(result: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [one for one in result["bitmaps"] if one["name"] == name]
    return dict(found)


# --- the states ---------------------------------------------------------------------------------------------------


def test_a_bitmap_lives_from_its_first_day_to_its_last(disk: Path) -> None:
    qemu_io(disk, "write -P 0x11 4M 64k")
    seen = content(disk)
    added = predicted(MODULE, disk, bitmap="monday")
    assert added["actions"] == [f"add bitmap monday of {disk}"]
    assert added["bitmaps"] == [{"name": "monday", "granularity": 65536, "flags": ["auto"], "dirty_bytes": 0}]
    assert added["diff"] == {"before": {"bitmap": None}, "after": {"bitmap": added["bitmaps"][0]}}
    assert bitmaps(disk) == {"monday": (65536, ["auto"])}
    assert (content(disk), consistency(disk)) == (seen, "good")

    qemu_io(disk, "write -P 0x22 1M 200k")
    assert bitmap(succeeded(MODULE, disk, bitmap="monday"), "monday")["dirty_bytes"] == 256 * 1024
    assert dirty(disk, "monday") == [(1024, 1280)]
    assert predicted(MODULE, disk, bitmap="monday", state="disabled")["actions"] == [f"disable bitmap monday of {disk}"]
    qemu_io(disk, "write -P 0x33 6M 64k")
    assert dirty(disk, "monday") == [(1024, 1280)], "it does not count now"
    assert predicted(MODULE, disk, bitmap="monday", state="enabled")["bitmaps"][0]["flags"] == ["auto"]

    seen = content(disk)
    cleared = predicted(MODULE, disk, bitmap="monday", state="cleared")
    assert cleared["diff"]["before"]["bitmap"]["dirty_bytes"] == 256 * 1024
    assert (cleared["bitmaps"][0]["dirty_bytes"], dirty(disk, "monday")) == (0, [])
    assert predicted(MODULE, disk, bitmap="monday", state="absent")["bitmaps"] == []
    assert (bitmaps(disk), content(disk), consistency(disk)) == ({}, seen, "good")
    assert names(disk.parent) == [disk.name]


@pytest.mark.parametrize("own", ["4K", "64K", "1M"])
def test_a_bitmap_has_all_of_what_is_merged_into_it_whatever_its_granularity(own: str, disk: Path) -> None:
    for name, granularity in (("all", own), ("fine", "512"), ("coarse", "128K")):
        succeeded(MODULE, disk, bitmap=name, granularity=granularity)
    succeeded(MODULE, disk, bitmap="all", state="disabled")
    qemu_io(disk, "write -P 0x11 1M 512")
    qemu_io(disk, "write -P 0x11 9M 1M")
    succeeded(MODULE, disk, bitmap="fine", state="disabled")
    qemu_io(disk, "write -P 0x11 5M 64k")
    merged = predicted(MODULE, disk, bitmap="all", state="merged", merge_from=["fine", "coarse"])
    assert merged["actions"] == [f"merge fine, coarse into bitmap all of {disk}"]
    assert merged["diff"]["after"]["bitmap"]["dirty_bytes"] is None
    wanted = {at for name in ("fine", "coarse") for start, end in dirty(disk, name) for at in range(start, end)}
    assert wanted <= {at for start, end in dirty(disk, "all") for at in range(start, end)}
    assert bitmap(merged, "all")["dirty_bytes"] == sum(end - start for start, end in dirty(disk, "all")) * 1024
    qemu_io(disk, "write -P 0x11 3M 64k")
    assert succeeded(MODULE, disk, bitmap="all", state="merged", merge_from=["coarse"])["changed"], "it has more now"


def test_the_bitmap_of_an_overlay_is_merged_into_that_of_its_base(disk: Path, tmp_path: Path) -> None:
    succeeded(MODULE, disk, bitmap="backup")
    overlay = tmp_path / "-over, lay:x"
    qemu_img("create", "-q", "-f", "qcow2", "-b", disk, "-F", "qcow2", "--", overlay)
    succeeded(MODULE, overlay, bitmap="ba,ck=up ☃")
    qemu_io(overlay, "write -P 0x11 1M 64k")
    wish: dict[str, Any] = {"state": "merged", "merge_from": ["ba,ck=up ☃"], "merge_from_path": str(overlay)}
    assert predicted(MODULE, disk, bitmap="backup", **wish)["changed"]
    assert dirty(disk, "backup") == [(1024, 1088)]
    qemu_img("resize", "-q", "-f", "qcow2", overlay, "20M")
    assert "of the same size" in refused(MODULE, disk, bitmap="backup", **wish)["msg"]


def test_odd_names_mean_what_they_say(disk: Path) -> None:
    path = disk.rename(disk.with_name("-a, b:c,ü=1.qcow2"))
    odd = ["-x", "a,b=c", "with space", "später: ☃", "json:{}", "x" * 1023, "1"]
    for name in odd:
        assert succeeded(MODULE, path, bitmap=name)["changed"]
        assert succeeded(MODULE, path, bitmap=name, state="disabled")["changed"]
    assert list(bitmaps(path)) == odd
    assert succeeded(MODULE, path, bitmap="-x", state="merged", merge_from=odd[1:])["changed"] is False
    for name in odd:
        assert succeeded(MODULE, path, bitmap=name, state="absent")["changed"]
    assert (bitmaps(path), names(path.parent)) == ({}, [path.name])


def test_what_is_set_in_large_bitmaps_is_read_from_all_of_their_clusters(tmp_path: Path) -> None:
    """One with a set bit at the very end, one with all set: QEMU stores that without a cluster."""
    path = create(tmp_path / "disk", "qcow2", "2G", "-o", "cluster_size=512")
    succeeded(MODULE, path, bitmap="end", granularity="512")
    qemu_io(path, f"write -P 0x11 {(2 << 30) - 512} 512")
    assert bitmap(succeeded(MODULE, path, bitmap="end"), "end")["dirty_bytes"] == 512
    small = create(tmp_path / "small", "qcow2", MIB)
    succeeded(MODULE, small, bitmap="all", granularity="512")
    qemu_io(small, "write -P 0x11 0 1M")
    assert bitmap(succeeded(MODULE, small, bitmap="all"), "all")["dirty_bytes"] == MIB


# --- refused ------------------------------------------------------------------------------------------------------


def test_a_wish_that_cannot_be_is_refused(disk: Path, tmp_path: Path) -> None:
    succeeded(MODULE, disk, bitmap="there")
    old = create(tmp_path / "old", "qcow2", MIB, "-o", "compat=0.10")
    raw = create(tmp_path / "raw", "raw", MIB)
    merge: dict[str, Any] = {"bitmap": "there", "state": "merged"}
    wishes: list[tuple[Path | str, dict[str, Any], str]] = [
        (disk, {"bitmap": "x" * 1024}, "from 1 to 1023 bytes"),
        (disk, {"bitmap": ""}, "from 1 to 1023 bytes"),
        (disk, {"bitmap": "a\tb"}, "control characters"),
        (disk, {"bitmap": "new", "granularity": "3K"}, "is not a power of two"),
        (disk, {"bitmap": "new", "granularity": "4G"}, "is not a power of two"),
        (disk, {"bitmap": "new", "granularity": "fine"}, "is not a size"),
        (disk, {"bitmap": "there", "granularity": "4K"}, "has a granularity of 64 KiB, asked for 4 KiB"),
        (disk, {"bitmap": "there", "state": "cleared", "granularity": "64K"}, "give it with state=present only"),
        (disk, {"bitmap": "never", "state": "enabled"}, "has no bitmap 'never'; it has: 'there'"),
        (disk, merge, "required there: name the bitmaps"),
        (disk, {**merge, "merge_from": ["there"]}, "cannot be merged into itself"),
        (disk, {**merge, "merge_from": ["never"]}, "has no bitmap 'never'"),
        (disk, {**merge, "merge_from": ["a"], "merge_from_path": str(raw)}, "found a raw image"),
        (disk, {**merge, "merge_from": ["a"], "merge_from_path": str(disk)}, "is the image itself"),
        (disk, {"bitmap": "there", "merge_from": ["a"]}, "is for state=merged"),
        (disk, {"bitmap": "there", "merge_from_path": str(old)}, "is for state=merged"),
        (old, {"bitmap": "new"}, "compat 0.10 has no dirty bitmaps"),
        (raw, {"bitmap": "new"}, "found a raw image"),
        (tmp_path / "missing", {"bitmap": "new"}, "no such image"),
        ("disk.qcow2", {"bitmap": "new"}, "relative"),
    ]
    before = tree_state(tmp_path)
    for path, params, reason in wishes:
        for check in (True, False):
            assert reason in run_module(MODULE, image_params(path, params), check=check)["msg"]
    assert tree_state(tmp_path) == before
    assert not succeeded(MODULE, old, bitmap="new", state="absent")["changed"]


def test_images_that_qemu_would_not_write_are_refused_with_the_reason(disk: Path, tmp_path: Path) -> None:
    external = create(tmp_path / "external", "qcow2", MIB, "-o", f"data_file={tmp_path}/data")
    secret = ["--object", "secret,id=s,data=x", "-o", "encrypt.format=aes,encrypt.key-secret=s"]
    encrypted = create(tmp_path / "encrypted", "qcow2", MIB, *secret)
    for path, reason in (
        (external, "keeps its data in another file"),
        (encrypted, "is encrypted"),
        (marked(disk, CORRUPT), "is marked corrupt"),
        (marked(Path(shutil.copyfile(disk, tmp_path / "dirty")), DIRTY), "was not closed properly"),
    ):
        assert reason in refused(MODULE, path, bitmap="one")["msg"]


def test_nothing_but_the_image_is_opened(tmp_path: Path) -> None:
    """A FIFO as backing file: whoever opens it waits for ever."""
    os.mkfifo(tmp_path / "base")
    top = tmp_path / "top"
    qemu_img("create", "-q", "-f", "qcow2", "-u", "-b", "base", "-F", "raw", top, "1M")
    assert succeeded(MODULE, top, bitmap="one")["changed"]
    assert succeeded(MODULE, top, bitmap="two")["changed"]
    assert not succeeded(MODULE, top, bitmap="one", state="merged", merge_from=["two"])["changed"]
    assert succeeded(MODULE, top, bitmap="one", state="absent")["changed"]


def test_an_image_that_somebody_uses_is_left_alone(
    disk: Path, hv: Hypervisor, images: Path, make_domain: MakeDomain
) -> None:
    with opened_by_a_process(disk):
        for params in ({"bitmap": "one"}, {"bitmap": "one", "state": "absent"}):
            result = run_module(MODULE, image_params(disk, params))
            assert "in use by a process that libvirt does not know" in result["msg"]
    own = create(images / "disk.qcow2")
    guest = make_domain([Disk(own, "qcow2")])
    assert succeeded(MODULE, own, bitmap="one", uri=hv.uri)["changed"], "a domain that is off is no hindrance"
    hv.start(guest.name)
    for params in ({"bitmap": "two"}, {"bitmap": "one", "state": "absent"}):
        result = run_module(MODULE, {"path": str(own), "uri": hv.uri, **params})
        assert f"running domain {guest.name}" in result["msg"]
        assert result["in_use_by"][0]["running"]


# --- crashes ------------------------------------------------------------------------------------------------------


def crashed(path: Path) -> Path:
    """PATH after a crash of whoever wrote to it: its bitmaps are marked in use."""
    process = subprocess.Popen(
        ["qemu-io", "-f", "qcow2", path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin
    assert process.stdout
    process.stdin.write("write 0 64k\n")
    process.stdin.flush()
    process.stdout.readline()
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()
    return path


def test_a_bitmap_that_a_crash_left_in_use_is_reported_and_only_removed(disk: Path) -> None:
    for name in ("one", "two"):
        succeeded(MODULE, disk, bitmap=name)
    crashed(disk)
    assert bitmaps(disk)["one"] == (65536, ["in-use", "auto"])
    wishes: list[dict[str, Any]] = [
        {"bitmap": "one"},
        {"bitmap": "one", "state": "enabled"},
        {"bitmap": "one", "state": "cleared"},
        {"bitmap": "one", "state": "merged", "merge_from": ["two"]},
    ]
    for params in wishes:
        assert "its bitmap 'one' is marked in use" in refused(MODULE, disk, **params)["msg"]
    removed = predicted(MODULE, disk, bitmap="one", state="absent")
    assert removed["bitmaps"] == [
        {"name": "two", "granularity": 65536, "flags": ["in-use", "auto"], "dirty_bytes": None}
    ]
    succeeded(MODULE, disk, bitmap="new")
    wish: dict[str, Any] = {"bitmap": "new", "state": "merged", "merge_from": ["two"]}
    assert "its bitmap 'two' is marked in use" in refused(MODULE, disk, **wish)["msg"]
    assert succeeded(MODULE, disk, bitmap="two", state="absent")["changed"]
    assert consistency(disk) in ("good", "leaks")


def test_a_killed_run_costs_no_content_and_the_next_one_says_what_it_found(disk: Path) -> None:
    succeeded(MODULE, disk, bitmap="old")
    qemu_io(disk, "write -P 0x11 1M 64k")
    seen, params = content(disk), image_params(disk, {"bitmap": "new"})
    killed_at("qemu-img-bitmap 1", params, module=MODULE, children=True)
    assert names(disk.parent) == [".disk.qcow2.kvmops", "disk.qcow2"]
    crashed(disk)  # as qemu-img in the midst of it
    qemu_io(disk, "write -P 0 0 64k")
    prediction = run_module(MODULE, params, check=True)
    result = run_module(MODULE, params)
    assert not result.get("failed"), result
    assert result["actions"] == prediction["actions"]
    assert result["actions"][0].startswith(f"check {disk}, on which a run was interrupted at ")
    assert bitmap(result, "old")["flags"] == ["in-use", "auto"]
    assert (content(disk), consistency(disk), names(disk.parent)) == (seen, "good", [disk.name])


def test_a_qemu_img_whose_module_is_told_to_end_ends_its_work(disk: Path) -> None:
    assert (
        "interrupted"
        in signalled_at("pwrite 1", "SIGTERM", image_params(disk, {"bitmap": "one"}), module=MODULE)["msg"]
    )
    assert succeeded(MODULE, disk, bitmap="one")["changed"]
    assert names(disk.parent) == [disk.name]


def test_runs_at_once_add_a_bitmap_exactly_once(disk: Path) -> None:
    results = at_once(MODULE, *[image_params(disk, {"bitmap": "one"})] * 3)
    assert [result for result in results if result.get("failed")] == []
    assert sorted(result["changed"] for result in results) == [False, False, True]
    assert (bitmaps(disk), names(disk.parent)) == ({"one": (65536, ["auto"])}, [disk.name])


def test_a_full_disk_is_refused_with_the_figures_and_removing_needs_no_room(tmp_path: Path) -> None:
    with small_file_system(tmp_path / "small", "4M") as small:
        path = create(small / "disk", size=MIB)
        succeeded(MODULE, path, bitmap="one")
        (small / "filler").write_bytes(bytes(shutil.disk_usage(small).free - 64 * 1024))
        before = tree_state(small)
        result = refused(MODULE, path, bitmap="two")
        assert result["required_bytes"] > result["available_bytes"]
        assert tree_state(small) == before
        assert succeeded(MODULE, path, bitmap="one", state="absent")["changed"]
        assert consistency(path) == "good"


def test_a_damaged_directory_is_refused(disk: Path) -> None:
    succeeded(MODULE, disk, bitmap="one")
    raw = bytearray(disk.read_bytes())
    at = raw.index((0x23852875).to_bytes(4, "big"))
    for offset, value in ((8, 0xFFFFFFFF), (16, 1 << 40), (24, 1 << 62)):
        broken = bytearray(raw)
        broken[at + offset : at + offset + 8] = value.to_bytes(8, "big")
        if offset == 8:
            broken[at + offset : at + offset + 8] = value.to_bytes(4, "big") + bytes(4)
        disk.write_bytes(broken)
        assert "bitmap" in refused(MODULE, disk, bitmap="two")["msg"].lower()
