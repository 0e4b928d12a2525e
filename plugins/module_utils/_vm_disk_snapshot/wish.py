# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a task wants of a snapshot of a domain."""

from __future__ import annotations

import os
import typing as t
import unicodedata

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._errors import InvalidRequest
from ansible_collections.kvmops.disk.plugins.module_utils._size import parse_size
from ansible_collections.kvmops.disk.plugins.module_utils._task.arguments import require_directories
from ansible_collections.kvmops.disk.plugins.module_utils._xml import document as _document

#: libvirt keeps each snapshot in a file NAME.xml.
_LONGEST_NAME = 200


@dataclass(frozen=True)
class VmSnapshotWish:
    """What a task wants of a domain's snapshots; *disks* is None for all that can be written to.

    *keep* is how many of the external snapshots whose names begin with *prefix* may stay, the newest.
    """

    name: str | None
    state: str = "present"
    disks: tuple[str, ...] | None = None
    quiesce: str = "auto"
    keep: int | None = None
    prefix: str | None = None
    timeout: int = 86400
    bandwidth: int | None = None
    trusted: bool = False

    def require_valid(self) -> None:
        """Raises InvalidRequest where no world could grant the wish."""
        if self.name is not None:
            _require_usable_name(self.name)
        elif self.state == "reverted" or self.keep is None:
            raise InvalidRequest(f"snapshot: state={self.state} needs the name of a snapshot")
        if self.keep is not None and self.state == "reverted":
            raise InvalidRequest("keep: goes with state=present or state=absent, not with reverted")
        if self.keep is not None and self.keep < 0:
            raise InvalidRequest(f"keep: {self.keep}: give the number of snapshots to keep, 0 or more")
        if self.keep is None and self.prefix is not None:
            raise InvalidRequest("prefix: says which snapshots keep is about: give keep, too")
        if self.disks is not None and (self.state != "present" or not self.disks):
            raise InvalidRequest(
                "disks: says what a new snapshot is of, and names at least one disk: give it with state=present, or "
                "leave it out"
            )
        if self.timeout < 1:
            raise InvalidRequest(f"timeout: {self.timeout} s is too short: give 1 or more")
        if self.bandwidth is not None and self.bandwidth < 1:
            raise InvalidRequest("bandwidth: 0 would never merge anything: leave it out for no limit")


def _require_usable_name(name: str) -> None:
    raw = os.fsencode(name)
    if not 1 <= len(raw) <= _LONGEST_NAME:
        raise InvalidRequest(f"snapshot: a name has from 1 to {_LONGEST_NAME} bytes, {name!r} has {len(raw)}")
    if "/" in name or name.startswith("."):
        raise InvalidRequest(
            f"snapshot: {name!r} becomes a part of file names: it must not contain a slash or begin with a dot"
        )
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in name):
        raise InvalidRequest(f"snapshot: {name!r} has control characters, or is not UTF-8 text: choose another name")


def wish_from(params: dict[str, t.Any]) -> VmSnapshotWish:
    """The wish that the parameters express. Raises InvalidRequest where they contradict themselves."""
    require_directories(params["search_paths"])
    bandwidth = params["bandwidth"]
    wish = VmSnapshotWish(
        name=params["snapshot"],
        disks=tuple(params["disks"]) if params["disks"] is not None else None,
        bandwidth=parse_size(bandwidth, "bandwidth") if bandwidth is not None else None,
        **{name: params[name] for name in ("state", "quiesce", "keep", "prefix", "timeout", "trusted")},
    )
    wish.require_valid()
    if wish.name is not None:
        _document.require_expressible(wish.name, "snapshot")
    return wish
