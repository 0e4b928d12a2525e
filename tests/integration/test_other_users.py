# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Root manages images where other users may write: they spoil their own at most, and hold nobody up."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from lab.module import run_module
from support.effort import run_within
from support.image_tools import MIB, NOBODY, done, image, info, qemu_img, refused
from support.other_users import MODULES, PLANTS, SECRET, TENANT, Ground, of_json, open_place, params_of

SECONDS = 20


@pytest.fixture
def ground() -> Iterator[Ground]:
    with open_place() as place:
        yield Ground.at(place)


def planted(place: Path, plant: Callable[[Path], None]) -> Path:
    plant(place)
    os.chown(place, TENANT, TENANT, follow_symlinks=False)
    return place


# --- images in a user's own directory work ------------------------------------------------------------------------


@pytest.mark.parametrize("module", MODULES)
def test_root_manages_the_images_of_a_user_in_his_own_directory(ground: Ground, module: str) -> None:
    params, before = params_of(module, ground), ground.state()
    first = run_module(module, params)
    assert not first.get("failed"), first["msg"]
    assert first["changed"] == (module != "qcow2_check")
    again = run_module(module, params)
    assert (again.get("failed", False), again["changed"]) == (False, False), again
    assert ground.state() == before
    for path in ground.directory.iterdir():
        assert path.stat().st_uid == TENANT, path
        assert not path.name.startswith("."), "nothing is left"


def test_an_image_made_in_a_users_directory_is_made_and_removed(ground: Ground) -> None:
    path = ground.directory / "new.qcow2"
    assert done(path, size="1M", owner="nobody", mode="0600")["changed"]
    assert (path.stat().st_uid, path.stat().st_mode & 0o7777) == (TENANT, 0o600)
    assert not done(path, size="1M", owner="nobody", mode="0600")["changed"]
    assert done(path, state="absent")["changed"]
    assert list(ground.directory.iterdir()) == []


def test_a_mode_that_its_owner_chose_gives_no_rights_to_a_copy(ground: Ground) -> None:
    source = ground.image()
    source.chmod(0o6755)
    dest = ground.directory / "new.raw"
    params = {"src": str(source), "src_format": "qcow2", "dest": str(dest), "format": "raw", "uri": NOBODY}
    assert run_module("qcow2_convert", params)["changed"]
    assert dest.stat().st_mode & 0o7777 == 0o755


# --- state files ---------------------------------------------------------------------------------------------------

PLACES = {
    "record": ".web.qcow2.kvmops",
    "base note": ".web.qcow2.kvmops-base",
    "staging directory": ".web.qcow2.kvmops.d",
    "move list": ".web.qcow2.kvmops.d/.web.qcow2.moves",
}


@pytest.mark.parametrize(
    ("place", "plant"),
    [
        (place, plant)
        for place in PLACES
        for plant in (PLANTS if place == "record" else ("a FIFO", "a hole of 200 GiB"))
    ],
)
@pytest.mark.parametrize("module", MODULES)
def test_a_planted_state_file_is_named_and_left_and_holds_nobody_up(
    ground: Ground, module: str, place: str, plant: str
) -> None:
    params = params_of(module, ground)
    path = ground.directory / PLACES[place]
    if path.parent != ground.directory:
        path.parent.mkdir()
        os.chown(path.parent, TENANT, TENANT)
    planted(path, PLANTS[plant])
    found, before = path.lstat(), ground.state()
    result = run_within(SECONDS, module, params)
    assert "Traceback" not in json.dumps(result)
    assert ground.state() == before
    standing = path.lstat()
    assert (standing.st_ino, standing.st_mode, standing.st_uid) == (found.st_ino, found.st_mode, TENANT)
    if place == "record":
        assert result["failed"], "nobody knows what was in flight"
        assert str(path) in result["msg"]
        assert "not believed, because it" in result["msg"]


def test_a_planted_record_of_a_merge_removes_nothing(ground: Ground) -> None:
    params = params_of("qcow2_commit", ground)
    assert run_module("qcow2_commit", params)["changed"]
    victim = ground.reserved / "shadow"
    status = victim.stat()
    written = {"verb": "commit", "removes": {str(victim): [status.st_dev, status.st_ino]}}
    planted(ground.directory / PLACES["record"], of_json(written))
    before = ground.state()
    assert "not believed" in run_module("qcow2_commit", params)["msg"]
    assert ground.state() == before


def test_a_planted_move_list_gives_no_name_to_a_file_of_root(ground: Ground) -> None:
    params = params_of("qcow2_convert", ground)
    staging = ground.directory / ".new.raw.kvmops.d"
    staging.mkdir()
    (staging / ".new.raw.old").symlink_to(ground.reserved)
    (staging / ".new.raw.moves").write_text(json.dumps({"new": {"new.raw": [1, 1]}, "old": {"shadow": [1, 1]}}))
    os.chown(staging, TENANT, TENANT)
    before = ground.state()
    result = run_module("qcow2_convert", params)
    assert result["failed"]
    assert f"{staging}: stands where" in result["msg"]
    assert ground.state() == before
    assert not (ground.directory / "shadow").exists()


# --- links ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wish",
    [
        {"format": "raw", "owner": "nobody", "mode": "0660"},
        {"format": "raw", "size": "1M"},
        {"format": "raw", "state": "absent"},
        {"format": "raw", "size": "1M", "trust_directories": True},
    ],
    ids=["attributes", "grow", "absent", "trusted"],
)
@pytest.mark.parametrize("through", ["file", "directory"])
def test_a_link_of_another_user_is_not_followed(ground: Ground, wish: dict[str, Any], through: str) -> None:
    link = ground.directory / "data"
    link.symlink_to(ground.reserved / "shadow" if through == "file" else ground.reserved)
    ground.own(link)
    path, before = link if through == "file" else link / "shadow", ground.state()
    message = refused(path, **wish)["msg"]
    assert f"leads over the link {link} (to " in message
    assert f"the user with the number {TENANT}" in message
    assert ground.state() == before
    assert link.is_symlink()


def test_a_file_of_which_another_user_may_have_made_a_second_name_is_left_alone(ground: Ground) -> None:
    second = ground.directory / "data.raw"
    os.link(ground.reserved / "shadow", second)
    before = ground.state()
    assert "has 2 names" in refused(second, format="raw", owner="nobody", mode="0660")["msg"]
    assert ground.state() == before


def test_a_link_of_root_is_followed(ground: Ground) -> None:
    link = ground.directory.with_name("vm")
    link.symlink_to(ground.directory)
    assert done(link / "web.qcow2", size="1M")["changed"]
    assert (ground.directory / "web.qcow2").is_file()


# --- resources -----------------------------------------------------------------------------------------------------


def test_a_lock_on_the_mount_point_holds_nobody_up(ground: Ground) -> None:
    point = ground.directory
    while not os.path.ismount(point):
        point = point.parent
    with subprocess.Popen(["flock", "--no-fork", str(point), "sleep", "600"], user=TENANT, group=TENANT) as holder:
        try:
            path = ground.reserved / "made.qcow2"
            assert run_within(
                SECONDS, "qcow2_image", {"path": str(path), "size": "1M", "max_overcommit": 100, "uri": NOBODY}
            )["changed"]
        finally:
            holder.kill()


def test_an_image_that_would_cost_the_host_its_memory_is_checked_under_limits(ground: Ground) -> None:
    """A record of root's own lets qcow2_image check an image whose reference counts would fill hundreds of GiB."""
    path = ground.directory / "big.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-o", "cluster_size=512,refcount_bits=64", path, "1M")
    with path.open("r+b") as stream:
        stream.seek(40)
        table = int.from_bytes(stream.read(8), "big")
        end = (1 << 40) - (1 << 20)
        stream.truncate(end)
        for at, entry in ((table, end - 4096), (end - 4096, end - 8192)):
            stream.seek(at)
            stream.write((entry | 1 << 63).to_bytes(8, "big"))
    ground.own(path)
    (ground.directory / ".big.qcow2.kvmops").write_text(json.dumps({"verb": "resize"}), encoding="utf-8")
    message = image(path, size="1M")["msg"]
    assert "Cannot allocate memory" in message


# --- text ----------------------------------------------------------------------------------------------------------


def test_what_others_wrote_acts_on_no_terminal(ground: Ground) -> None:
    evil = "snap\033]0;PWNED\007\033[2J\n[WARNING]: owned\u202e\u009b31m"
    source = ground.image()
    subprocess.run(["qemu-img", "snapshot", "-c", evil, source], check=True)
    params = {
        "src": str(source),
        "src_format": "qcow2",
        "dest": str(ground.reserved / "o.raw"),
        "format": "raw",
        "uri": NOBODY,
    }
    for more in ({"snapshot": "nosuch"}, {"remove_src": True}):
        message = run_module("qcow2_convert", {**params, **more})["msg"]
        assert message.isprintable(), message
        assert "\\x1b]0;PWNED" in message
    weird = ground.directory / f"{evil.replace('/', '')}.qcow2"
    result = done(weird, size="1M")
    assert all(action.isprintable() for action in result["actions"])
    assert result["image"]["path"] == str(weird), "a path is data"
    assert info(weird)["virtual-size"] == MIB
    assert SECRET  # the reserved files are there for all tests
    shutil.rmtree(ground.directory)
