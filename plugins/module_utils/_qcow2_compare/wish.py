# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which two images a task wants to have compared, and how."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._image.key_slots import openers_from
from ansible_collections.kvmops.disk.plugins.module_utils._task.arguments import absolute

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._image.encryption import Openers


@dataclass(frozen=True)
class Side:
    """One of the two: the image at *path*; *openers* open it, which the parameter *secret_in* gives."""

    path: str
    format: str
    openers: Openers | None
    secret_in: str


@dataclass(frozen=True)
class CompareWish:
    """The *sides* that are compared; *strict* wants them to have one length, and to hold data in the same places.
    *trusted* images are followed wherever they refer to."""

    sides: tuple[Side, Side]
    strict: bool
    trusted: bool


def wish_from(params: dict[str, t.Any]) -> CompareWish:
    """The wish that the parameters say. Raises InvalidRequest where they name no images."""
    openers = openers_from(params, "encryption")
    other_openers = openers_from(params, "other_encryption") or openers
    one = Side(absolute(params["path"], "path"), params["format"], openers, "encryption")
    other_format = params["other_format"] or params["format"]
    other = Side(absolute(params["other"], "other"), other_format, other_openers, "other_encryption")
    return CompareWish((one, other), params["strict"], params["trusted"])
