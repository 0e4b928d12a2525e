# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Work on snapshots that is killed after any of its writes, on a full disk, or at once: no content is ever lost."""

from __future__ import annotations

import json
import resource
import shutil
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._qemu import door as _door
from ansible_collections.kvmops.disk.plugins.module_utils._recovery import leftovers as _leftovers
from ansible_collections.kvmops.disk.plugins.module_utils._recovery import reverting as _reverting
from ansible_collections.kvmops.disk.plugins.module_utils._recovery import settle as _settle
from ansible_collections.kvmops.disk.plugins.module_utils._recovery import verbs as _verbs
from lab.module import run_module
from lab.tree import tree_state
from support.image_tools import (
    MIB,
    content,
    create,
    done,
    image_params,
    info,
    names,
    qemu_img,
    qemu_io,
    small_file_system,
)
from support.injection import at_once, killed_at
from support.write_log import Write, replay, writes_of

VERBS = {"-c": _verbs.CREATE, "-d": _verbs.DELETE, "-a": _verbs.REVERT}
#: What a task asks for whose qemu-img is the one with the verb.
TASKS: dict[str, dict[str, Any]] = {
    "-c": {"snapshot": "new"},
    "-d": {"snapshot": "old", "state": "absent"},
    "-a": {"snapshot": "old", "state": "reverted"},
}


def snapshot(path: Path, **params: Any) -> dict[str, Any]:
    """One run of qcow2_snapshot."""
    return run_module("qcow2_snapshot", image_params(path, params))


def succeeded(path: Path, **params: Any) -> dict[str, Any]:
    result = snapshot(path, **params)
    assert not result.get("failed"), result
    return result


def snapshots_of(path: Path) -> list[str]:
    return [found["name"] for found in info(path).get("snapshots", [])]


def check(path: Path) -> str:
    return _door.find().check(str(path), "qcow2").result


@dataclass(frozen=True)
class Scene:
    """An image with a snapshot, the writes of a verb on it, and what a guest reads in each case."""

    image: Path
    before: Path
    verb: str
    writes: list[Write]
    active: str
    old: str

    def after(self, count: int) -> Path:
        """The image when the process died after COUNT writes, and the record of its module."""
        replay(self.before, self.writes[:count], self.image)
        record = self.image.with_name(f".{self.image.name}.kvmops")
        record.write_text(json.dumps(self.record()), encoding="utf-8")
        return self.image

    def record(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"verb": VERBS[self.verb], "started": "2024-01-01T00:00:00+00:00"}
        if self.verb == "-a":
            layer = _reverting.active_layer(str(self.before))
            facts.update(layer=layer, snapshot="old", snapshot_id="1")
        return facts


def scene_of(directory: Path, verb: str, options: str, resized: bool = False) -> Scene:
    before = create(directory / "before", "qcow2", MIB, "-o", options)
    qemu_io(before, "write -P 0x11 0 384k")
    qemu_img("snapshot", "-c", "old", before)
    old = content(before)
    qemu_io(before, "write -P 0x22 128k 128k")
    qemu_io(before, "write -P 0x33 768k 64k")
    if resized:
        qemu_img("resize", "-q", "-f", "qcow2", "--shrink", before, "512k")
    active = content(before)
    image = directory / "disk"
    shutil.copyfile(before, image)
    writes = writes_of(image, "snapshot", verb, "new" if verb == "-c" else "old")
    return Scene(image, before, verb, writes, active, old)


@pytest.mark.parametrize(
    "options",
    [
        "cluster_size=512,compat=0.10",
        "cluster_size=4k",
        "cluster_size=16k,extended_l2=on",
        "cluster_size=4k,lazy_refcounts=on",
    ],
)
@pytest.mark.parametrize("verb", VERBS)
def test_a_death_after_any_write_is_repaired_and_costs_no_content(verb: str, options: str, tmp_path: Path) -> None:
    """In this process, by the steps that every module takes first: for each write of qemu-img once."""
    resized = "compat" not in options
    scene = scene_of(tmp_path, verb, options, resized=resized)
    allowed = {("-c", False): {scene.active}, ("-d", False): {scene.active}, ("-a", False): {scene.active, scene.old}}
    seen = set()
    for count in range(0, len(scene.writes) + 1, 1 + len(scene.writes) // 24):
        path = scene.after(count)
        left = _leftovers.look_for(str(path), "qcow2", scene.record())
        seen.add(check(path))
        for step in _settle.settle(left, _door.find(), finishing=_verbs.REVERT):
            step.do()
        assert check(path) == "good"
        half = left.half_reverted is not None
        assert half or content(path) in allowed[verb, half], count
        assert not half or (verb == "-a" and resized), count
        if "old" in snapshots_of(path):
            qemu_img("snapshot", "-a", "old", path)
            assert content(path) == scene.old, count
    assert "good" in seen
    assert seen & {"corrupt", "leaks"}, "the sweep met what it is for"


@pytest.mark.parametrize("verb", VERBS)
def test_the_next_run_after_a_killed_one_says_so_and_goes_on(verb: str, tmp_path: Path) -> None:
    """The module is killed before it starts qemu-img, whose first writes are then made."""
    scene = scene_of(tmp_path, verb, "cluster_size=512")
    path, params = scene.image, image_params(scene.image, TASKS[verb])
    shutil.copyfile(scene.before, path)
    killed_at("qemu-img-snapshot 1", params, module="qcow2_snapshot")
    record = json.loads((tmp_path / ".disk.kvmops").read_text(encoding="utf-8"))
    assert record["verb"] == VERBS[verb]
    corrupt = [count for count in range(len(scene.writes)) if is_corrupt(scene, count)]
    replay(scene.before, scene.writes[: corrupt[-1]], path)
    found = tree_state(tmp_path)
    prediction = run_module("qcow2_snapshot", params, check=True)
    assert tree_state(tmp_path) == found
    result = run_module("qcow2_snapshot", params)
    assert not result.get("failed"), result
    assert result["changed"]
    assert result["actions"] == prediction["actions"]
    assert result["actions"][0] == f"check {path}, on which a run was interrupted at {record['started']}"
    assert check(path) == "good"
    assert content(path) == (scene.old if verb == "-a" else scene.active)
    assert snapshots_of(path) == {"-c": ["old", "new"], "-d": [], "-a": ["old"]}[verb]
    assert not [name for name in names(tmp_path) if ".kvmops" in name]
    assert not run_module("qcow2_snapshot", params)["changed"]


def is_corrupt(scene: Scene, count: int) -> bool:
    replay(scene.before, scene.writes[:count], scene.image)
    return check(scene.image) == "corrupt"


def test_another_module_repairs_what_a_killed_snapshot_left(tmp_path: Path) -> None:
    scene = scene_of(tmp_path, "-c", "cluster_size=512")
    corrupt = next(count for count in range(len(scene.writes)) if is_corrupt(scene, count))
    path = scene.after(corrupt)
    result = done(path, size="2M")
    assert result["actions"][0].startswith(f"check {path}, on which a run was interrupted")
    assert check(path) == "good"
    assert content(path, length=MIB) == scene.active
    assert ".disk.kvmops" not in names(tmp_path)


def half_reverted(scene: Scene) -> Path:
    """The image when it has its new size already and its old tables still."""
    for count in range(len(scene.writes)):
        path = scene.after(count)
        if _leftovers.look_for(str(path), "qcow2", scene.record()).half_reverted:
            return path
    raise AssertionError("no write leaves it in between")


def test_a_half_reverted_disk_is_refused_until_it_is_reverted(tmp_path: Path) -> None:
    scene = scene_of(tmp_path, "-a", "cluster_size=4k", resized=True)
    path = half_reverted(scene)
    before = tree_state(tmp_path)
    attempts: list[tuple[str, Mapping[str, Any]]] = [
        ("qcow2_image", image_params(path, {"size": "2M"})),
        ("qcow2_snapshot", image_params(path, {"snapshot": "other"})),
        ("qcow2_snapshot", image_params(path, {"snapshot": "old", "state": "absent"})),
        ("qcow2_convert", {"src": str(path), "src_format": "qcow2", "dest": f"{path}.raw", "format": "raw"}),
    ]
    for module, params in attempts:
        for predicted in (True, False):
            result = run_module(module, params, check=predicted)
            assert result.get("failed"), result
            assert "a revert to its snapshot 'old' was interrupted" in result["msg"]
            assert str(tmp_path / ".disk.kvmops") in result["msg"]
    assert tree_state(tmp_path) == before

    repaired = run_module("qcow2_check", image_params(path, {"repair": "all"}))
    assert not repaired.get("failed"), repaired
    assert ".disk.kvmops" in names(tmp_path), "a good check does not make it one disk"
    assert "was interrupted" in snapshot(path, snapshot="other")["msg"]

    assert succeeded(path, snapshot="old", state="reverted")["changed"]
    assert content(path) == scene.old
    assert check(path) == "good"
    assert ".disk.kvmops" not in names(tmp_path)
    assert not succeeded(path, snapshot="old", state="reverted")["changed"]


def test_more_than_an_interrupted_snapshot_explains_is_not_repaired(tmp_path: Path) -> None:
    """An entry of the L2 table points into the refcount table: a repair could write over what a guest reads."""
    scene = scene_of(tmp_path, "-c", "cluster_size=4k")
    path = scene.after(len(scene.writes))
    raw = path.read_bytes()
    l1, refcounts = struct.unpack(">Q", raw[40:48])[0], struct.unpack(">Q", raw[48:56])[0]
    l2 = struct.unpack(">Q", raw[l1 : l1 + 8])[0] & 0x00FFFFFFFFFFFE00
    with path.open("r+b") as stream:
        stream.seek(l2)
        stream.write(struct.pack(">Q", refcounts))
    before = tree_state(tmp_path)
    for _again in range(2):
        result = snapshot(path, snapshot="another")
        assert "more is wrong with its metadata than that explains" in result["msg"]
        assert result["check"]["result"] == "corrupt"
        assert tree_state(tmp_path)["disk"] == before["disk"]
        assert ".disk.kvmops" in names(tmp_path)


def test_a_repair_that_is_killed_after_any_write_is_done_again(tmp_path: Path) -> None:
    scene = scene_of(tmp_path, "-d", "cluster_size=512")
    corrupt = next(count for count in range(len(scene.writes)) if is_corrupt(scene, count))
    replay(scene.before, scene.writes[:corrupt], tmp_path / "corrupt")
    shutil.copyfile(tmp_path / "corrupt", scene.image)
    repair = replace(scene, before=tmp_path / "corrupt", writes=writes_of(scene.image, "check", "-r", "all"))
    for count in range(0, len(repair.writes), 1 + len(repair.writes) // 8):
        path = repair.after(count)
        path.with_name(".disk.kvmops").write_text('{"verb": "repair", "started": "2024"}', encoding="utf-8")
        result = run_module("qcow2_check", image_params(path, {"repair": "all"}))
        assert (result["check"]["result"], result["content_unchanged"] is not False) == ("good", True)
        assert content(path) == scene.active
        assert ".disk.kvmops" not in names(tmp_path)


def test_a_failure_in_the_middle_leaves_the_record_and_the_next_run_repairs(tmp_path: Path) -> None:
    """As on a disk that gets full meanwhile: no file may become larger than the image is."""
    scene = scene_of(tmp_path, "-c", "cluster_size=512")
    shutil.copyfile(scene.before, scene.image)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (scene.image.stat().st_size, hard))
    try:
        result = snapshot(scene.image, snapshot="new")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "qemu-img snapshot failed (1): Could not create snapshot" in result["msg"]
    assert ".disk.kvmops" in names(tmp_path)
    again = succeeded(scene.image, snapshot="new")
    assert again["actions"][0].startswith(f"check {scene.image}, on which a run was interrupted")
    assert snapshots_of(scene.image) == ["old", "new"]
    assert check(scene.image) in ("good", "leaks"), "QEMU itself may lose a cluster here, typed by hand as well"
    assert content(scene.image) == scene.active


def test_a_full_disk_is_refused_with_the_figures_and_deleting_needs_no_room(tmp_path: Path) -> None:
    with small_file_system(tmp_path / "small", "4M") as small:
        path = create(small / "disk", size=MIB)
        qemu_io(path, "write -P 0x11 0 1M")
        assert succeeded(path, snapshot="one")["changed"]
        status = shutil.disk_usage(small)
        (small / "filler").write_bytes(bytes(status.free - 64 * 1024))
        before, seen = tree_state(small), content(path)
        for state in ({"snapshot": "two"}, {"snapshot": "two", "keep": 1, "prefix": ""}):
            result = snapshot(path, **state)
            assert "not enough space" in result["msg"]
            assert result["required_bytes"] > result["available_bytes"]
        assert tree_state(small) == before
        assert succeeded(path, snapshot="one", state="absent")["changed"]
        assert (content(path), check(path)) == (seen, "good")


def test_runs_at_once_take_a_snapshot_exactly_once(tmp_path: Path) -> None:
    path = create(tmp_path / "disk")
    results = at_once("qcow2_snapshot", *[image_params(path, {"snapshot": "one"})] * 4)
    assert [result for result in results if result.get("failed")] == []
    assert sorted(result["changed"] for result in results) == [False, False, False, True]
    assert snapshots_of(path) == ["one"]
    assert (check(path), names(tmp_path)) == ("good", ["disk"])
