# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What XML of libvirt's says of storage pools and their volumes."""

from __future__ import annotations

import typing as t
import uuid

from ansible_collections.kvmops.disk.plugins.module_utils._xml import document as _document

#: The types of pools whose volumes are files in a directory.
OF_FILES = frozenset({"dir", "fs", "netfs", "vstorage"})

_TRIAL, _SPELLINGS = "kvmops-trial-", 200


def path(xml: str) -> str | None:
    """The directory of a storage pool; None for pools that have none."""
    return t.cast("str | None", _document.parse(xml).findtext("./target/path"))


def kind(xml: str) -> str:
    """The type of a storage pool: dir, fs, netfs, logical, rbd, ..."""
    return t.cast(str, _document.parse(xml).get("type", ""))


def volume_format(xml: str) -> str | None:
    """The format that a storage volume has; None where the XML does not say that."""
    element = _document.parse(xml).find("./target/format")
    return t.cast("str | None", element.get("type")) if element is not None else None


def trial(xml: str) -> str:
    """A pool of its own in the directory of the pool in *xml*.

    libvirt takes only one pool for a path, but others for other spellings of it; so each trial has its own.
    """
    number = uuid.uuid4()
    root = _document.element("pool", {"type": "dir"})
    _document.child(root, "name").text = f"{_TRIAL}{number}"
    spelling = f"{path(xml)}{'/.' * (1 + number.int % _SPELLINGS)}"
    _document.child(_document.child(root, "target"), "path").text = spelling
    return _document.text(root)


def is_trial(name: str) -> bool:
    """Whether the pool of that name is a trial: one that is under way, or that a killed run left until libvirt ends."""
    return name.startswith(_TRIAL)
