# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The decision how an image is encrypted, and which keys are added to it and removed from it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import replace
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, InvalidRequest
from ansible_collections.kvmops.disk.plugins.module_utils._image.choices import FORMATS
from ansible_collections.kvmops.disk.plugins.module_utils._image.encryption import (
    EncryptionWish,
    Key,
    KeyChanges,
    Openers,
    key_changes,
    keys_to_add,
    require_provable,
    require_same_kind,
    require_secret,
)
from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Encryption, Image
from ansible_collections.kvmops.disk.plugins.module_utils._image.key_slots import secret_from
from ansible_collections.kvmops.disk.plugins.module_utils._image.layout import Layout
from ansible_collections.kvmops.disk.plugins.module_utils._provision.wish import ImageWish
from ansible_collections.kvmops.disk.plugins.module_utils._qemu.runner import subject
from ansible_collections.kvmops.disk.plugins.module_utils._qemu.secrets import Layer, Secret, node
from unit.samples import qcow2

ONE, TWO, THREE = Secret(b"one"), Secret(b"two"), Secret(b"three")
LUKS = Encryption("luks", "aes-256", "xts", "plain64", None, "sha256", (0,))


def wish(*keys: Key, secret: Secret = ONE, **choices: Any) -> EncryptionWish:
    return EncryptionWish(secret, choices.pop("below", secret), keys=keys, **choices)


def image(*slots: int) -> Image:
    return qcow2(encrypted=True, encryption=replace(LUKS, taken_slots=slots or (0,)))


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        (wish(iter_time=0), "iter_time: 0 is not a time from 1"),
        (wish(iter_time=600_001), "iter_time: 600001 is not a time"),
        (wish(cipher_alg="cast5-128"), "cast5-128 works on blocks of 8 bytes"),
        (wish(cipher_alg="cast5-128", cipher_mode="xts"), "ask for cbc"),
        (wish(cipher_alg="cast5-128", cipher_mode="cbc", ivgen_alg="essiv"), "cast5-128 takes 16"),
        (wish(ivgen_hash_alg="sha256"), "only means something with ivgen_alg=essiv"),
        (wish(ivgen_alg="plain64", ivgen_hash_alg="sha256"), "only means something with ivgen_alg=essiv"),
        (wish(ivgen_alg="essiv", ivgen_hash_alg="sha1"), "sha1 has 20 bytes, which no cipher takes"),
        (wish(ivgen_alg="essiv", ivgen_hash_alg="sha512"), "sha512 has 64 bytes, which no cipher takes"),
        (wish(Key(ONE, present=False)), "also to be removed from it"),
        (wish(Key(Secret(b"one"), present=False)), "the secret of the task always stays"),
        (wish(Key(TWO), Key(TWO, present=False)), "also to be removed from it"),
        (wish(Key(TWO, slot=8)), "slot 8 is given twice, or is not one from 0 to 7"),
        (wish(Key(TWO, slot=-1)), "slot -1"),
        (wish(Key(TWO, slot=3), Key(THREE, slot=3)), "slot 3 is given twice"),
        (wish(Key(TWO, present=False, slot=3)), "removed from all of its slots"),
        (wish(*(Key(Secret(b"key %d" % number)) for number in range(8))), "9 keys, and an image has 8 slots"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_qemu_would_refuse_or_the_keys_contradict_is_refused_with_the_reason(
    wanted: EncryptionWish, reason: str
) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(reason)):
        wanted.require_valid("qcow2")


@pytest.mark.parametrize(
    "wanted",
    [
        wish(),
        wish(cipher_alg="cast5-128", cipher_mode="cbc"),
        wish(cipher_mode="cbc", ivgen_alg="essiv", ivgen_hash_alg="sha256"),
        wish(ivgen_alg="essiv"),
        wish(Key(TWO), Key(TWO), Key(THREE, present=False), Key(THREE, present=False)),
        wish(*(Key(Secret(b"key %d" % number)) for number in range(7))),
    ],
    ids=str,
)
def test_an_encryption_that_qemu_can_make_is_taken(wanted: EncryptionWish) -> None:
    wanted.require_valid("qcow2")
    wanted.require_valid("luks")


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "qcow2"])
def test_other_formats_are_not_encrypted(name: str) -> None:
    with pytest.raises(InvalidRequest, match=f"{name} images cannot be encrypted: use qcow2 or luks"):
        ImageWish("/images/a", Layout(name), 512, encryption=wish()).require_valid()


def test_a_luks_image_needs_an_encryption_and_has_no_options_of_qcow2() -> None:
    with pytest.raises(InvalidRequest, match="always encrypted"):
        ImageWish("/images/a", Layout("luks"), 512).require_valid()
    for layout in (Layout("luks", compat="1.1"), Layout("luks", preallocation="full")):
        with pytest.raises(InvalidRequest):
            ImageWish("/images/a", layout, 512, encryption=wish()).require_valid()
    ImageWish("/images/a", Layout("luks"), 512, encryption=wish()).require_valid()


def test_the_options_of_a_new_image_name_its_secret_and_do_not_hold_it() -> None:
    options = wish(cipher_alg="aes-128", iter_time=10).creation_options("qcow2")
    assert options == {
        "encrypt.format": "luks",
        "encrypt.key-secret": ONE.name,
        "encrypt.cipher-alg": "aes-128",
        "encrypt.iter-time": "10",
    }
    assert wish().creation_options("luks") == {"key-secret": ONE.name}
    assert "one" not in f"{ONE!r}{ONE.definition}{options}"


def test_an_image_that_all_wanted_keys_open_and_no_other_is_left_alone() -> None:
    assert not key_changes(wish(), image(), {ONE})
    assert not key_changes(wish(Key(TWO), Key(THREE, present=False)), image(0, 1), {ONE, TWO})
    assert not key_changes(wish(Key(TWO, slot=7)), image(0, 1), {ONE, TWO})


def test_missing_keys_are_added_and_unwanted_ones_removed() -> None:
    wanted = wish(Key(TWO), Key(THREE, present=False))
    assert key_changes(wanted, image(0, 1), {ONE, THREE}) == KeyChanges(ONE, (Key(TWO),), (THREE,))


def test_the_secret_of_the_task_takes_the_place_of_one_that_goes() -> None:
    changes = key_changes(wish(Key(TWO, present=False)), image(), {TWO})
    assert changes == KeyChanges(TWO, (Key(ONE),), (TWO,))
    assert changes.facts_after(LUKS)["key_slots"] == 1


@pytest.mark.parametrize("keys", [(), (Key(TWO),), (Key(TWO, present=False),)], ids=str)
def test_without_a_secret_that_opens_the_image_nothing_is_done(keys: tuple[Key, ...]) -> None:
    with pytest.raises(DiskError, match=r"cannot be opened with .* that the task gives: nothing was changed"):
        key_changes(wish(*keys), image(), set())


def test_keys_with_a_place_of_their_own_come_first_and_do_not_take_that_of_another() -> None:
    wanted = wish(Key(TWO), Key(THREE, slot=1))
    assert keys_to_add("/images/a", wanted, {ONE}, (0,)) == (Key(THREE, slot=1), Key(TWO))
    with pytest.raises(DiskError, match="slot 1 holds another key"):
        keys_to_add("/images/a", wanted, {ONE}, (0, 1))


def test_an_image_without_a_free_slot_gets_no_key() -> None:
    with pytest.raises(DiskError, match="has keys in 8 of its 8 slots, asked to add 1"):
        key_changes(wish(Key(TWO)), image(*range(8)), {ONE})


@pytest.mark.parametrize(
    ("wanted", "found", "reason"),
    [
        (None, qcow2(encrypted=True, encryption=LUKS), "is encrypted, and the task gives no encryption"),
        (wish(), qcow2(), "is not encrypted, asked for encryption: only a rewrite"),
        (wish(), qcow2(encrypted=True, encryption=Encryption("aes")), "is encrypted with aes, which is broken"),
        (
            wish(cipher_alg="aes-128"),
            qcow2(encrypted=True, encryption=LUKS),
            "cipher_alg is aes-256, asked for aes-128",
        ),
    ],
)
def test_what_only_a_rewrite_can_change_is_an_error(wanted: EncryptionWish | None, found: Image, reason: str) -> None:
    with pytest.raises(DiskError, match=reason) as caught:
        require_same_kind(wanted, found)
    assert caught.value.facts["differences"]


def test_what_is_encrypted_as_wanted_or_not_at_all_is_taken() -> None:
    require_same_kind(None, qcow2())
    require_same_kind(wish(cipher_alg="aes-256", hash_alg="sha256"), qcow2(encrypted=True, encryption=LUKS))


def test_each_encrypted_image_of_a_chain_is_opened_with_its_secret() -> None:
    chain = (qcow2("/a", encrypted=True), qcow2("/b"), qcow2("/c", encrypted=True))
    layers = wish(below=TWO).layers(chain)
    assert [layer.secret for layer in layers] == [ONE, None, TWO]
    assert wish(below=TWO).layers(chain, THREE)[0].secret is THREE
    named = json.loads(node(layers)[len("json:") :])
    assert named["encrypt.key-secret"] == ONE.name
    assert named["backing"]["backing"]["encrypt.key-secret"] == TWO.name
    assert "encrypt.key-secret" not in named["backing"]


@pytest.mark.parametrize("path", ["/plain", '/with,comma "quote" {}', "/a:b", "/json:{}"])
def test_a_message_names_the_image_and_not_how_it_was_opened(path: str) -> None:
    assert subject(["qemu-img", "check", "--", node([Layer(path, "qcow2", ONE)])]) == path


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"a\0b", "holds a zero byte"),
        (b"\xff\xfe", "is not UTF-8 text"),
        (b"x" * 65537, "is longer than 65536 bytes"),
    ],
)
def test_a_file_that_holds_no_secret_is_refused(content: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(content)
    with pytest.raises(InvalidRequest, match=f"encryption: secret_file: the secret .*{reason}"):
        secret_from({"secret": None, "secret_file": str(tmp_path / "secret")}, "encryption")


def test_a_secret_is_taken_as_it_is_written_to_its_last_byte(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"one\n")
    found = secret_from({"secret": None, "secret_file": str(tmp_path / "secret")}, "encryption")
    assert found == Secret(b"one\n")
    assert found != ONE
    assert secret_from({"secret": "one", "secret_file": None}, "encryption") == ONE
    assert secret_from({"secret": None, "secret_file": None}, "encryption") is None
    for missing in (tmp_path / "missing", tmp_path):
        with pytest.raises(InvalidRequest, match=r"cannot be read|is not a regular file"):
            secret_from({"secret": None, "secret_file": str(missing)}, "encryption")


def test_a_secret_is_needed_for_what_is_encrypted_and_has_to_be_provable() -> None:
    openers = Openers(ONE, ONE)
    with pytest.raises(DiskError, match="its secret to check it: give encryption with the secret"):
        require_secret((qcow2(), image()), None, "check it")
    require_secret((qcow2(), image()), openers, "check it")
    require_secret((qcow2(),), None, "check it")
    old = qcow2(encrypted=True, encryption=Encryption("aes"))
    for given in (None, openers):
        with pytest.raises(DiskError, match="encrypted with aes, where a wrong secret silently gives garbage"):
            require_secret((old,), given, "check it")
    require_provable(qcow2())


def test_an_image_in_the_place_of_another_is_encrypted_as_that_one() -> None:
    found = Encryption("luks", "serpent-128", "cbc", "essiv", "sha256", "sha512", (0, 3))
    options = EncryptionWish.like(found, Openers(ONE, TWO)).creation_options("qcow2")
    assert options == {
        "encrypt.format": "luks",
        "encrypt.key-secret": ONE.name,
        "encrypt.cipher-alg": "serpent-128",
        "encrypt.cipher-mode": "cbc",
        "encrypt.ivgen-alg": "essiv",
        "encrypt.ivgen-hash-alg": "sha256",
        "encrypt.hash-alg": "sha512",
    }
