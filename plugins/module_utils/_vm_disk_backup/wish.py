# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a task wants of a backup of a domain."""

from __future__ import annotations

import os
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._backup import chains as _chains
from ansible_collections.kvmops.disk.plugins.module_utils._backup import manifest as _manifest
from ansible_collections.kvmops.disk.plugins.module_utils._backup.retention import Keep
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._errors import InvalidRequest
from ansible_collections.kvmops.disk.plugins.module_utils._xml import document as _document


@dataclass(frozen=True)
class BackupWish:
    """The *backup* of that name in *dest_dir*; *disks* is None for all that can be written to.

    *mode*: auto, full or incremental. *timeout* in seconds. *max_chain*: how many backups stand on each other at most.
    *keep* is None for all.
    """

    backup: str
    dest_dir: str
    disks: tuple[str, ...] | None = None
    mode: str = "auto"
    quiesce: str = "auto"
    verify: bool = True
    timeout: int = 86400
    trusted: bool = False
    max_chain: int = _chains.DEEPEST
    keep: Keep | None = None

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
        if not 1 <= self.max_chain <= _chains.DEEPEST:
            raise InvalidRequest(f"max_chain: {self.max_chain} is out of range: give 1 to {_chains.DEEPEST}")
        if self.keep is not None:
            _require_sensible(self.keep)


def wish_from(params: dict[str, t.Any]) -> BackupWish:
    """The wish that the parameters express. Raises InvalidRequest where they contradict themselves."""
    wish = BackupWish(
        dest_dir=os.path.normpath(params["dest_dir"]),
        mode=params["kind"],
        disks=tuple(params["disks"]) if params["disks"] is not None else None,
        keep=Keep(**params["keep"]) if params["keep"] is not None else None,
        **{name: params[name] for name in ("backup", "quiesce", "verify", "timeout", "trusted", "max_chain")},
    )
    wish.require_valid()
    _document.require_expressible(wish.dest_dir, "dest_dir")
    return wish


def _require_sensible(keep: Keep) -> None:
    """Raises InvalidRequest where the rules keep nothing, or less than nothing."""
    negative = [name for name, number in vars(keep).items() if number < 0]
    if negative:
        raise InvalidRequest(f"keep: {negative[0]} is negative: give 0 or more")
    if keep.says_nothing:
        raise InvalidRequest("keep: would keep no backup: give one of last, daily, weekly, monthly a number above 0")
