# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qcow2_convert encrypts, and stores in the clear when asked, and not otherwise; the secrets go nowhere else."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab.module import run_module
from lab.tree import tree_state
from support.encrypted import QUICK, encryption, looked_at, opens, write
from support.encrypted import content as decrypted
from support.image_tools import (
    MIB,
    NOBODY,
    content,
    create,
    done,
    info,
    names,
    qemu_img,
    qemu_io,
    specific,
)

Result = dict[str, Any]
FIRST, SECOND, OTHER = "correct horse, battery=staple", "zweiter Schlüssel", "wrong horse"


@pytest.fixture(scope="module")
def made() -> Iterator[Path]:
    """Encrypted images, made once: a golden image, an overlay of it under another secret, a whole disk."""
    with tempfile.TemporaryDirectory(prefix="kvmops-decrypt-") as directory:
        golden, clone, disk = (Path(directory) / name for name in ("golden", "a clone, of it", "disk.luks"))
        done(golden, size="8M", encryption=encryption(FIRST))
        write(golden, FIRST, "write -P 0x5a 1M 2M")
        over = {"backing_file": str(golden), "backing_format": "qcow2"}
        done(clone, **over, encryption=encryption(SECOND, backing_secret=FIRST))
        write(clone, SECOND, "write -P 0x33 0 512k", golden=FIRST)
        tracked = {"path": str(clone), "bitmap": "backup", "uri": NOBODY, "encryption": {"secret": SECOND}}
        assert run_module("qcow2_bitmap", tracked)["changed"]
        done(disk, format="luks", size="4M", encryption=encryption(FIRST))
        write(disk, FIRST, "write -P 7 1M 1M", "luks")
        yield Path(directory)


def params(src: Path, dest: Path, **more: Any) -> Result:
    return {"src": str(src), "src_format": "qcow2", "dest": str(dest), "uri": NOBODY, **more}


def convert(src: Path, dest: Path, *, check: bool = False, **more: Any) -> Result:
    """One run of qcow2_convert that may decrypt, which must succeed."""
    result = run_module("qcow2_convert", {"decrypt": True, **params(src, dest, **more)}, check=check)
    assert not result.get("failed"), result["msg"]
    return result


def refused(src: Path, dest: Path, **more: Any) -> str:
    """The words in which a run is refused, in check mode, too; nothing is changed by it."""
    before = [tree_state(path.parent) for path in (src, dest)]
    for check in (True, False):
        result = run_module("qcow2_convert", params(src, dest, **more), check=check)
        assert result.get("failed"), result
        assert "Traceback" not in result["msg"] + str(result.get("exception", "")), result
        assert [tree_state(path.parent) for path in (src, dest)] == before
    return str(result["msg"])


def secret(first: str, below: str | None = None) -> Result:
    return {"secret": first, **({"backing_secret": below} if below else {})}


def test_it_is_stored_in_the_clear_when_asked_and_the_secrets_are_seen_nowhere(made: Path, tmp_path: Path) -> None:
    src, dest, key = made / "a clone, of it", tmp_path / "plain: it's, clear", tmp_path / "key"
    key.write_text(FIRST, encoding="utf-8")
    opening = {"secret": SECOND, "backing_secret_file": str(key)}
    wanted: Result = {"src_encryption": opening, "trusted": True, "update": "changed"}
    before, source = tree_state(tmp_path), tree_state(made)
    predicted = convert(src, dest, check=True, **wanted)
    assert tree_state(tmp_path) == before
    result, seen = looked_at("qcow2_convert", params(src, dest, decrypt=True, **wanted))
    assert (result["changed"], result["verified"]) == (True, True), result
    assert result["actions"] == predicted["actions"] == [f"convert {src} (encrypted qcow2) to {dest} (qcow2)"]
    assert result["diff"] == predicted["diff"]
    assert any(b"qemu-img" in what for what in seen), "it was looked at"
    for known in (FIRST, SECOND):
        assert not any(known.encode() in what for what in seen)
        assert known not in json.dumps({name: value for name, value in result.items() if name != "invocation"})
    assert (result["image"]["encrypted"], "encrypted" in info(dest)) == (False, False)
    assert content(dest) == decrypted(src, SECOND, golden=FIRST)

    settled = tree_state(tmp_path)
    again = convert(src, dest, **wanted)
    assert (again["changed"], again["verified"], again["actions"]) == (False, True, [])
    qemu_io(dest, "write -P 9 4M 64k")
    assert convert(src, dest, **wanted)["actions"][0].endswith("in place of the one that has other content")
    assert content(dest) == decrypted(src, SECOND, golden=FIRST)
    assert tree_state(tmp_path).keys() == settled.keys()
    assert tree_state(made) == source


def test_without_being_asked_it_is_refused_with_what_to_set(made: Path, tmp_path: Path) -> None:
    src, dest = made / "golden", tmp_path / "plain"
    assert "set src_encryption with its secret and decrypt=true if that is meant" in refused(src, dest)
    assert "unencrypted: set decrypt=true if" in refused(src, dest, src_encryption=secret(FIRST))
    assert "set src_encryption with its secret if" in refused(src, dest, decrypt=True)
    clear = tmp_path / "clear"
    qemu_img("create", "-q", "-u", "-f", "qcow2", "-b", src, "-F", "qcow2", "--", clear, "8M")
    assert f"{src}: is encrypted" in refused(clear, dest, trusted=True), "an overlay in the clear does not hide it"
    convert(clear, dest, trusted=True, src_encryption=secret(FIRST))
    assert content(dest) == decrypted(src, FIRST)
    assert names(tmp_path) == ["clear", "plain"]


def test_a_wrong_secret_is_an_error_and_nothing_is_written(made: Path, tmp_path: Path) -> None:
    src, dest = made / "a clone, of it", tmp_path / "plain"
    for opening, wrong in (
        (secret(OTHER), src),
        (secret(FIRST, SECOND), src),
        (secret(SECOND + "\n", FIRST), src),
        (secret(SECOND), made / "golden"),
    ):
        said = refused(src, dest, decrypt=True, trusted=True, src_encryption=opening)
        assert f"{wrong}: cannot be opened with the secret that the task gives: nothing was changed" in said
    create(dest, "qcow2", "8M")
    assert "cannot be opened" in refused(
        src, dest, decrypt=True, trusted=True, update="changed", src_encryption=secret(OTHER)
    )
    for opening, reason in (
        ({}, "one of the following is required"),
        ({"secret": "", "backing_secret": FIRST}, "src_encryption: secret: the secret is empty"),
        ({"secret_file": "/nonexistent"}, "src_encryption: secret_file: /nonexistent cannot be read"),
    ):
        assert reason in refused(src, dest, decrypt=True, src_encryption=opening)
    old, key = made / "old", tmp_path / "key"
    key.write_text(FIRST, encoding="utf-8")
    options = ["--object", f"secret,id=s,file={key}", "-o", "encrypt.format=aes,encrypt.key-secret=s"]
    qemu_img("create", "-q", "-f", "qcow2", *options, old, "1M")
    said = refused(old, tmp_path / "new", decrypt=True, src_encryption=secret(FIRST))
    assert "is encrypted with aes, where a wrong secret silently gives garbage" in said


def test_a_whole_encrypted_disk_is_decrypted_and_removed(made: Path, tmp_path: Path) -> None:
    src, dest = Path(shutil.copyfile(made / "disk.luks", tmp_path / "disk.luks")), tmp_path / "plain.raw"
    before = decrypted(src, FIRST, "luks")
    assert "begins like luks" in refused(src, dest, src_format="raw")
    wanted: Result = {"src_format": "luks", "format": "raw", "remove_src": True, "src_encryption": secret(FIRST)}
    result = convert(src, dest, **wanted)
    assert (result["changed"], result["verified"], names(tmp_path)) == (True, True, ["plain.raw"])
    assert dest.stat().st_size == 4 * MIB
    assert content(dest, "raw") == before
    assert not convert(src, dest, **wanted)["changed"], "the source is gone, and the content is there"


def test_a_snapshot_is_decrypted_and_compared(made: Path, tmp_path: Path) -> None:
    src, dest = Path(shutil.copyfile(made / "golden", tmp_path / "vault")), tmp_path / "then"
    key = tmp_path / "key"
    key.write_text(FIRST, encoding="utf-8")
    before = decrypted(src, FIRST)
    options = ["--object", f"secret,id=s,file={key}", "--image-opts"]
    named = f"driver=qcow2,file.filename={src},encrypt.key-secret=s"
    qemu_img("snapshot", *options, "-c", "then", named)
    write(src, FIRST, "write -P 0x11 3M 1M")
    wanted: Result = {"snapshot": "then", "update": "changed", "src_encryption": secret(FIRST)}
    assert convert(src, dest, **wanted)["verified"]
    assert content(dest) == before != decrypted(src, FIRST)
    again = convert(src, dest, **wanted)
    assert (again["changed"], again["verified"]) == (False, True)


@pytest.mark.parametrize("compress", [False, True])
def test_it_is_decrypted_onto_a_shared_backing_file(made: Path, tmp_path: Path, compress: bool) -> None:
    base, src = create(tmp_path / "base", "qcow2", "8M"), made / "golden"
    qemu_io(base, "write -P 0x5a 1M 1M")
    over: Result = {"backing_file": str(base), "backing_format": "qcow2", "compress": compress}
    wanted: Result = {**over, "update": "changed", "src_encryption": secret(FIRST)}
    result = convert(src, tmp_path / "new", **wanted)
    assert (result["verified"], result["image"]["backing_file"]) == (True, str(base))
    assert content(tmp_path / "new") == decrypted(src, FIRST)
    held = [row for row in json.loads(qemu_img("map", "--output=json", tmp_path / "new")) if row["depth"] == 0]
    assert not any(MIB <= row["start"] < 2 * MIB and row["data"] for row in held), "what the base has is not copied"
    assert not convert(src, tmp_path / "new", **wanted)["changed"]


def test_what_it_shares_with_an_encrypted_backing_file_is_not_stored_in_the_clear_above_it(
    made: Path, tmp_path: Path
) -> None:
    over: Result = {"backing_file": str(made / "golden"), "backing_format": "qcow2"}
    opening = secret(SECOND, FIRST)
    said = refused(made / "a clone, of it", tmp_path / "new", decrypt=True, src_encryption=opening, **over)
    assert "an overlay on it would hold its changes unencrypted" in said


# --- encrypted destinations -------------------------------------------------------------------------------------


@pytest.mark.parametrize("image_format", ["qcow2", "luks"])
def test_a_disk_is_encrypted_compared_and_kept_up_to_date(tmp_path: Path, image_format: str) -> None:
    src, dest, key = create(tmp_path / "plain", "qcow2", "4M"), tmp_path / "new: it's, secret", tmp_path / "key"
    qemu_io(src, "write -P 0x5a 1M 1M")
    key.write_text(SECOND, encoding="utf-8")
    before = content(src)
    wanted: Result = {
        "format": image_format,
        "update": "changed",
        "encryption": {"secret_file": str(key), "iter_time": QUICK, "cipher_alg": "aes-128"},
    }
    state = tree_state(tmp_path)
    predicted = convert(src, dest, check=True, decrypt=False, **wanted)
    assert tree_state(tmp_path) == state
    result, seen = looked_at("qcow2_convert", params(src, dest, **wanted))
    assert (result["changed"], result["verified"]) == (True, True), result
    assert result["actions"] == predicted["actions"] == [f"convert {src} (qcow2) to {dest} (encrypted {image_format})"]
    assert result["diff"] == predicted["diff"]
    assert (predicted["image"]["encrypted"], result["image"]["encryption"]["cipher_alg"]) == (True, "aes-128")
    assert not any(SECOND.encode() in what for what in seen)
    assert SECOND not in json.dumps(result)
    assert decrypted(dest, SECOND, image_format) == before
    assert b"\x5a" * 512 not in dest.read_bytes()

    settled = tree_state(tmp_path)
    for update, verified in (("changed", True), ("missing", False)):
        again = convert(src, dest, **{**wanted, "update": update})
        assert (again["changed"], again["verified"], again["actions"]) == (False, verified, [])
    assert tree_state(tmp_path) == settled
    for update in ("changed", "missing"):
        said = refused(src, dest, **{**wanted, "update": update, "encryption": {"secret": OTHER}})
        assert f"{dest}: cannot be opened with the secret" in said
    write(dest, SECOND, "write -P 9 2M 64k", image_format)
    replacing = convert(src, dest, **wanted, check=image_format == "luks")
    assert replacing["actions"][0].endswith("in place of the one that has other content")
    assert (decrypted(dest, SECOND, image_format) == before) == (image_format == "qcow2")
    assert tree_state(tmp_path).keys() == settled.keys()


def test_an_encrypted_image_is_copied_under_another_secret(made: Path, tmp_path: Path) -> None:
    src, dest = made / "a clone, of it", tmp_path / "copy"
    before = decrypted(src, SECOND, golden=FIRST)
    wanted: Result = {
        "trusted": True,
        "decrypt": False,
        "src_encryption": secret(SECOND, FIRST),
        "encryption": {"secret": OTHER, "iter_time": QUICK},
    }
    assert "is encrypted: set src_encryption" in refused(src, dest, encryption=wanted["encryption"], trusted=True)
    assert convert(src, dest, **wanted, keep_bitmaps=True)["verified"]
    assert decrypted(dest, OTHER) == before
    assert [one["name"] for one in specific(dest)["bitmaps"]] == ["backup"]
    assert (opens(dest, SECOND), opens(dest, FIRST)) == (False, False)
    again = convert(src, dest, **wanted, update="changed")
    assert (again["changed"], again["verified"]) == (False, True)
    always = {**wanted, "update": "always", "encryption": {"secret": "yet another"}}
    assert convert(src, dest, check=True, **always)["changed"], "it is not looked into"
    said = refused(src, dest, trusted=True, decrypt=True, update="changed", src_encryption=secret(SECOND, FIRST))
    assert "is encrypted, and the new image would not be: not replaced" in said


def test_an_image_in_the_clear_does_not_pass_for_an_encrypted_one(made: Path, tmp_path: Path) -> None:
    src, dest = create(tmp_path / "plain", "qcow2", "8M"), create(tmp_path / "dest", "qcow2", "8M")
    wanted: Result = {"encryption": {"secret": FIRST}}
    assert "is not encrypted, asked for encryption, and for update=missing" in refused(src, dest, **wanted)
    prediction = convert(src, dest, update="changed", check=True, **wanted)
    assert prediction["actions"][0].endswith("in place of the one that is not encrypted")
    dest = Path(shutil.copyfile(made / "golden", tmp_path / "golden"))
    different = {"encryption": {**wanted["encryption"], "cipher_alg": "serpent-256"}}
    prediction = convert(src, dest, update="changed", check=True, **different)
    assert prediction["actions"][0].endswith("in place of the one that is encrypted with another cipher_alg")


def test_a_snapshot_with_another_size_is_encrypted_too(tmp_path: Path) -> None:
    src, dest = create(tmp_path / "src", "qcow2", "2M"), tmp_path / "dest"
    qemu_io(src, "write -P 0x5a 1M 1M")
    before = content(src)
    qemu_img("snapshot", "-c", "then", src)
    qemu_img("resize", "-q", "-f", "qcow2", src, "3M")
    qemu_io(src, "write -P 0x11 0 3M")
    wanted: Result = {"encryption": {"secret": FIRST, "iter_time": QUICK}}
    assert convert(src, dest, snapshot="then", preallocation="metadata", **wanted)["verified"]
    assert decrypted(dest, FIRST) == before


@pytest.mark.parametrize("encrypted_base", [False, True])
def test_it_is_encrypted_onto_a_shared_backing_file(made: Path, tmp_path: Path, encrypted_base: bool) -> None:
    base, src, dest = made / "golden", made / "a clone, of it", tmp_path / "new"
    below: Result = {"golden": FIRST}
    if not encrypted_base:
        base, below = create(tmp_path / "base", "qcow2", "8M"), {"base": ""}
        qemu_io(base, "write -P 0x5a 1M 1M")
    wanted: Result = {
        "backing_file": str(base),
        "backing_format": "qcow2",
        "update": "changed",
        "decrypt": False,
        "src_encryption": secret(SECOND, FIRST),
        "trusted": True,
        "encryption": {**secret(OTHER, FIRST if encrypted_base else None), "iter_time": QUICK},
    }
    result = convert(src, dest, **wanted)
    assert (result["verified"], result["image"]["backing_file"]) == (True, str(base))
    below = {str(base): next(iter(below.values()))}
    assert decrypted(dest, OTHER, **below) == decrypted(src, SECOND, golden=FIRST)
    assert dest.stat().st_blocks * 512 < 5 * MIB, "what the base has is not copied"
    assert b"\x33" * 512 not in dest.read_bytes()
    assert not convert(src, dest, **wanted)["changed"]


def test_what_qemu_cannot_encrypt_is_refused_with_the_reason(tmp_path: Path) -> None:
    src, dest = create(tmp_path / "plain", "qcow2", "1M"), tmp_path / "new"
    key: Result = {"encryption": {"secret": FIRST}}
    for wanted, reason in (
        ({**key, "format": "raw"}, "raw images cannot be encrypted: use qcow2 or luks"),
        ({**key, "format": "vmdk"}, "vmdk images cannot be encrypted"),
        ({"format": "luks"}, "a luks image is always encrypted"),
        ({**key, "compress": True}, "QEMU cannot encrypt what it compresses"),
        ({**key, "format": "luks", "preallocation": "full"}, "not available for luks"),
        ({"encryption": {"secret": FIRST, "cipher_alg": "cast5-128"}}, "ask for cbc"),
        ({"encryption": {"secret": ""}}, "the secret is empty"),
    ):
        assert reason in refused(src, dest, **wanted)
    assert names(tmp_path) == ["plain"]
