# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether nobody uses an image: no domain names it, and no process has it open."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import asdict
from ansible_collections.kvmops.disk.plugins.module_utils._errors import ImageInUse
from ansible_collections.kvmops.disk.plugins.module_utils._host.image_locks import is_locked
from ansible_collections.kvmops.disk.plugins.module_utils._usage.users import User, users_of


def require_unused(path: str, users: t.Iterable[User], to_do: str, *, locks: bool = True) -> None:
    """Raises ImageInUse where one of *users* names the image at *path*, or, with *locks*, somebody has it open."""
    found = users_of(path, users)
    if found or (locks and is_locked(path)):
        raise in_use(path, found, to_do)


def in_use(path: str, found: t.Sequence[User], to_do: str) -> ImageInUse:
    """The error for an image that *found* use, or, where that is empty, somebody who is no domain."""
    by = (
        "; ".join(str(user) for user in found)
        or "a process that libvirt does not know (qemu-img, qemu-nbd or another QEMU)"
    )
    return ImageInUse(
        f"{path}: in use by {by}: asked to {to_do}: stop or change what uses it first",
        path=path,
        in_use_by=[asdict(user) for user in found],
    )
