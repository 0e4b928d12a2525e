# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qcow2_image_info tells where content lies, what it would take and whether it is sound, and follows what it may."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab.module import run_module
from lab.tree import tree_state
from support.damage import leak, miscount
from support.hostile import Canary, overlay_with
from support.image_tools import (
    MIB,
    NOBODY,
    allocated,
    create,
    create_encrypted,
    opened_by_a_process,
    overlay,
    qemu_img,
    qemu_io,
)
from support.looks import look, one, refused
from support.snapshot_tools import GOOD, marked, succeeded
from support.stand_in import listening, python_with
from unit.qcow2_header import DIRTY

EVERYTHING = {"backing_chain": True, "map": True, "measure": True, "check": True, "dependents": True, "uri": NOBODY}


@pytest.fixture
def chain(tmp_path: Path) -> tuple[Path, Path]:
    """An overlay and its base: a piece in the base, one in both, one in the overlay; zeros, and nothing."""
    base = create(tmp_path / "base, raw", "raw", 4 * MIB)
    qemu_io(base, "write -P 1 0 1M", "raw")
    top = overlay(tmp_path / "top: -1", str(base), "raw")
    qemu_io(top, "write -P 2 512k 1M")
    qemu_io(top, "write -z 2M 64k")
    return top, base


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Canary]:
    found = Canary(tmp_path / "canary")
    yield found
    found.close()


def told(*arguments: str | Path) -> Any:
    return json.loads(qemu_img(*arguments))


# --- map, measure, check ----------------------------------------------------------------------------------------


def test_a_map_says_in_which_image_and_where_each_part_of_a_disk_lies(chain: tuple[Path, Path]) -> None:
    top, base = chain
    ranges = look(top, base, map=True)["images"][0]["map"]
    rows = [{"offset": None, **row} for row in told("map", "--output=json", "-f", "qcow2", top)]
    for row in rows:
        row.pop("compressed", None)  # newer ones say that, too
    assert ranges == rows, "as qemu-img says it"
    assert [found["start"] for found in ranges[1:]] == [found["start"] + found["length"] for found in ranges[:-1]]
    assert ranges[-1]["start"] + ranges[-1]["length"] == 4 * MIB
    for found in ranges:
        if found["data"]:
            with (top, base)[found["depth"]].open("rb") as stream:
                stream.seek(found["offset"])
                assert stream.read(found["length"]) == bytes([2 - found["depth"]]) * found["length"]
        else:
            assert found["zero"]


def test_what_is_compressed_has_no_one_place(chain: tuple[Path, Path], tmp_path: Path) -> None:
    packed = tmp_path / "packed"
    qemu_img("convert", "-c", "-f", "raw", "-O", "qcow2", chain[1], packed)
    assert [(found["data"], found["offset"]) for found in one(packed, map=True)["map"]] == [(True, None), (False, None)]


def test_a_map_of_too_many_ranges_is_refused_and_the_way_out_named(tmp_path: Path) -> None:
    """Every other cluster of 16 GiB is one of zeros, by one table that all parts of the disk share."""
    path = create(tmp_path / "disk", "qcow2", "16G")
    l1_at = int.from_bytes(path.read_bytes()[40:48], "big")
    with path.open("r+b") as stream:
        stream.seek(l1_at)
        stream.write(struct.pack(">Q", 1 << 63 | 10 * 65536) * 32)
        stream.seek(10 * 65536)
        stream.write(struct.pack(">QQ", 1, 0) * 4096)
    reason = refused(path, map=True)["msg"]
    assert "its map has 262144 ranges, and up to 100000 are returned: leave out map" in reason
    assert "map" not in one(path)


def test_a_measure_is_what_a_copy_of_the_whole_disk_takes(chain: tuple[Path, Path], tmp_path: Path) -> None:
    top, base = chain
    measure = look(top, base, measure=True)["images"][0]["measure"]
    for image_format, found in measure.items():
        said = told("measure", "--output=json", "-O", image_format, "-f", "qcow2", top)
        assert found == {"required": said["required"], "fully_allocated": said["fully-allocated"]}
    copy = tmp_path / "copy"
    qemu_img("convert", "-f", "qcow2", "-O", "qcow2", top, copy)
    assert allocated(copy) <= measure["qcow2"]["required"] <= measure["qcow2"]["fully_allocated"]
    assert measure["raw"] == {"required": 4 * MIB, "fully_allocated": 4 * MIB}


def test_a_check_says_what_qcow2_check_says_and_repairs_nothing(tmp_path: Path) -> None:
    for name in ("good", "leaks", "corrupt", "dirty"):
        qemu_io(create(tmp_path / name), "write -P 1 1M 1M")
    leak(tmp_path / "leaks", 2)
    miscount(tmp_path / "corrupt")
    with (tmp_path / "dirty").open("r+b") as stream:
        stream.seek(72)
        stream.write(struct.pack(">Q", DIRTY))
    before = tree_state(tmp_path)
    found = {os.path.basename(image["path"]): image["check"] for image in look(tmp_path, check=True)["images"]}
    assert tree_state(tmp_path) == before
    assert marked(tmp_path / "dirty", DIRTY)
    assert found["good"] == found["dirty"] == GOOD
    assert found["leaks"] == {**GOOD, "result": "leaks", "leaks": 2}
    assert (found["corrupt"]["result"], found["corrupt"]["corruptions"] > 0) == ("corrupt", True)
    for name in ("good", "leaks"):
        assert succeeded("qcow2_check", tmp_path / name)["check"] == found[name]
    failed = run_module("qcow2_check", {"path": str(tmp_path / "corrupt"), "uri": NOBODY})
    assert failed["check"] == found["corrupt"]


@pytest.mark.parametrize("name", ["raw", "qcow", "qed", "vmdk", "vdi", "vhdx", "vpc", "parallels"])
def test_every_format_can_be_asked_for_everything(name: str, tmp_path: Path) -> None:
    path = create(tmp_path / "disk", name)
    found = one(path, **EVERYTHING)
    assert found["check"]["result"] == ("unsupported" if name in ("raw", "qcow", "vpc") else "good")
    size = found["virtual_size"]
    assert sum(part["length"] for part in found["map"]) == size
    assert found["measure"]["raw"]["required"] == size
    assert [link["path"] for link in found["backing_chain"]] == [str(path)]
    assert (found["problems"], found["dependents"]) == ([], [])


def test_nothing_is_written_and_nothing_asked_twice(chain: tuple[Path, Path], tmp_path: Path) -> None:
    """All that is known of a base that many read is found out once, and each other question asked once."""
    base = create(tmp_path / "base.qed", "qed")
    for number in range(4):
        overlay(tmp_path / f"clone{number}", str(base), "qed")
    log, apart = tmp_path / ".asked", tmp_path / ".apart"
    apart.mkdir()
    python = listening(apart, log)
    log.touch()
    before = {name: state for name, state in tree_state(tmp_path).items() if ".asked" not in name}
    images = look(tmp_path, python=python, **EVERYTHING)["images"]
    assert {name: state for name, state in tree_state(tmp_path).items() if ".asked" not in name} == before
    asked = log.read_text(encoding="utf-8").splitlines()
    assert sorted(asked) == sorted(set(asked))
    verbs = [line.split()[0] for line in asked]
    assert {verb: verbs.count(verb) for verb in verbs} == {"info": 1, "map": 7, "measure": 7, "check": 6}
    assert len(images) == 7
    assert [len(image["backing_chain"]) for image in images if "clone" in image["path"]] == [2] * 4
    assert images == look(tmp_path, **EVERYTHING)["images"]


def test_snapshots_can_be_left_out(tmp_path: Path) -> None:
    path = create(tmp_path / "disk")
    qemu_img("snapshot", "-c", "before", path)
    assert [found["name"] for found in one(path)["snapshots"]] == ["before"]
    found = one(path, snapshots=False, backing_chain=True)
    assert found["snapshots"] is None
    assert found["backing_chain"][0]["snapshots"] is None


# --- images of which not everything can be known ---------------------------------------------------------------


def test_an_image_in_use_hides_nothing_but_its_own_check(tmp_path: Path) -> None:
    idle, busy = create(tmp_path / "idle"), create(tmp_path / "busy")
    with opened_by_a_process(busy):
        found = {os.path.basename(image["path"]): image for image in look(idle, busy, **EVERYTHING)["images"]}
    assert (found["idle"]["check"], found["idle"]["problems"]) == (GOOD, [])
    assert found["busy"]["check"] is None
    (problem,) = found["busy"]["problems"]
    assert problem.startswith(f"check: {busy}: is open for writing, by a running guest or another program")
    assert sum(part["length"] for part in found["busy"]["map"]) == 10 * MIB
    assert found["busy"]["measure"] == found["idle"]["measure"]


def test_an_encrypted_image_is_described_as_far_as_it_can_be(tmp_path: Path) -> None:
    secret = tmp_path / ".secret"
    secret.write_text("hush", encoding="utf-8")
    create_encrypted(tmp_path / "locked", "qcow2", "encrypt.", secret)
    overlay(tmp_path / "top", str(tmp_path / "locked"))
    locked, top = look(tmp_path, **EVERYTHING)["images"]
    assert (locked["map"], locked["measure"], locked["check"]) == (None, None, None)
    assert [problem.split(":")[0] for problem in locked["problems"]] == ["map", "measure", "check"]
    assert (top["map"], top["measure"], top["check"]) == (None, None, GOOD)
    assert all("locked: is encrypted" in problem for problem in top["problems"])
    assert locked["virtual_size"] == top["virtual_size"] == MIB


def test_an_image_that_cannot_be_described_hides_no_other(chain: tuple[Path, Path], tmp_path: Path) -> None:
    overlay_with(tmp_path / "astray", "/nonexistent/base", "qcow2")
    (tmp_path / "short").write_bytes(b"QFI\xfb" + bytes(20))
    create(tmp_path / "vast", "qcow2", "60P", "-o", "cluster_size=2M")
    result = look(tmp_path, **EVERYTHING)
    assert [os.path.basename(image["path"]) for image in result["images"]] == ["base, raw", "top: -1"]
    assert {os.path.basename(failure["path"]): failure["msg"][-60:] for failure in result["failures"]}.keys() == {
        "astray",
        "short",
        "vast",
    }
    named = refused(*chain, tmp_path / "astray", **EVERYTHING)
    assert len(named["images"]) == 2
    assert "/nonexistent/base" in named["msg"]


# --- what is not trusted ----------------------------------------------------------------------------------------

FOLLOWING = ("backing_chain", "map", "measure")


@pytest.mark.parametrize("option", FOLLOWING)
def test_a_reference_that_the_task_does_not_name_is_not_followed(option: str, canary: Canary, tmp_path: Path) -> None:
    planted = overlay_with(tmp_path / "planted", str(canary.file), "raw")
    between = overlay_with(tmp_path / "between", str(planted), "qcow2")
    with canary.untouched():
        assert "which the task does not name" in refused(planted, **{option: True})["msg"]
        assert "which the task does not name" in refused(between, planted, **{option: True})["msg"]
        assert one(planted, check=True)["backing_file"] == str(canary.file), "what opens nothing else is told"
    named = look(between, planted, canary.file, **{option: True, "backing_chain": True})["images"][0]
    trusting = one(between, trusted=True, **{option: True, "backing_chain": True})
    assert named == trusting
    assert [link["path"] for link in named["backing_chain"]] == [str(between), str(planted), str(canary.file)]


def test_a_data_file_is_opened_only_where_the_task_names_it(tmp_path: Path) -> None:
    data = tmp_path / "data"
    path = create(tmp_path / "disk", "qcow2", MIB, "-o", f"data_file={data}")
    qemu_io(path, "write -P 1 0 64k")
    for option in ("map", "measure"):
        assert "keeps data in another file" in refused(path, **{option: True})["msg"]
        assert (
            look(path, data, **{option: True})["images"][0][option] == one(path, trusted=True, **{option: True})[option]
        )


def test_an_extent_is_opened_only_where_the_task_names_it(canary: Canary, tmp_path: Path) -> None:
    path = tmp_path / "disk.vmdk"
    qemu_img("create", "-q", "-f", "vmdk", "-o", "subformat=monolithicFlat", path, "1M")
    extent = tmp_path / "disk-flat.vmdk"
    extent.unlink()
    os.link(canary.file, extent)
    os.truncate(canary.file, MIB)
    with canary.untouched():
        assert "'disk-flat.vmdk', which the task does not name" in refused(path)["msg"]
    assert one(path, trusted=True)["virtual_size"] == look(path, extent)["images"][0]["virtual_size"] == MIB


def test_only_a_trusted_disk_may_be_vast(tmp_path: Path) -> None:
    path = create(tmp_path / "disk", "qcow2", "65T")
    for option in ("map", "measure", "check"):
        assert "up to 64 TiB are believed: set trusted=true" in refused(path, **{option: True})["msg"]
    assert one(path, trusted=True, map=True)["map"][0]["length"] == 65 << 40
    assert one(path, backing_chain=True)["virtual_size"] == 65 << 40


def test_qemu_img_has_limits_unless_the_images_are_trusted(tmp_path: Path) -> None:
    """qemu-img under the limits of an image that is not trusted; a program in its place tells what they are."""
    create(tmp_path / "disk", "vdi", MIB)
    python = python_with(tmp_path, 'echo "$(ulimit -t) $(ulimit -v)" >&2\nexit 1')
    assert f"300 {4 << 20}" in refused(tmp_path / "disk", python=python)["msg"]  # ulimit -v counts in KiB
    assert "unlimited unlimited" in refused(tmp_path / "disk", trusted=True, python=python)["msg"]


# --- reclaimable ------------------------------------------------------------------------------------------------


def test_what_a_rewrite_gives_back_is_told_at_least_and_without_the_content(tmp_path: Path) -> None:
    holed = create(tmp_path / "holed.qcow2", "qcow2", 32 * MIB)
    qemu_io(holed, "write -P 1 0 20M")
    qemu_io(holed, "discard 4M 12M")  # the clusters are free, and the file keeps them
    zeroed = create(tmp_path / "zeroed.qcow2", "qcow2", 32 * MIB)
    qemu_io(zeroed, "write -P 0 0 20M")
    before = tree_state(tmp_path)
    found = {image["path"]: image for image in look(tmp_path, reclaimable=True)["images"]}
    assert tree_state(tmp_path) == before
    for image in (holed, zeroed):
        rewritten = tmp_path.parent / f"{tmp_path.name}-{image.name}"
        qemu_img("convert", "-f", "qcow2", "-O", "qcow2", image, rewritten)
        gained = allocated(image) - allocated(rewritten)
        assert 0 <= found[str(image)]["reclaimable"] <= gained
    assert found[str(zeroed)]["problems"] == []


def test_nothing_is_foretold_of_an_image_that_would_not_be_rewritten(tmp_path: Path) -> None:
    kept = create(tmp_path / "kept.qcow2", "qcow2", MIB)
    qemu_img("snapshot", "-c", "one", kept)
    create(tmp_path / "other.vmdk", "vmdk", MIB)
    found = look(tmp_path, reclaimable=True)["images"]
    assert [image["reclaimable"] for image in found] == [None, None]


def test_nothing_is_foretold_of_an_encrypted_image_and_it_is_said_why(tmp_path: Path) -> None:
    secret = tmp_path / ".secret"
    secret.write_text("hush", encoding="utf-8")
    create_encrypted(tmp_path / "locked", "qcow2", "encrypt.", secret)
    overlay(tmp_path / "top", str(tmp_path / "locked"))
    locked, top = look(tmp_path, reclaimable=True)["images"]
    assert locked["reclaimable"] is None
    assert "is encrypted" in locked["problems"][0]
    assert top["reclaimable"] == 0, "what is below it is not opened"
