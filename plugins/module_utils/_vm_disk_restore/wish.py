# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a task wants of a backup that is restored."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._errors import InvalidRequest
from ansible_collections.kvmops.disk.plugins.module_utils._task.arguments import absolute


@dataclass(frozen=True)
class RestoreWish:
    """The images of the *disks* (None: all) of the *backup* of a *domain*, a name or UUID, in *src_dir*, made in
    *dest_dir* in a *format*."""

    src_dir: str
    domain: str
    backup: str
    dest_dir: str
    disks: tuple[str, ...] | None = None
    format: str = "qcow2"
    verify: bool = True


def wish_from(params: dict[str, t.Any]) -> RestoreWish:
    """The wish that the parameters express. Raises InvalidRequest where they contradict themselves."""
    if params["disks"] is not None and not params["disks"]:
        raise InvalidRequest("disks: names no disk: name at least one, or leave it out for all")
    return RestoreWish(
        src_dir=absolute(params["src_dir"], "src_dir"),
        dest_dir=absolute(params["dest_dir"], "dest_dir"),
        disks=tuple(params["disks"]) if params["disks"] is not None else None,
        **{name: params[name] for name in ("domain", "backup", "format", "verify")},
    )
