# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Encrypted images are checked, merged, compared, their snapshots and bitmaps changed; nobody sees the secrets."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab.tree import tree_state
from support.encrypted import content, encryption, is_sound, looked_at, write
from support.image_tools import MIB, create, done, image_params, info, names, qemu_img, qemu_io, specific
from support.snapshot_tools import predicted, refused, snapshots_of, succeeded

FIRST, SECOND, OTHER = "correct horse, battery=staple", "zweiter Schlüssel", "wrong horse"
CHECK, SNAPSHOT, BITMAP, COMMIT, COMPARE = (
    f"qcow2_{verb}" for verb in ("check", "snapshot", "bitmap", "commit", "compare")
)
ONE: dict[str, Any] = {"encryption": {"secret": FIRST}}
BOTH: dict[str, Any] = {"encryption": {"secret": SECOND, "backing_secret": FIRST}}


@pytest.fixture(scope="module")
def made() -> Iterator[Path]:
    """Made once, since QEMU takes its time: an image, an overlay of it under another secret, a whole disk."""
    with tempfile.TemporaryDirectory(prefix="kvmops-in-place-") as directory:
        base, top, disk = (Path(directory) / name for name in ("base", "top", "disk.luks"))
        done(base, size="4M", encryption=encryption(FIRST))
        write(base, FIRST, "write -P 0x5a 1M 1M")
        over = {"backing_file": str(base), "backing_format": "qcow2"}
        done(top, **over, encryption=encryption(SECOND, backing_secret=FIRST, cipher_alg="aes-128"))
        qemu_img("rebase", "-u", "-b", "base", "-F", "qcow2", *_opened(top, SECOND, Path(directory)))
        write(top, SECOND, "write -P 0x33 1536k 1M", base=FIRST)
        done(disk, format="luks", size="4M", encryption=encryption(FIRST))
        write(disk, FIRST, "write -P 0 0 4M", "luks")  # what nobody wrote decrypts to anything
        write(disk, FIRST, "write -P 0x5a 1M 1M", "luks")
        yield Path(directory)


def _opened(path: Path, secret: str, directory: Path) -> list[str]:
    (directory / "key").write_text(secret, encoding="utf-8")
    named = f"driver=qcow2,file.filename={path},backing=,encrypt.key-secret=s"
    return ["--object", f"secret,id=s,file={directory}/key", "--image-opts", named]


@pytest.fixture
def images(made: Path, tmp_path: Path) -> Path:
    for name in ("base", "top", "disk.luks"):
        shutil.copyfile(made / name, tmp_path / name)
    return tmp_path


def alone(images: Path) -> Path:
    """The image that has no overlay any more."""
    (images / "top").unlink()
    return images / "base"


def leaked(path: Path) -> Path:
    """PATH with a cluster that nothing refers to: after its end, and counted."""
    with path.open("r+b") as stream:
        stream.seek(48)
        table = int.from_bytes(stream.read(8), "big")
        stream.seek(table)
        block = int.from_bytes(stream.read(8), "big")
        number = -(-path.stat().st_size // 65536)
        stream.seek(block + 2 * number)
        stream.write(b"\0\1")
        stream.truncate((number + 1) * 65536)
    return path


# --- what each of them does -------------------------------------------------------------------------------------


def test_snapshots_of_an_encrypted_image_come_and_go_and_only_changes_need_its_secret(images: Path) -> None:
    path = alone(images)
    before = content(path, FIRST)
    assert (
        "qemu-img needs its secret to take or delete a snapshot: give encryption"
        in (refused(SNAPSHOT, path, snapshot="one")["msg"])
    )
    assert predicted(SNAPSHOT, path, snapshot="one", **ONE)["changed"]
    settled = tree_state(images)
    assert not succeeded(SNAPSHOT, path, snapshot="one")["changed"]
    assert not succeeded(SNAPSHOT, path, snapshot="one", state="reverted")["changed"]
    assert not succeeded(SNAPSHOT, path, snapshot="two", state="absent")["changed"]
    assert tree_state(images) == settled
    write(path, FIRST, "write -P 0x11 0 2M")
    assert content(path, FIRST) != before
    assert "its secret to revert it" in refused(SNAPSHOT, path, snapshot="one", state="reverted")["msg"]
    assert predicted(SNAPSHOT, path, snapshot="one", state="reverted", **ONE)["changed"]
    assert content(path, FIRST) == before
    assert predicted(SNAPSHOT, path, snapshot="one", state="absent", **ONE)["changed"]
    assert (snapshots_of(path), is_sound(path, FIRST), content(path, FIRST)) == ([], True, before)


def test_an_encrypted_image_is_checked_and_repaired(images: Path) -> None:
    path = alone(images)
    before = content(path, FIRST)
    assert "needs its secret to check it: give encryption" in refused(CHECK, path)["msg"]
    assert succeeded(CHECK, path, **ONE)["check"]["result"] == "good"
    leaked(path)
    found = succeeded(CHECK, path, **ONE)
    assert (found["changed"], found["check"]["result"], found["check"]["leaks"]) == (False, "leaks", 1)
    result = predicted(CHECK, path, repair="leaks", **ONE)
    assert (result["check"]["leaks_fixed"], result["content_unchanged"]) == (1, True)
    assert (is_sound(path, FIRST), content(path, FIRST)) == (True, before)


def test_the_bitmaps_of_an_encrypted_image_are_changed_and_merged_from_another(images: Path) -> None:
    base, top = images / "base", images / "top"
    merged: dict[str, Any] = {"state": "merged", "merge_from": ["b"], "merge_from_path": str(top)}
    assert "its secret to work on its bitmaps" in refused(BITMAP, base, bitmap="b")["msg"]
    assert predicted(BITMAP, base, bitmap="b", **ONE)["changed"]
    assert not succeeded(BITMAP, base, bitmap="b")["changed"], "it is read from the image"
    assert succeeded(BITMAP, top, bitmap="b", encryption={"secret": SECOND})["changed"]
    write(top, SECOND, "write -P 0x77 3M 64k", base=FIRST)
    said = refused(BITMAP, base, bitmap="b", **merged, **ONE)["msg"]
    assert f"{top}: is encrypted" in said
    assert "give merge_from_encryption with the secret" in said
    result = succeeded(BITMAP, base, bitmap="b", **merged, **ONE, merge_from_encryption={"secret": SECOND})
    assert [one["dirty_bytes"] for one in result["bitmaps"]] == [64 << 10]
    assert not succeeded(BITMAP, base, bitmap="b", **merged)["changed"]


@pytest.mark.parametrize("end", ["keep", "remove"])
def test_an_encrypted_overlay_is_merged_into_its_encrypted_base(images: Path, end: str) -> None:
    base, top = images / "base", images / "top"
    shown = content(top, SECOND, base=FIRST)
    assert "needs its secret to merge it: give encryption" in refused(COMMIT, top, overlay=end)["msg"]
    wanted = {"overlay": end, **BOTH}
    assert predicted(COMMIT, top, **wanted)["verified"]
    assert content(base, FIRST) == shown
    assert b"\x33" * 512 not in base.read_bytes()
    assert is_sound(base, FIRST)
    assert names(images) == ["base", "disk.luks", *(["top"] if end == "keep" else [])]


def test_an_encrypted_overlay_is_emptied_and_stays_encrypted_as_it_was(images: Path) -> None:
    base, top = images / "base", images / "top"
    shown, cipher = content(top, SECOND, base=FIRST), specific(top)["encrypt"]["cipher-alg"]
    assert succeeded(COMMIT, top, **BOTH)["verified"]
    assert content(top, SECOND, base=FIRST) == content(base, FIRST) == shown
    assert cipher == "aes-128"
    assert (specific(top)["encrypt"]["cipher-alg"], info(top)["backing-filename"]) == (cipher, "base")


def test_nothing_encrypted_is_merged_into_the_clear_and_no_deeper_base_is_found(images: Path, tmp_path: Path) -> None:
    plain = create(tmp_path / "plain", "qcow2", 4 * MIB)
    qemu_img("rebase", "-u", "-b", "plain", "-F", "qcow2", *_opened(images / "top", SECOND, tmp_path))
    said = refused(COMMIT, images / "top", overlay="keep", **BOTH)["msg"]
    assert f"its base {plain} would hold its content unencrypted" in said
    clear = tmp_path / "clear"
    qemu_img("create", "-q", "-u", "-f", "qcow2", "-b", "base", "-F", "qcow2", clear, "4M")
    qemu_img("create", "-q", "-u", "-f", "qcow2", "-b", "clear", "-F", "qcow2", tmp_path / "above", "4M")
    write(tmp_path / "above", "", "write -P 1 0 64k", clear="", base=FIRST)
    said = refused(COMMIT, tmp_path / "above", base=str(images / "base"), overlay="keep", **ONE)["msg"]
    assert f"merge into the backing file, {clear}, first" in said


def test_encrypted_images_are_compared_with_each_other_and_with_what_is_in_the_clear(images: Path) -> None:
    base, top, disk = (images / name for name in ("base", "top", "disk.luks"))
    plain = create(images / "plain", "raw", 4 * MIB)
    qemu_io(plain, "write -P 0x5a 1M 1M", "raw")
    before = tree_state(images)
    assert f"{base}: is encrypted" in refused(COMPARE, base, other=str(plain), other_format="raw")["msg"]
    assert (
        "give other_encryption" in refused(COMPARE, plain, format="raw", other=str(base), other_format="qcow2")["msg"]
    )
    assert succeeded(COMPARE, base, other=str(plain), other_format="raw", **ONE)["equal"]
    assert succeeded(COMPARE, base, other=str(disk), other_format="luks", **ONE)["equal"], "the same secret is tried"
    second = {"other_encryption": BOTH["encryption"], "trusted": True}
    assert not succeeded(COMPARE, base, other=str(top), **ONE, **second)["equal"]
    write(base, FIRST, "write -P 0x33 1536k 1M")
    assert succeeded(COMPARE, top, other=str(base), other_encryption=ONE["encryption"], trusted=True, **BOTH)["equal"]
    assert tree_state(images).keys() == before.keys()


# --- secrets ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "name", "wanted"),
    [
        (CHECK, "base", {}),
        (SNAPSHOT, "base", {"snapshot": "one"}),
        (SNAPSHOT, "base", {"snapshot": "none", "state": "absent"}),
        (BITMAP, "base", {"bitmap": "b"}),
        (COMMIT, "top", {"overlay": "keep"}),
        (COMPARE, "top", {"other": "base", "trusted": True}),
    ],
)
def test_a_wrong_secret_is_an_error_and_changes_nothing(
    images: Path, module: str, name: str, wanted: dict[str, Any]
) -> None:
    if "other" in wanted:
        wanted = {**wanted, "other": str(images / wanted["other"])}
    below = {"backing_secret": FIRST} if name == "top" else {}
    for secret in (OTHER, FIRST + "\n"):
        said = refused(module, images / name, **wanted, encryption={"secret": secret, **below})["msg"]
        assert f"{images / name}: cannot be opened with the secret that the task gives: nothing was changed" in said
    old = images / "old"
    (images / "key").write_text(FIRST, encoding="utf-8")
    options = ["--object", f"secret,id=s,file={images / 'key'}", "-o", "encrypt.format=aes,encrypt.key-secret=s"]
    over = ["-u", "-b", "base", "-F", "qcow2"] if name == "top" else []
    qemu_img("create", "-q", "-f", "qcow2", *options, *over, old, "4M")
    said = refused(module, old, **wanted, encryption={"secret": FIRST, **below})["msg"]
    assert "is encrypted with aes, where a wrong secret silently gives garbage" in said


def test_the_secrets_are_seen_nowhere(images: Path) -> None:
    key = images / "key"
    key.write_text(FIRST, encoding="utf-8")
    opening = {"encryption": {"secret": SECOND, "backing_secret_file": str(key)}}
    runs: list[tuple[str, Path, dict[str, Any]]] = [
        (CHECK, images / "base", {"encryption": {"secret_file": str(key)}}),
        (SNAPSHOT, images / "base", {"snapshot": "one", "allow_dependents": True, **ONE}),
        (SNAPSHOT, images / "base", {"snapshot": "one", "state": "absent", "allow_dependents": True, **ONE}),
        (BITMAP, images / "base", {"bitmap": "b", **ONE}),
        (COMMIT, images / "top", {"overlay": "keep", **opening}),
        (
            COMPARE,
            images / "top",
            {"other": str(images / "base"), "trusted": True, **opening, "other_encryption": ONE["encryption"]},
        ),
    ]
    for module, path, params in runs:
        result, seen = looked_at(module, image_params(path, params))
        assert not result.get("failed"), result
        assert any(b"qemu-img" in what for what in seen), "it was looked at"
        for known in (FIRST, SECOND):
            assert not any(known.encode() in what for what in seen), module
            assert known not in json.dumps({name: value for name, value in result.items() if name != "invocation"})
    assert names(images) == ["base", "disk.luks", "key", "top"]
