# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""vm_disk_backup with keep: what stays can be read to its end, and nothing goes that somebody else has put there."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lab import Disk, Guest, run_module, tree_state
from lab.fixtures import MakeDomain
from support.injection import at_once
from support.scene import make_image, qemu_img

MODULE = "vm_disk_backup"
BackUp = Callable[..., dict[str, Any]]


@pytest.fixture
def store(images: Path) -> Path:
    directory = images / "backups"
    directory.mkdir(mode=0o711)
    return directory


@pytest.fixture
def off(images: Path, make_domain: MakeDomain) -> Guest:
    return make_domain([Disk(make_image(images / "off.qcow2", "qcow2"), "qcow2")])


@pytest.fixture
def back_up(store: Path) -> BackUp:
    def run(guest: Guest, name: str, **options: Any) -> dict[str, Any]:
        check = options.pop("check", False)
        params = {"name": guest.name, "uri": guest.hv.uri, "backup": name, "dest_dir": str(store), **options}
        return run_module(MODULE, params, check=check)

    return run


def names(place: Path) -> list[str]:
    """What stands beside the backups of a domain, and they themselves."""
    return sorted(path.name for path in place.iterdir())


def place_of(store: Path) -> Path:
    """The directory with the backups of the only domain of which there are any."""
    (place,) = store.iterdir()
    return place


def content(backup: dict[str, Any], tmp_path: Path) -> str:
    """The SHA-256 of the disk that plain qemu-img reads from the backup."""
    raw = tmp_path / "content.raw"
    qemu_img("convert", "-f", "qcow2", "-O", "raw", backup["disks"][0]["path"], raw)
    return hashlib.sha256(raw.read_bytes()).hexdigest()


def said(result: dict[str, Any]) -> str:
    """The warnings of a run."""
    return "\n".join(str(warning) for warning in result["warnings"])


def test_old_chains_go_as_a_whole_and_all_that_stays_reads_as_it_was(
    images: Path, make_domain: MakeDomain, back_up: BackUp, store: Path, tmp_path: Path
) -> None:
    qemu_img("create", "-q", "-f", "qcow2", images / "vm.qcow2", "8M")
    guest = make_domain([Disk(images / "vm.qcow2", "qcow2")], start=True)
    rules = {"max_chain": 2, "keep": {"last": 3}}
    expected: dict[str, tuple[dict[str, Any], str]] = {}
    removed: list[list[str]] = []
    for name in ("a", "b", "c", "d", "e"):
        guest.must(f"pattern /dev/vda 2 {name}; sync; echo 3 > /proc/sys/vm/drop_caches")
        before = tree_state(store)
        predicted = back_up(guest, name, check=True, **rules)
        assert tree_state(store) == before
        result = back_up(guest, name, **rules)
        assert result.get("backup", {}).get("whole"), result
        (difference,) = predicted["diff"]
        assert difference["after"]["backups"] == names(place_of(store))
        assert (result["removed"], result["actions"]) == (predicted["removed"], predicted["actions"])
        expected[name] = result["backup"], guest.must("sha256sum /dev/vda").split()[0]
        removed.append(result["removed"])
        again = back_up(guest, name, **rules)
        assert (again["changed"], again["removed"]) == (False, [])
    assert [backup["kind"] for backup, _content in expected.values()] == [*2 * ["full", "incremental"], "full"]
    assert removed == [[], [], [], [], ["b", "a"]]
    assert names(place_of(store)) == ["c", "d", "e"]
    found = run_module("vm_disk_backup_info", {"dest_dir": str(store), "verify": True})["backups"]
    assert [(one["name"], one["problems"]) for one in found] == [("c", []), ("d", []), ("e", [])]
    for name in ("c", "d", "e"):
        backup, seen = expected[name]
        assert content(backup, tmp_path) == seen


def test_what_is_no_part_of_a_backup_is_never_removed(off: Guest, back_up: BackUp, store: Path) -> None:
    """Neither a file beside its own, nor what only has a name as a backup of the domain has, nor those of others."""
    for name in ("a", "b"):
        assert back_up(off, name)["changed"]
    place = place_of(store)
    (place / "a/notes").write_text("mine")
    other = store / "00000000-0000-0000-0000-000000000000"
    (other / "a").mkdir(parents=True)
    (other / "a/vda.qcow2").write_text("theirs")
    before = tree_state(other), tree_state(place / "a")
    result = back_up(off, "c", keep={"last": 1})
    assert result["removed"] == ["b"]
    assert "holds 'notes', which is no part of the backup: it was left alone" in said(result)
    assert (tree_state(other), tree_state(place / "a")) == before
    assert not back_up(off, "c", keep={"last": 1})["changed"]
    (place / "strange").mkdir()
    result = back_up(off, "d", keep={"last": 1})
    assert result["removed"] == []
    assert "no backup of the domain is removed while it is there" in said(result)
    assert names(place) == ["a", "c", "d", "strange"]


def test_a_backup_that_an_overlay_or_a_domain_stands_on_stays(
    off: Guest, back_up: BackUp, store: Path, images: Path, make_domain: MakeDomain
) -> None:
    disks = {name: back_up(off, name)["backup"]["disks"][0]["path"] for name in ("a", "b", "c")}
    overlay = images / "tried.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-b", disks["a"], "-F", "qcow2", overlay)
    make_domain([Disk(overlay, "qcow2")], "tries-a")
    make_domain([Disk(disks["b"], "qcow2")], "has-b")
    result = back_up(off, "d", keep={"last": 1})
    assert result["removed"] == ["c"]
    assert said(result).count("the backup is kept") == 2
    assert names(place_of(store)) == ["a", "b", "d"]


def test_what_a_backup_stands_on_stays_where_that_one_cannot_be_removed(
    images: Path, make_domain: MakeDomain, back_up: BackUp, store: Path, tmp_path: Path
) -> None:
    qemu_img("create", "-q", "-f", "qcow2", images / "vm.qcow2", "8M")
    guest = make_domain([Disk(images / "vm.qcow2", "qcow2")], start=True)
    for name in ("a", "b", "c"):
        guest.must(f"pattern /dev/vda 2 {name}; sync")
        assert back_up(guest, name)["backup"]["whole"]
    found = run_module("vm_disk_backup_info", {"dest_dir": str(store)})["backups"]
    expected = {one["name"]: content(one, tmp_path) for one in found}
    in_the_way = place_of(store) / "b"
    subprocess.run(["mount", "--bind", in_the_way, in_the_way], check=True)
    try:
        result = back_up(guest, "d", kind="full", keep={"last": 1})
    finally:
        subprocess.run(["umount", in_the_way], check=True)
    assert result["removed"] == ["c"]
    assert "b: cannot be removed: Device or resource busy: the next run tries again" in said(result)
    assert "a: the backup b stands on it: it was left alone" in said(result)
    found = run_module("vm_disk_backup_info", {"dest_dir": str(store), "verify": True})["backups"]
    assert [(one["name"], one["problems"]) for one in found] == [("a", []), ("b", []), ("d", [])]
    assert {one["name"]: content(one, tmp_path) for one in found[:2]} == {name: expected[name] for name in ("a", "b")}
    assert back_up(guest, "d", keep={"last": 1})["removed"] == ["b", "a"]


def test_runs_at_once_leave_whole_backups_and_nothing_else(off: Guest, back_up: BackUp, store: Path) -> None:
    for name in ("a", "b"):
        back_up(off, name)
    params = {"name": off.name, "uri": off.hv.uri, "dest_dir": str(store), "keep": {"last": 1}}
    results = at_once(MODULE, *[{**params, "backup": name} for name in ("c", "d")])
    made = [result["backup"]["name"] for result in results if result.get("changed")]
    assert made
    assert all("another run" in result["msg"] for result in results if not result.get("changed")), results
    found = run_module("vm_disk_backup_info", {"dest_dir": str(store), "verify": True})["backups"]
    assert [one["problems"] for one in found] == [[]]
    assert names(place_of(store)) == [found[0]["name"]]
    assert found[0]["name"] in made


def test_the_backup_of_a_task_that_is_run_again_stays_however_old_it_is(
    off: Guest, back_up: BackUp, store: Path
) -> None:
    for name in ("a", "b", "c"):
        back_up(off, name)
    result = back_up(off, "a", keep={"last": 1})
    assert (result["changed"], result["removed"]) == (True, ["b"])
    assert not back_up(off, "a", keep={"last": 1})["changed"]
    assert names(place_of(store)) == ["a", "c"]


@pytest.mark.parametrize(("wish", "why"), [({}, "would keep no backup"), ({"daily": -1}, "daily is negative")])
def test_rules_that_keep_nothing_are_refused(off: Guest, back_up: BackUp, wish: dict[str, int], why: str) -> None:
    refused = back_up(off, "a", keep=wish)
    assert refused["failed"]
    assert why in refused["msg"]
