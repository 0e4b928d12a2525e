# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How a task wants an image encrypted, and the decision which keys are added to one and removed from it. Pure.

LUKS keeps one key of the disk in up to eight slots, each under a secret of its own. Which secret is in which slot
nobody can see: to have one open the image is the only proof (HAZARDS H).
"""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass, field
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, InvalidRequest, UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._image.choices import DIGESTS
from ansible_collections.kvmops.disk.plugins.module_utils._qemu.secrets import Layer, Secret, key_option

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Encryption, Image

#: The formats that can be encrypted.
ENCRYPTED_FORMATS = ("qcow2", "luks")
#: Slots of a LUKS header (QCRYPTO_BLOCK_LUKS_NUM_KEY_SLOTS).
SLOTS = 8
#: Bytes that the header and the slots of LUKS occupy, of the longest key; QEMU aligns them to clusters.
HEADER_BYTES = 4 * 1024**2
#: Milliseconds to try one secret, at most: nobody waits longer for a disk.
_LONGEST_TIME = 600_000
#: What only a rewrite can change.
FIXED = ("cipher_alg", "cipher_mode", "ivgen_alg", "ivgen_hash_alg", "hash_alg")
#: The bytes of keys that ciphers take.
_ESSIV_KEYS = (16, 24, 32)


@dataclass(frozen=True)
class Openers:
    """The secrets that open an image, *secret*, and what it reads, *below*."""

    secret: Secret
    below: Secret

    def layers(self, images: t.Iterable[Image]) -> tuple[Layer, ...]:
        """*images*, top first, each with the secret that opens it."""
        secrets = [self.secret]
        found = []
        for image in images:
            found.append(Layer(image.path, image.format, secrets[0] if image.encrypted else None))
            secrets = [self.below]
        return tuple(found)


@dataclass(frozen=True)
class Key:
    """A secret that is to open the image, or not; *slot* is the place of one that is added."""

    secret: Secret
    present: bool = True
    slot: int | None = None


@dataclass(frozen=True)
class EncryptionWish:
    """The encryption that a task wants. *secret* always is a key of the image; *below* opens what it reads.

    None leaves the choice to QEMU; *iter_time* is in milliseconds.
    """

    secret: Secret
    below: Secret
    cipher_alg: str | None = None
    cipher_mode: str | None = None
    ivgen_alg: str | None = None
    ivgen_hash_alg: str | None = None
    hash_alg: str | None = None
    iter_time: int | None = None
    keys: tuple[Key, ...] = field(default=())

    @classmethod
    def like(cls, found: Encryption, openers: Openers) -> EncryptionWish:
        """The wish for an image that is encrypted as *found*, which *openers* open."""
        return cls(openers.secret, openers.below, **{name: getattr(found, name) for name in FIXED})

    @property
    def wanted_keys(self) -> tuple[Key, ...]:
        """Those that are to open the image, each once."""
        known = {self.secret: Key(self.secret)}
        for key in self.keys:
            if key.present:
                known.setdefault(key.secret, key)
        return tuple(known.values())

    @property
    def secrets(self) -> tuple[Secret, ...]:
        """All that may open the image, those first that are to."""
        return tuple(dict.fromkeys([*(key.secret for key in self.wanted_keys), *(key.secret for key in self.keys)]))

    def require_valid(self, image_format: str) -> None:
        """Raises InvalidRequest, with the reason, where QEMU could not encrypt so, or where the keys contradict."""
        if image_format not in ENCRYPTED_FORMATS:
            raise InvalidRequest(
                f"encryption: {image_format} images cannot be encrypted: use {' or '.join(ENCRYPTED_FORMATS)}"
            )
        if self.iter_time is not None and not 1 <= self.iter_time <= _LONGEST_TIME:
            raise InvalidRequest(
                f"encryption: iter_time: {self.iter_time} is not a time from 1 to {_LONGEST_TIME} milliseconds"
            )
        self._require_valid_cipher()
        gone = {key.secret for key in self.keys if not key.present}
        if gone & {key.secret for key in self.wanted_keys}:
            raise InvalidRequest(
                "encryption: keys: a secret that is to open the image is also to be removed from it: the secret of "
                "the task always stays, so that a key always remains"
            )
        slots = [key.slot for key in self.keys if key.slot is not None]
        for slot in slots:
            if not 0 <= slot < SLOTS or slots.count(slot) > 1:
                raise InvalidRequest(
                    f"encryption: keys: slot {slot} is given twice, or is not one from 0 to {SLOTS - 1}"
                )
        if any(key.slot is not None and not key.present for key in self.keys):
            raise InvalidRequest("encryption: keys: slot: a key is removed from all of its slots: leave slot out")
        if len(self.wanted_keys) > SLOTS:
            raise InvalidRequest(f"encryption: keys: {len(self.wanted_keys)} keys, and an image has {SLOTS} slots")

    def _require_valid_cipher(self) -> None:
        if self.cipher_alg == "cast5-128" and self.cipher_mode in (None, "xts"):
            raise InvalidRequest(
                "encryption: cipher_mode: cast5-128 works on blocks of 8 bytes, and xts needs 16: ask for cbc"
            )
        essiv = self.ivgen_alg == "essiv"
        if self.ivgen_hash_alg is not None and not essiv:
            raise InvalidRequest("encryption: ivgen_hash_alg: only means something with ivgen_alg=essiv: leave it out")
        if essiv and self.ivgen_hash_alg is not None and DIGESTS[self.ivgen_hash_alg] not in _ESSIV_KEYS:
            raise InvalidRequest(
                f"encryption: ivgen_hash_alg: essiv makes a key of the digest, and {self.ivgen_hash_alg} has "
                f"{DIGESTS[self.ivgen_hash_alg]} bytes, which no cipher takes: use sha256"
            )
        if essiv and self.cipher_alg == "cast5-128":
            raise InvalidRequest(
                "encryption: ivgen_alg: essiv makes a key of 32 bytes, cast5-128 takes 16: use plain64"
            )

    def creation_options(self, image_format: str) -> dict[str, str]:
        """The options of ``qemu-img create`` that encrypt a new image under the secret of the task."""
        named = {"key-secret": self.secret.name}
        for name in (*FIXED, "iter_time"):
            value = getattr(self, name)
            named.update({name.replace("_", "-"): str(value)} if value is not None else {})
        kind = {"encrypt.format": "luks"} if image_format == "qcow2" else {}
        return {**kind, **{key_option(image_format, name): value for name, value in named.items()}}

    def differences(self, found: Encryption) -> dict[str, t.Any]:
        """What only a rewrite can change."""
        wanted = {name: getattr(self, name) for name in FIXED}
        return {name: value for name, value in wanted.items() if value is not None and value != getattr(found, name)}

    @property
    def openers(self) -> Openers:
        """The secrets that open the image, and what it reads."""
        return Openers(self.secret, self.below)

    def layers(self, images: t.Iterable[Image], opener: Secret | None = None) -> tuple[Layer, ...]:
        """*images*, top first, each with the secret that opens it: *opener*, or that of the task, the first."""
        return Openers(opener or self.secret, self.below).layers(images)


@dataclass(frozen=True)
class KeyChanges:
    """What is to be done to the keys of an image; *opener* is a secret that opens it now."""

    opener: Secret
    add: tuple[Key, ...] = ()
    remove: tuple[Secret, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.add or self.remove)

    def facts_after(self, found: Encryption) -> dict[str, t.Any]:
        """The facts of the encryption once it is done."""
        return {**found.facts(), "key_slots": len(found.taken_slots) + len(self.add) - len(self.remove)}


def key_changes(wish: EncryptionWish, image: Image, opening: t.Container[Secret]) -> KeyChanges:
    """What is missing; *opening* are those secrets of the wish that open the image.

    Raises DiskError where none of them does, or where there is no slot for one more.
    """
    known = [secret for secret in wish.secrets if secret in opening]
    if not known:
        raise wrong_secret(image.path, len(wish.secrets))
    taken = image.encryption.taken_slots if image.encryption else ()
    add = keys_to_add(image.path, wish, opening, taken)
    remove = tuple(dict.fromkeys(key.secret for key in wish.keys if not key.present and key.secret in opening))
    return KeyChanges(known[0], add, remove)


def require_provable(image: Image) -> None:
    """Raises UnsafeImage where *image* is encrypted in the old way, in which any secret seems to open it."""
    kind = image.encryption.format if image.encryption else "aes"
    if image.encrypted and kind != "luks":
        raise UnsafeImage(
            f"{image.path}: is encrypted with {kind}, where a wrong secret silently gives garbage: copy it with "
            "qemu-img convert, and look at the result",
            path=image.path,
        )


def require_secret(images: t.Iterable[Image], openers: Openers | None, to_do: str, where: str = "encryption") -> None:
    """Raises DiskError where one of *images* is encrypted, so that nothing can be done without a secret, and there is
    none; *where* is the parameter to give it by."""
    for image in images:
        require_provable(image)
        if image.encrypted and openers is None:
            raise DiskError(
                f"{image.path}: is encrypted, and qemu-img needs its secret to {to_do}: give {where} with the secret",
                path=image.path,
            )


def wrong_secret(path: str, tried: int = 1) -> DiskError:
    """The error where none of the secrets that were *tried* opens the image at *path*."""
    what = "the secret" if tried == 1 else f"any of the {tried} secrets"
    return DiskError(
        f"{path}: cannot be opened with {what} that the task gives: nothing was changed: give one of its keys (a line "
        "end in a secret_file is part of the secret)",
        path=path,
    )


def keys_to_add(
    path: str, wish: EncryptionWish, opening: t.Container[Secret], taken: t.Collection[int]
) -> tuple[Key, ...]:
    """The keys that are missing, those with a place of their own first. Raises DiskError where there is no place."""
    missing = [key for key in wish.wanted_keys if key.secret not in opening]
    for key in missing:
        if key.slot in taken:
            raise DiskError(
                f"{path}: slot {key.slot} holds another key than the one that is to be added there: leave slot out, or "
                "remove that key in a task before this one",
                path=path,
            )
    if len(taken) + len(missing) > SLOTS:
        raise DiskError(
            f"{path}: has keys in {len(taken)} of its {SLOTS} slots, asked to add {len(missing)}: remove one in a task "
            "before this one",
            path=path,
        )
    return tuple(sorted(missing, key=lambda key: key.slot is None))


def require_valid(wish: EncryptionWish | None, image_format: str) -> None:
    """Raises InvalidRequest where no image of that format could be encrypted so, or be in the clear."""
    if wish is not None:
        wish.require_valid(image_format)
    elif image_format == "luks":
        raise InvalidRequest("format: a luks image is always encrypted: give encryption, with its secret")


def require_same_kind(wish: EncryptionWish | None, image: Image) -> None:
    """Raises DiskError where the image is encrypted and is not to be, or the other way round, or in another way."""
    if wish is None and image.encrypted:
        raise UnsafeImage(
            f"{image.path}: is encrypted, and the task gives no encryption: give encryption with the secret; to "
            "store its content unencrypted, convert it into a new image",
            path=image.path,
            differences=["encryption"],
        )
    if wish is None:
        return
    found = image.encryption
    if found is None:
        raise UnsafeImage(
            f"{image.path}: is not encrypted, asked for encryption: only a rewrite can change that: make a new image "
            "with encryption and copy the content into it (qemu-img convert -n)",
            path=image.path,
            differences=["encryption"],
        )
    if found.format != "luks":
        raise UnsafeImage(
            f"{image.path}: is encrypted with {found.format}, which is broken and which QEMU can only read: copy its "
            "content into a new image with encryption",
            path=image.path,
            differences=["encryption"],
        )
    different = wish.differences(found)
    if different:
        said = ", ".join(f"{name} is {getattr(found, name)}, asked for {value}" for name, value in different.items())
        raise DiskError(
            f"{image.path}: {said}: only a rewrite can change that: make a new image with encryption and copy the "
            "content into it (qemu-img convert -n)",
            path=image.path,
            differences=sorted(different),
        )
