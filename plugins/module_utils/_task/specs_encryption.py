# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The argument specs of encryption: secrets that open an image, and what makes and keeps an encrypted one."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._image.choices import CIPHERS, DIGESTS, GENERATORS, MODES

_SECRET: dict[str, t.Any] = {
    "secret": {"type": "str", "no_log": True},
    "secret_file": {"type": "path", "no_log": False},
}
_EITHER: dict[str, t.Any] = {
    "mutually_exclusive": [("secret", "secret_file")],
    "required_one_of": [("secret", "secret_file")],
}
_OPENERS: dict[str, t.Any] = {
    **_SECRET,
    "backing_secret": {"type": "str", "no_log": True},
    "backing_secret_file": {"type": "path", "no_log": False},
}
_OPENING: dict[str, t.Any] = {
    "mutually_exclusive": [*_EITHER["mutually_exclusive"], ("backing_secret", "backing_secret_file")],
    "required_one_of": _EITHER["required_one_of"],
}
#: Of modules that open an image which may be encrypted, with what it reads, or by itself.
OPENING_SPEC: dict[str, t.Any] = {"encryption": {"type": "dict", "options": _OPENERS, **_OPENING}}
SECRET_SPEC: dict[str, t.Any] = {"encryption": {"type": "dict", "options": _SECRET, **_EITHER}}
_NEW: dict[str, t.Any] = {
    **_OPENERS,
    "cipher_alg": {"type": "str", "choices": list(CIPHERS)},
    "cipher_mode": {"type": "str", "choices": list(MODES)},
    "ivgen_alg": {"type": "str", "choices": list(GENERATORS)},
    "ivgen_hash_alg": {"type": "str", "choices": list(DIGESTS)},
    "hash_alg": {"type": "str", "choices": list(DIGESTS)},
    "iter_time": {"type": "int"},
}
#: Of a module that makes encrypted images, each with one key, and of one that changes their keys, too.
NEW_SPEC: dict[str, t.Any] = {"encryption": {"type": "dict", "options": _NEW, **_OPENING}}
ENCRYPTION_SPEC: dict[str, t.Any] = {
    "encryption": {
        "type": "dict",
        "options": {
            **_NEW,
            "keys": {
                "type": "list",
                "elements": "dict",
                "no_log": False,
                "default": [],
                "options": {
                    **_SECRET,
                    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
                    "slot": {"type": "int"},
                },
                **_EITHER,
            },
        },
        **_OPENING,
    },
}
