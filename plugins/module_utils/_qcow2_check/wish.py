# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a task wants to know, and to have repaired, of an image."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._image.key_slots import openers_from
from ansible_collections.kvmops.disk.plugins.module_utils._task.arguments import absolute, search_paths_from

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._image.encryption import Openers


@dataclass(frozen=True)
class CheckWish:
    """The image at *path*, checked, and repaired as far as *repair* (none, leaks, all) allows."""

    path: str
    format: str
    repair: str = "none"
    openers: Openers | None = None

    @property
    def to_do(self) -> str:
        return "check it" if self.repair == "none" else "check and repair it"


def wish_from(params: dict[str, t.Any]) -> CheckWish:
    """The wish that the parameters say. Raises InvalidRequest where they name no image, or no directory."""
    search_paths_from(params)
    return CheckWish(
        absolute(params["path"], "path"), params["format"], params["repair"], openers_from(params, "encryption")
    )
