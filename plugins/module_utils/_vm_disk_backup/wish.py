# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a task wants of a backup of a domain."""

from __future__ import annotations

import os
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._backup import manifest as _manifest
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._errors import InvalidRequest
from ansible_collections.kvmops.disk.plugins.module_utils._xml import document as _document


@dataclass(frozen=True)
class BackupWish:
    """The *backup* of that name in *dest_dir*; *disks* is None for all that can be written to.

    *mode*: auto, full or incremental. *timeout* in seconds.
    """

    backup: str
    dest_dir: str
    disks: tuple[str, ...] | None = None
    mode: str = "auto"
    quiesce: str = "auto"
    verify: bool = True
    timeout: int = 86400
    trusted: bool = False

    def require_valid(self) -> None:
        """Raises InvalidRequest where no world could grant the wish."""
        if not _manifest.is_name(self.backup):
            raise InvalidRequest(
                f"backup: {self.backup!r} becomes the name of a directory: give up to 128 letters, digits and any of "
                "the characters _ . : + -, and begin with a letter, a digit or _"
            )
        if not os.path.isabs(self.dest_dir):
            raise InvalidRequest(f"dest_dir: {self.dest_dir!r} is relative: give the absolute path")
        if self.disks is not None and not self.disks:
            raise InvalidRequest("disks: names no disk: name at least one, or leave it out for all")
        if self.timeout < 1:
            raise InvalidRequest(f"timeout: {self.timeout} s is too short: give 1 or more")


def wish_from(params: dict[str, t.Any]) -> BackupWish:
    """The wish that the parameters express. Raises InvalidRequest where they contradict themselves."""
    wish = BackupWish(
        dest_dir=os.path.normpath(params["dest_dir"]),
        mode=params["kind"],
        disks=tuple(params["disks"]) if params["disks"] is not None else None,
        **{name: params[name] for name in ("backup", "quiesce", "verify", "timeout", "trusted")},
    )
    wish.require_valid()
    _document.require_expressible(wish.dest_dir, "dest_dir")
    return wish
