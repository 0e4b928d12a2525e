# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The secrets of a task read, tried on an image, and written into its key slots."""

from __future__ import annotations

import os
import stat
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, InvalidRequest
from ansible_collections.kvmops.disk.plugins.module_utils._image import encryption as _encryption
from ansible_collections.kvmops.disk.plugins.module_utils._image.encryption import (
    EncryptionWish,
    Key,
    KeyChanges,
    Openers,
)
from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Encryption, Image
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan, Step
from ansible_collections.kvmops.disk.plugins.module_utils._qemu.secrets import Layer, Secret

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg

_LONGEST_SECRET = 64 * 1024


def wish_from(params: dict[str, t.Any] | None) -> EncryptionWish | None:
    """The wish that a parameter *encryption* expresses. Raises InvalidRequest where one of its secrets is none."""
    if params is None:
        return None
    openers = _openers(params, "encryption")
    return EncryptionWish(
        openers.secret,
        openers.below,
        **{name: params[name] for name in (*_encryption.FIXED, "iter_time")},
        keys=tuple(
            Key(t.cast(Secret, secret_from(key, "encryption: keys")), key["state"] == "present", key["slot"])
            for key in params.get("keys", ())
        ),
    )


def openers_from(params: dict[str, t.Any], name: str) -> Openers | None:
    """The secrets that the parameter *name* gives. Raises InvalidRequest where one of them is none."""
    return _openers(params[name], name) if params[name] is not None else None


def _openers(params: dict[str, t.Any], where: str) -> Openers:
    secret = t.cast(Secret, secret_from(params, where))
    return Openers(secret, _secret_below(params, where) or secret)


def _secret_below(params: dict[str, t.Any], where: str) -> Secret | None:
    return secret_from(params, where, "backing_secret") if "backing_secret" in params else None


def secret_from(params: dict[str, t.Any], where: str, name: str = "secret") -> Secret | None:
    """The secret of the parameter *name*, or of the file that NAME_file names; None where neither is given."""
    text, path = params[name], params[f"{name}_file"]
    if text is not None:
        return Secret(_require_passphrase(text.encode(errors="surrogateescape"), f"{where}: {name}"))
    if path is not None:
        return Secret(_require_passphrase(_read(path, f"{where}: {name}_file"), f"{where}: {name}_file"))
    return None


def opening(qemu_img: QemuImg, image: Image, secrets: t.Iterable[Secret]) -> frozenset[Secret]:
    """Those of *secrets* that open the image."""
    return frozenset(secret for secret in secrets if qemu_img.opens(Layer(image.path, image.format, secret)))


def require_opens(qemu_img: QemuImg, layers: t.Iterable[Layer]) -> None:
    """Raises DiskError where the secret of one of *layers* does not open that image."""
    for layer in layers:
        if layer.secret is not None and not qemu_img.opens(layer):
            raise _encryption.wrong_secret(layer.path)


def unlocked(qemu_img: QemuImg, images: t.Sequence[Image], openers: Openers) -> QemuImg:
    """*qemu_img*, which opens each of *images*, one and what it reads, with *openers*.

    Raises DiskError where they do not open one, or where nothing would prove that.
    """
    for image in images:
        _encryption.require_provable(image)
    layers = openers.layers(images)
    require_opens(qemu_img, layers)
    for number in range(len(layers)):
        qemu_img = qemu_img.unlocking(layers[number:])
    return qemu_img


def plan_keys(image: Image, wish: EncryptionWish, changes: KeyChanges, qemu_img: QemuImg) -> Plan:
    """The plan that adds keys to the image and removes others. The secret of the task opens it once all are added."""
    found = t.cast(Encryption, image.encryption)
    opener, kept = (Layer(image.path, image.format, secret) for secret in (changes.opener, wish.secret))
    steps = [
        Step(
            f"add a key to {image.path}" + (f" in slot {key.slot}" if key.slot is not None else ""),
            _adding(qemu_img, opener, key, wish.iter_time),
        )
        for key in changes.add
    ]
    steps += [Step(f"remove a key from {image.path}", _removing(qemu_img, kept, old)) for old in changes.remove]
    if not steps:
        return Plan({}, {})
    return Plan({"encryption": found.facts()}, {"encryption": changes.facts_after(found)}, tuple(steps))


def add_keys(qemu_img: QemuImg, opener: Layer, keys: t.Iterable[Key], iter_time: int | None) -> None:
    """Adds *keys* to a new image, which *opener* opens."""
    for key in keys:
        _adding(qemu_img, opener, key, iter_time)()


def _adding(qemu_img: QemuImg, opener: Layer, key: Key, iter_time: int | None) -> t.Callable[[], None]:
    def add() -> None:
        qemu_img.add_key(opener, key.secret, key.slot, iter_time)
        require_opens(qemu_img, [Layer(opener.path, opener.format, key.secret)])

    return add


def _removing(qemu_img: QemuImg, kept: Layer, old: Secret) -> t.Callable[[], None]:
    def remove() -> None:
        qemu_img.remove_key(kept, old)
        if qemu_img.opens(Layer(kept.path, kept.format, old)):
            raise DiskError(f"{kept.path}: a key that was removed still opens it: look at it", path=kept.path)

    return remove


def _require_passphrase(found: bytes, what: str) -> bytes:
    if not found:
        raise InvalidRequest(f"{what}: the secret is empty: it would protect nothing")
    if len(found) > _LONGEST_SECRET or b"\0" in found:
        raise InvalidRequest(f"{what}: the secret is longer than {_LONGEST_SECRET} bytes, or holds a zero byte")
    try:
        found.decode()
    except UnicodeDecodeError:
        raise InvalidRequest(f"{what}: the secret is not UTF-8 text, which QEMU needs for LUKS: encode it") from None
    return found


def _read(path: str, what: str) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        raise InvalidRequest(f"{what}: {path} cannot be read: {error.strerror}", path=path) from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise InvalidRequest(
                f"{what}: {path} is not a regular file: name the file that holds the secret", path=path
            )
        return os.read(descriptor, _LONGEST_SECRET + 1)
    finally:
        os.close(descriptor)
