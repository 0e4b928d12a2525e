# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qcow2_image makes encrypted images, changes them, adds keys to them and removes keys; the secrets go nowhere else."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab.tree import tree_state
from support.encrypted import content, encryption, is_sound, looked_at, opens, write
from support.image_tools import (
    MIB,
    create,
    done,
    image_params,
    info,
    names,
    opened_by_a_process,
    predicted,
    qemu_img,
    refused,
    settled,
    specific,
)

FIRST, SECOND, OTHER = "correct horse, battery=staple", "zweiter Schlüssel", "wrong horse"
HUSH = "hush-hush-hush"


@pytest.fixture(scope="module")
def made() -> Iterator[Path]:
    """An image that FIRST and SECOND open, made once: QEMU takes seconds for that. Its guest has written some."""
    with tempfile.TemporaryDirectory(prefix="kvmops-encrypted-") as directory:
        path = Path(directory) / "vault"
        done(path, size="8M", encryption=encryption(FIRST, {"secret": SECOND, "slot": 5}))
        write(path, FIRST, "write -P 0x5a 1M 2M")
        yield path


@pytest.fixture
def vault(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copyfile(made, tmp_path / "vault"))


def absent(secret: str) -> dict[str, str]:
    return {"secret": secret, "state": "absent"}


def slots(path: Path) -> list[int]:
    return [number for number, slot in enumerate(specific(path)["encrypt"]["slots"]) if slot["active"]]


# --- creation ---------------------------------------------------------------------------------------------------


def test_how_long_a_key_takes_is_left_to_qemu_where_nobody_says_it(vault: Path, tmp_path: Path) -> None:
    path = tmp_path / "disk"
    done(path, size="1M", encryption={"secret": FIRST})
    quick, own = (specific(image)["encrypt"]["slots"][0]["iters"] for image in (vault, path))
    assert own > 10 * quick


def test_an_encrypted_image_is_made_and_its_secrets_are_seen_nowhere(tmp_path: Path) -> None:
    path, secret_file = tmp_path / "disk", tmp_path / "key"
    secret_file.write_text(SECOND, encoding="utf-8")
    secret_file.chmod(0o600)
    wanted = {
        "size": "8M",
        "encryption": encryption(FIRST, {"secret_file": str(secret_file)}, cipher_alg="aes-128", hash_alg="sha512"),
    }
    before = tree_state(tmp_path)
    prediction = done(path, check=True, **wanted)
    assert tree_state(tmp_path) == before
    result, seen = looked_at("qcow2_image", image_params(path, wanted))
    assert (result["changed"], result["actions"]) == (True, prediction["actions"]), result
    assert result["actions"] == [f"create encrypted qcow2 image {path} of 8 MiB"]
    assert any(b"qemu-img" in what for what in seen), "it was looked at"
    for secret in (FIRST, SECOND):
        assert opens(path, secret)
        assert not any(secret.encode() in what for what in seen)
        assert secret not in json.dumps({key: value for key, value in result.items() if key != "invocation"})
    assert not opens(path, OTHER)
    found = result["image"]["encryption"]
    assert (found["format"], found["cipher_alg"], found["hash_alg"], found["key_slots"]) == (
        *("luks", "aes-128", "sha512"),
        2,
    )
    write(path, SECOND, "write -P 0x5a 1M 1M")
    assert b"\x5a" * 512 not in path.read_bytes(), "what a guest writes is not there in the clear"
    again = tree_state(tmp_path)
    assert not done(path, **wanted)["changed"]
    assert tree_state(tmp_path) == again


def test_a_whole_disk_is_encrypted_as_luks(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    done(path, format="luks", size="4M", encryption=encryption(FIRST))
    write(path, FIRST, "write -P 7 1M 1M", "luks")
    before = content(path, FIRST, "luks")
    settled(path, format="luks", size="6M", encryption=encryption(FIRST))
    assert content(path, FIRST, "luks", 4 * MIB) == before
    settled(path, format="luks", encryption=encryption(SECOND, absent(FIRST)))
    assert (opens(path, FIRST, "luks"), opens(path, SECOND, "luks")) == (False, True)
    assert content(path, SECOND, "luks", 4 * MIB) == before
    done(path, format="luks", size="4M", shrink=True, encryption=encryption(SECOND))
    assert info(path, "luks")["virtual-size"] == 4 * MIB
    assert content(path, SECOND, "luks") == before


# --- an existing image ------------------------------------------------------------------------------------------


def test_an_encrypted_image_is_grown_shrunk_and_amended(vault: Path) -> None:
    before = content(vault, FIRST, length=4 * MIB)
    result = predicted(vault, size="20M", lazy_refcounts=True, refcount_bits=32, encryption=encryption(FIRST))
    assert [action.split()[0] for action in result["actions"]] == ["amend", "grow"]
    done(vault, size="4M", shrink=True, compat="1.1", refcount_bits=16, encryption=encryption(SECOND))
    assert info(vault)["virtual-size"] == 4 * MIB
    assert content(vault, FIRST) == before
    assert is_sound(vault, FIRST)


def test_a_wrong_secret_is_an_error_and_changes_nothing(vault: Path) -> None:
    before = tree_state(vault.parent)
    attempts: list[dict[str, Any]] = [
        {"encryption": encryption(OTHER)},
        {"size": "20M", "encryption": encryption(OTHER)},
        {"encryption": encryption(OTHER, absent("neither"))},
        {"encryption": encryption(FIRST + "\n")},
    ]
    for attempt in attempts:
        for check in (True, False):
            result = refused(vault, check=check, **attempt)
            assert "that the task gives: nothing was changed" in result["msg"]
    assert tree_state(vault.parent) == before


def test_keys_come_and_go_and_the_content_stays(vault: Path) -> None:
    before = content(vault, FIRST)
    assert slots(vault) == [0, 5]
    result = predicted(vault, encryption=encryption(FIRST, {"secret": OTHER, "slot": 3}))
    assert result["actions"] == [f"add a key to {vault} in slot 3"]
    assert (slots(vault), result["image"]["encryption"]["key_slots"]) == ([0, 3, 5], 3)
    taken = refused(vault, encryption=encryption(FIRST, {"secret": "one more", "slot": 5}))
    assert "slot 5 holds another key" in taken["msg"]
    result = predicted(vault, encryption=encryption(OTHER, absent(FIRST), absent(SECOND)))
    assert result["actions"] == [f"remove a key from {vault}"] * 2
    assert (slots(vault), opens(vault, FIRST), opens(vault, SECOND)) == ([3], False, False)
    last = refused(vault, encryption=encryption(OTHER, absent(OTHER)))
    assert "a key always remains" in last["msg"]
    assert content(vault, OTHER) == before


def test_a_secret_is_exchanged_for_another_in_one_task(vault: Path) -> None:
    before = content(vault, FIRST)
    exchanged = encryption(OTHER, absent(FIRST), {"secret": SECOND})
    result = predicted(vault, encryption=exchanged, size="10M")
    assert [action.split()[0] for action in result["actions"]] == ["add", "remove", "grow"]
    assert [opens(vault, secret) for secret in (FIRST, SECOND, OTHER)] == [False, True, True]
    assert content(vault, OTHER, length=8 * MIB) == before


def test_an_image_in_use_proves_its_secret_and_keeps_its_keys(vault: Path) -> None:
    before = tree_state(vault.parent)
    secret = vault.with_name("key")
    with tempfile.TemporaryDirectory() as directory:
        secret = Path(directory) / "key"
        secret.write_text(FIRST, encoding="utf-8")
        options = ["--object", f"secret,id=s,file={secret}", "--image-opts"]
        with opened_by_a_process(
            Path(f"driver=qcow2,file.filename={vault},encrypt.key-secret=s"), "qcow2", options=options
        ):
            assert not done(vault, encryption=encryption(FIRST))["changed"]
            assert "in use by" in refused(vault, encryption=encryption(FIRST, {"secret": OTHER}))["msg"]
            assert "in use by" in refused(vault, size="20M", encryption=encryption(FIRST))["msg"]
    assert tree_state(vault.parent)["vault"].content == before["vault"].content


# --- overlays ---------------------------------------------------------------------------------------------------


def test_an_overlay_of_an_encrypted_image_is_encrypted_rebased_and_flattened(vault: Path) -> None:
    other = Path(shutil.copyfile(vault, vault.with_name("other")))
    write(other, FIRST, "write -P 0x77 2M 3M")
    clone = vault.with_name("clone")
    over = {"backing_file": str(vault), "backing_format": "qcow2"}
    state = tree_state(vault.parent)
    assert "would hold its changes unencrypted" in refused(clone, **over)["msg"]
    assert f"{vault}: cannot be opened" in refused(clone, **over, encryption=encryption(OTHER))["msg"]
    assert tree_state(vault.parent) == state
    secrets = encryption(OTHER, backing_secret=SECOND)
    result = settled(clone, **over, encryption=secrets)
    assert (result["image"]["encrypted"], result["image"]["backing_file"]) == (True, str(vault))
    write(clone, OTHER, "write -P 0x33 0 512k", vault=FIRST)
    assert b"\x33" * 512 not in clone.read_bytes()
    before = content(clone, OTHER, vault=FIRST)

    onto = {"backing_file": str(other), "backing_format": "qcow2", "trusted": True}
    settled(clone, **onto, encryption=secrets)
    assert info(clone)["backing-filename"] == str(other), "and not how it was opened"
    assert content(clone, OTHER, other=FIRST) == before
    done(clone, **onto, size="10M", lazy_refcounts=True, encryption=secrets)
    predicted(clone, backing_file="", trusted=True, encryption=secrets)
    vault.unlink()
    other.unlink()
    assert content(clone, OTHER, length=8 * MIB) == before
    assert is_sound(clone, OTHER)
    assert slots(clone) == [0]


# --- another kind -----------------------------------------------------------------------------------------------


def test_what_only_a_rewrite_can_change_is_an_error_that_says_so(vault: Path) -> None:
    plain = create(vault.with_name("plain"))
    old = vault.with_name("old")
    secret = vault.with_name("key")
    secret.write_text(FIRST, encoding="utf-8")
    options = ["--object", f"secret,id=s,file={secret}", "-o", "encrypt.format=aes,encrypt.key-secret=s"]
    qemu_img("create", "-q", "-f", "qcow2", *options, old, "1M")
    before = tree_state(vault.parent)
    attempts: list[tuple[Path, dict[str, Any], str]] = [
        (plain, {"encryption": encryption(FIRST)}, "is not encrypted, asked for encryption: only a rewrite"),
        (vault, {}, "is encrypted, and the task gives no encryption"),
        (vault, {"size": "20M"}, "convert it into a new image"),
        (old, {"encryption": encryption(FIRST)}, "is encrypted with aes, which is broken"),
        (vault, {"encryption": encryption(FIRST, cipher_alg="aes-192")}, "cipher_alg is aes-256, asked for aes-192"),
    ]
    for path, params, reason in attempts:
        result = refused(path, **params)
        assert reason in result["msg"]
        assert result["differences"]
    assert tree_state(vault.parent) == before
    assert done(vault, state="absent")["changed"]


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"encryption": {}}, "one of the following is required: secret, secret_file"),
        ({"encryption": {"secret": HUSH, "secret_file": "/b"}}, "mutually exclusive"),
        ({"encryption": {"secret": ""}}, "the secret is empty"),
        ({"encryption": {"secret_file": "/nonexistent"}}, "secret_file: /nonexistent cannot be read"),
        ({"encryption": {"secret": HUSH, "keys": [{"state": "absent"}]}}, "one of the following is required"),
        ({"encryption": {"secret": HUSH, "iter_time": 0}}, "iter_time: 0 is not a time"),
        ({"encryption": {"secret": HUSH, "cipher_alg": "cast5-128"}}, "ask for cbc"),
        ({"encryption": {"secret": HUSH, "keys": [{"secret": OTHER, "slot": 8}]}}, "slot 8"),
        ({"encryption": {"secret": HUSH, "keys": [{"secret": OTHER, "slot": 0}]}}, "slot 0 holds another key"),
        ({"encryption": {"secret": HUSH}, "format": "raw"}, "raw images cannot be encrypted"),
        ({"format": "luks"}, "a luks image is always encrypted"),
        ({"format": "luks", "encryption": {"secret": HUSH}, "preallocation": "full"}, "not available for luks"),
    ],
    ids=str,
)
def test_bad_input_ends_before_anything_is_touched(params: dict[str, Any], reason: str, tmp_path: Path) -> None:
    assert reason in refused(tmp_path / "disk", size="1M", **params)["msg"]
    assert names(tmp_path) == []
