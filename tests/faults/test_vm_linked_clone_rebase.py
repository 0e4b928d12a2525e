# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Linked clones get a newer version of their base: their guests see the same, and the older one is let go."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from lab import Disk, Hypervisor, run_module, tree_state
from lab.fixtures import MakeDomain
from support.file_systems import in_memory
from support.image_tools import MIB, content, create, info, overlay, qemu_img, qemu_io
from support.injection import at_once, killed_at, paused_at
from support.playground import Playground
from support.scene import chain_of, definition, leftovers

NAMES = ("one", "two")


@dataclass
class Versions:
    """Two machines that are off, an old one with clones and a new one, and what the disks of the clones hold."""

    hv: Hypervisor
    images: Path
    old: str
    new: str
    seen: dict[str, str]

    def asked(self, *names: str, **params: Any) -> dict[str, Any]:
        clones = [{"name": name} for name in names or NAMES]
        return {"source": self.old, "rebase_to": self.new, "clones": clones, "uri": self.hv.uri, **params}

    def run(self, *names: str, check: bool = False, **params: Any) -> dict[str, Any]:
        return run_module("vm_linked_clone", self.asked(*names, **params), check=check, diff=True)

    def disk(self, name: str) -> Path:
        return self.images / "clones" / f"{name}.qcow2"

    def base(self, version: str) -> Path:
        return self.images / f"{version}.qcow2"

    def assert_moved(self, *names: str) -> None:
        for name in names or NAMES:
            assert content(self.disk(name)) == self.seen[name]
            assert info(self.disk(name))["full-backing-filename"] == str(self.base("new"))
            assert chain_of(self.hv, name) == [str(self.base("new"))]


def fill(path: Path) -> None:
    """Until its file system has no more room."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as stream:
        while True:
            stream.write(bytes(4096))


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


@pytest.fixture
def versions(hv: Hypervisor, images: Path, make_domain: MakeDomain) -> Iterator[Versions]:
    (images / "clones").mkdir(mode=0o711)
    with arranged(hv, images, make_domain) as found:
        yield found


@pytest.fixture
def cramped(hv: Hypervisor, images: Path, make_domain: MakeDomain) -> Iterator[Versions]:
    """The clones lie on a small file system."""
    with in_memory(images / "clones", 8), arranged(hv, images, make_domain) as found:
        yield found


@contextmanager
def arranged(hv: Hypervisor, images: Path, make_domain: MakeDomain) -> Iterator[Versions]:
    for version, byte in (("old", "0x11"), ("new", "0x22")):
        image = create(images / f"{version}.qcow2", "qcow2", 10 * MIB)
        qemu_io(image, f"write -P {byte} 0 2M")
        qemu_io(image, "write -P 0x33 4M 1M")
        image.chmod(0o640)
    old, new = (
        make_domain([Disk(images / f"{version}.qcow2", "qcow2")], name=version, kernel=False).name
        for version in ("old", "new")
    )
    found = Versions(hv, images, old, new, {})
    made = {"source": found.old, "clones": [{"name": name} for name in NAMES], "disk_dir": str(images / "clones")}
    assert run_module("vm_linked_clone", {**made, "uri": hv.uri}).get("changed")
    for number, name in enumerate(NAMES):
        qemu_io(found.disk(name), f"write -P {0x44 + number} 1M 64k")
        found.seen[name] = content(found.disk(name))
    try:
        yield found
    finally:
        for name in NAMES:
            hv.remove(name)


def test_the_guests_see_the_same_over_the_new_base_and_the_old_one_is_let_go(versions: Versions) -> None:
    before = tree_state(versions.images), [definition(versions.hv, name) for name in NAMES]
    prediction = versions.run(check=True)
    assert (tree_state(versions.images), [definition(versions.hv, name) for name in NAMES]) == before
    result = versions.run()
    assert not result.get("failed"), result["msg"]
    for fact in ("changed", "actions", "diff", "clones"):
        assert prediction[fact] == result[fact]
    assert result["actions"][0] == f"protect {versions.base('new')}"
    assert result["actions"][-1] == f"release {versions.base('old')}"
    assert result["clones"][0]["disks"][0]["backing_file"] == str(versions.base("new"))
    assert any(str(versions.base("new")) in diff.get("prepared", "") for diff in result["diff"])
    versions.assert_moved()
    assert (mode(versions.base("old")), mode(versions.base("new"))) == (0o640, 0o440)
    again = versions.run()
    assert (again["changed"], again["actions"]) == (False, [])
    for name in NAMES:
        assert [path for path in leftovers(versions.hv, name, versions.images) if "kvmops-base" not in path] == []


def test_they_are_clones_of_the_new_machine_from_then_on(versions: Versions) -> None:
    versions.run()
    asked = {**versions.asked(source=versions.new, disk_dir=str(versions.images / "clones"))}
    del asked["rebase_to"]
    assert not run_module("vm_linked_clone", asked)["changed"]
    for name in NAMES:
        versions.hv.start(name)
    removed = run_module("vm_linked_clone", {**asked, "state": "absent", "force": True})
    assert removed["changed"]
    assert not removed.get("failed")
    assert mode(versions.base("new")) == 0o640
    assert sorted(path.name for path in (versions.images / "clones").iterdir()) == []


def test_the_old_base_stays_protected_while_one_clone_reads_it(versions: Versions) -> None:
    assert versions.run("one")["changed"]
    versions.assert_moved("one")
    assert (mode(versions.base("old")), mode(versions.base("new"))) == (0o440, 0o440)
    assert versions.run()["actions"][-1] == f"release {versions.base('old')}"
    assert mode(versions.base("old")) == 0o640


def test_one_that_cannot_be_moved_does_not_keep_the_others(versions: Versions) -> None:
    versions.hv.start("two")
    result = versions.run()
    assert result.get("failed")
    assert "two: is running: asked to give it another base: shut it down first" in result["msg"]
    assert [clone["name"] for clone in result["clones"]] == ["one"]
    assert [clone["name"] for clone in result["failed_clones"]] == ["two"]
    versions.assert_moved("one")
    assert chain_of(versions.hv, "two") == [str(versions.base("old"))]
    assert mode(versions.base("old")) & 0o222 == 0


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"state": "absent"}, "state is absent"),
        ({"mode": "full"}, "kind is full"),
        ({"rebase_to": "nobody"}, "nobody: no domain of this name"),
        ({"rebase_to": "one"}, "one is the source itself"),
        ({"source": "another"}, "is a clone of old-"),
        ({"clones": [{"name": "three"}]}, "three: no domain of this name"),
    ],
)
def test_bad_input_is_refused(versions: Versions, params: dict[str, Any], said: str) -> None:
    before = tree_state(versions.images)
    for check in (True, False):
        result = versions.run(check=check, **params)
        assert result.get("failed"), result
        assert said in result["msg"]
        assert "Traceback" not in result["msg"]
    assert tree_state(versions.images) == before


def test_what_stands_in_the_way_is_named_and_nothing_changes(versions: Versions, make_domain: MakeDomain) -> None:
    larger = create(versions.images / "larger.qcow2", "qcow2", 20 * MIB)
    qemu_img("snapshot", "-c", "before", versions.disk("one"))
    child = overlay(versions.images / "child.qcow2", str(versions.disk("two")))
    on_larger = make_domain([Disk(larger, "qcow2")], kernel=False).name
    before = tree_state(versions.images)
    for params, said in (
        ({"rebase_to": on_larger}, "and the new base"),
        ({"search_paths": [str(versions.images)]}, "holds 1 internal snapshot(s) (before)"),
        ({"search_paths": [str(versions.images)]}, f"1 image(s) read it as their backing file ({child})"),
    ):
        result = versions.run(**params)
        assert result.get("failed")
        assert said in result["msg"]
        assert tree_state(versions.images) == before


#: Before: the base is noted; the new file is rebased, compared, put in place; the old one goes; the definition names
#: the new base; the old base is let go; the record goes.
POINTS = (
    *("rename 1", "qemu-img-rebase 2", "qemu-img-compare 1", "rename 2", "unlink 1"),
    *("virDomainDefineXMLFlags 1", "rename 3", "unlink 2"),
)


@pytest.mark.parametrize("point", POINTS)
def test_a_run_that_was_killed_is_finished_by_the_next_one(versions: Versions, point: str) -> None:
    killed_at(point, versions.asked("one"), module="vm_linked_clone")
    assert content(versions.disk("one")) == versions.seen["one"], "whole at every moment"
    result = versions.run()
    assert not result.get("failed"), result["msg"]
    assert result["changed"]
    versions.assert_moved()
    assert (mode(versions.base("old")), mode(versions.base("new"))) == (0o640, 0o440)
    assert not versions.run()["changed"]
    for name in NAMES:
        assert [path for path in leftovers(versions.hv, name, versions.images) if "kvmops-base" not in path] == []


@pytest.mark.parametrize("point", ["virDomainDefineXMLFlags 1", "unlink 2"])
def test_a_killed_run_leaves_a_clone_that_starts(versions: Versions, point: str) -> None:
    """The image is right over both bases, whichever of them the definition names."""
    killed_at(point, versions.asked("one"), module="vm_linked_clone")
    named = chain_of(versions.hv, "one")[0]
    copy = versions.disk("one").with_name("copy")
    copy.write_bytes(versions.disk("one").read_bytes())
    qemu_img("rebase", "-u", "-f", "qcow2", "-b", named, "-F", "qcow2", copy)
    assert content(copy) == versions.seen["one"]
    versions.hv.start("one")


def test_two_identical_runs_at_once_move_each_clone_once(versions: Versions) -> None:
    orders = (NAMES, NAMES[::-1])
    results = at_once("vm_linked_clone", *(versions.asked(*order) for order in orders))
    for result in results:
        assert not result.get("failed"), result["msg"]
    moved = [clone["name"] for result in results for clone in result["clones"] if clone["changed"]]
    assert sorted(moved) == sorted(NAMES)
    versions.assert_moved()
    assert (mode(versions.base("old")), mode(versions.base("new"))) == (0o640, 0o440)


def test_without_room_nothing_is_begun_and_a_disk_that_fills_up_meanwhile_costs_nothing(cramped: Versions) -> None:
    images = cramped.images / "clones"
    fat = images / "fat"
    fat.write_bytes(bytes(6 << 20))
    before = tree_state(cramped.images)
    refused = cramped.run("one")
    assert "not enough space in" in refused["msg"]
    assert refused["required_bytes"] > refused["available_bytes"]
    assert tree_state(cramped.images) == before
    fat.unlink()
    with paused_at("qemu-img-rebase 2", cramped.asked("one"), module="vm_linked_clone") as run:
        fill(fat)
    assert "o space left on device" in run.result()["msg"]
    assert content(cramped.disk("one")) == cramped.seen["one"]
    assert chain_of(cramped.hv, "one") == [str(cramped.base("old"))]
    assert sorted(path.name for path in images.iterdir()) == ["fat", "one.qcow2", "two.qcow2"]
    assert (mode(cramped.base("old")), mode(cramped.base("new"))) == (0o440, 0o640), "nobody reads the new one"
    fat.unlink()
    assert not cramped.run().get("failed")
    cramped.assert_moved()


def test_it_tells_of_each_clone_how_far_it_is(versions: Versions, tmp_path: Path) -> None:
    run = Playground(versions.hv, tmp_path).play({"kvmops.disk.vm_linked_clone": versions.asked()})
    told = {(line["subject"], line["verb"]) for line in run.lines()}
    assert told == {(f"{name} vda", verb) for name in NAMES for verb in ("rebase", "compare")}, run.output
    ended = [line["subject"] for line in run.lines() if line["percent"] == "100"]
    assert sorted(ended) == sorted(f"{name} vda" for name in NAMES for _verb in range(2)), run.output
    versions.assert_moved()
