# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Work on encrypted images that is killed, meets a full disk, or is done twice at once: the next run ends it."""

from __future__ import annotations

import json
import os
import shutil
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._formats import qcow2 as _qcow2
from lab.module import run_module
from lab.tree import tree_state
from support.encrypted import QUICK, content, encryption, is_sound, opens, write
from support.image_tools import MIB, NOBODY, create, done, image_params, info, names, small_file_system
from support.injection import at_once, killed_at
from support.snapshot_tools import snapshots_of
from support.write_log import replay, writes_of

CONVERT, COMMIT = "qcow2_convert", "qcow2_commit"
OLD, NEW = "the old one", "the new one"
Params = dict[str, Any]


@pytest.fixture(scope="module")
def made() -> Iterator[Path]:
    """Made once, since QEMU takes its time: an image, and an overlay of it under another secret."""
    with tempfile.TemporaryDirectory(prefix="kvmops-encrypted-") as directory:
        base, top = Path(directory) / "base", Path(directory) / "top"
        done(base, size="4M", cluster_size="4K", encryption=encryption(OLD))
        write(base, OLD, "write -P 0x5a 1M 1M")
        done(top, backing_file=str(base), backing_format="qcow2", encryption=encryption(NEW, backing_secret=OLD))
        write(top, NEW, "write -P 0x33 2M 64k", base=OLD)
        yield Path(directory)


def converting(src: Path, dest: Path, **more: Any) -> Params:
    """What a task asks for that copies SRC under another secret."""
    ways = {"src": str(src), "src_format": "qcow2", "dest": str(dest), "update": "changed", "uri": NOBODY}
    return {**ways, "src_encryption": {"secret": OLD}, "encryption": {"secret": NEW, "iter_time": QUICK}, **more}


def test_a_killed_conversion_leaves_a_whole_image_under_its_secret_and_the_next_run_converges(
    made: Path, tmp_path: Path
) -> None:
    src, dest = made / "base", tmp_path / "dest"
    wanted, wish = content(src, OLD), converting(made / "base", dest)
    killed_at("qemu-img-convert 1", wish, children=True, module=CONVERT)
    assert names(tmp_path) == [".dest.kvmops", ".dest.kvmops.d"], "nothing under its name"
    assert run_module(CONVERT, wish)["actions"][0].startswith("remove the unfinished file")
    assert (names(tmp_path), content(dest, NEW)) == (["dest"], wanted)
    write(dest, NEW, "write -P 9 0 64k")
    other = content(dest, NEW)
    killed_at("rename 1", wish, module=CONVERT)
    assert content(dest, NEW) == other
    before = tree_state(tmp_path)
    assert run_module(CONVERT, wish, check=True)["changed"]
    assert tree_state(tmp_path) == before
    results = at_once(CONVERT, *[wish] * 3)
    assert [result for result in results if result.get("failed")] == []
    assert sorted(result["changed"] for result in results) == [False, False, True]
    assert (names(tmp_path), content(dest, NEW), opens(dest, OLD)) == (["dest"], wanted, False)


def test_a_disk_too_small_for_an_encrypted_image_is_foreseen_with_the_figures(made: Path, tmp_path: Path) -> None:
    plain = create(tmp_path / "plain", "qcow2", 4 * MIB)
    with small_file_system(tmp_path / "small", "4M") as small:
        for ways in (
            {"format": "luks"},
            {"preallocation": "metadata"},
            {"src": str(made / "base"), "format": "luks"},
        ):
            result = run_module(CONVERT, {**converting(plain, small / "new"), **ways})
            assert result["required_bytes"] > 4 * MIB >= result["available_bytes"], result
        with (small / "filler").open("wb") as stream:
            os.posix_fallocate(stream.fileno(), 0, 3 * MIB)
        dest = create(small / "dest", "qcow2", 4 * MIB)
        before = {**tree_state(small), ".": None}
        assert "not enough space" in run_module(CONVERT, converting(plain, dest))["msg"]
        assert {**tree_state(small), ".": None} == before


def test_a_killed_merge_of_encrypted_images_is_finished_by_the_next_run(made: Path, tmp_path: Path) -> None:
    base, top = (Path(shutil.copyfile(made / name, tmp_path / name)) for name in ("base", "top"))
    secrets = {"encryption": {"secret": NEW, "backing_secret": OLD}}
    done(top, backing_file=str(base), backing_format="qcow2", rebase="unsafe", **secrets)
    shown = content(top, NEW, base=OLD)
    wish = {**image_params(top, secrets), "overlay": "remove"}
    killed_at("qemu-img-commit 1", wish, children=True, module=COMMIT)
    assert content(top, NEW, base=OLD) == shown
    assert "merge it again" in run_module("qcow2_snapshot", image_params(base, {"snapshot": "x", **ONE}))["msg"]
    results = at_once(COMMIT, *[wish] * 2)
    assert [result for result in results if result.get("failed")] == []
    assert sorted(result["changed"] for result in results) == [False, True]
    assert (names(tmp_path), content(base, OLD), is_sound(base, OLD)) == (["base"], shown, True)


ONE: Params = {"encryption": {"secret": OLD}}
SAME: Params = {"encryption": encryption(OLD)}
ADDED: Params = {"encryption": encryption(OLD, {"secret": NEW})}
REMOVED: Params = {"encryption": encryption(OLD, {"secret": NEW, "state": "absent"})}


@pytest.mark.parametrize(
    ("module", "verb", "wish", "size"),
    [
        ("qcow2_image", "amend -o encrypt.state=active,encrypt.new-secret=new,encrypt.iter-time=10", ADDED, None),
        ("qcow2_image", "amend -o encrypt.state=inactive,encrypt.old-secret=new", REMOVED, None),
        ("qcow2_image", "resize", {**SAME, "size": "600M"}, "600M"),
        ("qcow2_snapshot", "snapshot -c taken", {"snapshot": "taken", **ONE}, None),
        (
            "qcow2_snapshot",
            "snapshot -d old",
            {"snapshot": "old", "state": "absent", **ONE},
            None,
        ),
    ],
    ids=["add a key", "remove a key", "grow", "take a snapshot", "delete a snapshot"],
)
def test_a_death_in_the_middle_of_a_change_is_made_good_by_the_next_run(
    made: Path, tmp_path: Path, module: str, verb: str, wish: Params, size: str | None
) -> None:
    """After a few of qemu-img's writes, with the record that its module left."""
    path, keys = Path(shutil.copyfile(made / "base", tmp_path / "disk")), [tmp_path / "key", tmp_path / "new"]
    for key, secret in zip(keys, (OLD, NEW)):
        key.write_text(secret, encoding="utf-8")
    if wish is REMOVED:
        done(path, **ADDED)
    if "-d" in verb:
        taken = run_module("qcow2_snapshot", image_params(path, {"snapshot": "old", **ONE}))
        assert taken["changed"]
        write(path, OLD, "write -P 0x77 1M 64k")
    shown = content(path, OLD, length=4 * MIB)
    before = Path(shutil.copyfile(path, tmp_path / "before"))
    name, *options = verb.split()
    also = ["--object", f"secret,id=new,file={keys[1]}"] if name == "amend" else []
    writes = writes_of(path, name, *also, *options, key=keys[0], size=size)
    reverb = {"-c": "snapshot-create", "-d": "snapshot-delete"}.get(options[0] if options else "", "reconcile")
    for count in sorted({len(writes) // 2, len(writes) - 1}):
        replay(before, writes[:count], path)
        note = {"verb": reverb, "started": "2024-01-01T00:00:00+00:00"}
        (tmp_path / ".disk.kvmops").write_text(json.dumps(note), encoding="utf-8")
        assert opens(path, OLD), count
        result = run_module(module, image_params(path, wish))
        assert not result.get("failed"), (count, result)
        again = run_module(module, image_params(path, wish))
        assert (again.get("failed"), again["changed"]) == (None, False), (count, again)
        assert content(path, OLD, length=4 * MIB) == shown, count
        assert is_sound(path, OLD, but_leaks=True), count
        if module == "qcow2_image":
            assert opens(path, NEW) == (wish is ADDED), count
            assert info(path)["virtual-size"] == (600 * MIB if size else 4 * MIB)
        else:
            assert snapshots_of(path) == (["taken"] if "-c" in verb else []), count
    assert names(tmp_path) == ["before", "disk", "key", "new"]


def test_content_in_the_place_of_the_keys_is_not_repaired(made: Path, tmp_path: Path) -> None:
    """An entry of the L2 table points into the header of LUKS: a repair could write over what opens the image."""
    path = Path(shutil.copyfile(made / "base", tmp_path / "disk"))
    with path.open("r+b") as stream:
        header = _qcow2.read_header(stream, str(path))
        (table,) = struct.unpack(">Q", _qcow2.read_at(stream, header.l1_offset, 8))
        stream.seek(table & 0x00FFFFFFFFFFFE00)
        stream.write(struct.pack(">Q", header.encryption_header[0] + header.cluster_size))
    note = {"verb": "snapshot-create", "started": "2024-01-01T00:00:00+00:00"}
    (tmp_path / ".disk.kvmops").write_text(json.dumps(note), encoding="utf-8")
    before = tree_state(tmp_path)["disk"]
    result = run_module("qcow2_snapshot", image_params(path, {"snapshot": "new", **ONE}))
    assert "more is wrong with its metadata than that explains" in result["msg"]
    assert tree_state(tmp_path)["disk"] == before
