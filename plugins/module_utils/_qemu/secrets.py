# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Passphrases on their way to QEMU: in memory that a child inherits, never in a file system or on a command line."""

from __future__ import annotations

import os
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass

#: The formats whose images can be given a backing file, or none, from outside.
WITH_BACKING = ("qcow2", "qed")


class Secret:
    """A passphrase. QEMU reads it from a descriptor; the memory behind it goes with the last process that has it."""

    def __init__(self, passphrase: bytes) -> None:
        self._passphrase = passphrase
        self.descriptor = os.memfd_create("secret")
        written = 0
        while written < len(passphrase):
            written += os.write(self.descriptor, passphrase[written:])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._passphrase == other._passphrase

    def __hash__(self) -> int:
        return hash(self._passphrase)

    def __repr__(self) -> str:
        return f"<{self.name}>"

    @property
    def name(self) -> str:
        """What QEMU calls it."""
        return f"secret{self.descriptor}"

    @property
    def definition(self) -> tuple[str, str]:
        """The option that defines it for QEMU's tools."""
        return "--object", f"secret,id={self.name},file=/dev/fd/{self.descriptor}"


@dataclass(frozen=True)
class Layer:
    """One image of a chain, and the secret that opens it, where it is encrypted.

    *alone*: nothing is below it, whatever its header says by the time it is opened.
    """

    path: str
    format: str
    secret: Secret | None = None
    alone: bool = False


def node(layers: t.Sequence[Layer], *, alone: bool = False) -> str:
    """The first of *layers* over the others as a ``json:`` name of QEMU's; *alone*: without what it reads.

    A comma or a quotation mark in a path is nothing special in it. An empty rest leaves to the image what it reads.
    """
    import json  # loaded where a secret is used

    return "json:" + json.dumps(_node(layers, alone))


def key_option(image_format: str, name: str) -> str:
    """An option of QEMU's for the encryption of such an image."""
    return f"encrypt.{name}" if image_format == "qcow2" else name


def _node(layers: t.Sequence[Layer], alone: bool) -> dict[str, t.Any]:
    top = layers[0]
    found: dict[str, t.Any] = {"driver": top.format, "file": {"driver": "file", "filename": top.path}}
    if top.secret is not None:
        found[key_option(top.format, "key-secret")] = top.secret.name
    if alone or (top.alone and top.format in WITH_BACKING):
        found["backing"] = None
    elif layers[1:]:
        found["backing"] = _node(layers[1:], alone)
    return found
