# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a task wants of the snapshots of an image."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._errors import InvalidRequest
from ansible_collections.kvmops.disk.plugins.module_utils._image.key_slots import openers_from
from ansible_collections.kvmops.disk.plugins.module_utils._task.arguments import (
    absolute,
    require_usable_name,
    search_paths_from,
)

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._image.encryption import Openers

#: QEMU keeps the first 255 bytes of a longer name, and never finds it again (HAZARDS E3).
LONGEST_NAME = 255


@dataclass(frozen=True)
class SnapshotWish:
    """What the task asks for; *state* is present, absent or reverted.

    *keep* is how many of the snapshots whose names begin with *prefix* may stay, the newest.
    *openers* hold the secret of an encrypted image.
    """

    path: str
    name: str | None
    state: str
    keep: int | None = None
    prefix: str | None = None
    openers: Openers | None = None

    def require_valid(self) -> None:
        """Raises InvalidRequest for a name that qemu-img would mangle, or take for an ID (HAZARDS E2, E3)."""
        if self.name is not None:
            _require_usable_name(self.name)
        elif self.state == "reverted" or self.keep is None:
            raise InvalidRequest(f"{self.path}: state={self.state} needs the name of a snapshot")
        if self.keep is None:
            return
        if self.state == "reverted":
            raise InvalidRequest(f"{self.path}: keep goes with state=present or state=absent, not with reverted")
        if self.keep < 0:
            raise InvalidRequest(f"{self.path}: keep={self.keep}: give the number of snapshots to keep, 0 or more")


def _require_usable_name(name: str) -> None:
    require_usable_name(name, "snapshot", LONGEST_NAME)
    if name.isdecimal():
        raise InvalidRequest(
            f"snapshot: {name!r} could be the ID of a snapshot, which QEMU takes for its name: give the name of a "
            "snapshot, or one that is not a mere number"
        )


def wish_from(params: dict[str, t.Any]) -> SnapshotWish:
    """The wish that the parameters say. Raises InvalidRequest where they contradict each other."""
    search_paths_from(params)
    wish = SnapshotWish(
        path=absolute(params["path"], "path"),
        name=params["snapshot"],
        openers=openers_from(params, "encryption"),
        **{name: params[name] for name in ("state", "keep", "prefix")},
    )
    wish.require_valid()
    return wish
