# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether nobody uses an image: no domain names it, and no process has it open."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import asdict
from ansible_collections.kvmops.disk.plugins.module_utils._errors import ImageInUse, UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._host.image_locks import can_be_asked, is_locked
from ansible_collections.kvmops.disk.plugins.module_utils._usage.users import Unresolved, User, users_of


def require_unused(path: str, users: t.Iterable[User], to_do: str, *, locks: bool = True) -> None:
    """Raises ImageInUse where one of *users* names the image at *path*, or, with *locks*, somebody has it open.

    Raises UnsafeImage where it may not even be opened to ask for locks.
    """
    found = users_of(path, users)
    if found or (locks and is_locked(path)):
        raise in_use(path, found, to_do)
    if locks and not can_be_asked(path):
        raise UnsafeImage(
            f"{path}: asked to {to_do}, but its locks cannot be read without permission to read it: run the task as "
            "its owner, or as root",
            path=path,
        )


def require_resolved(path: str, claims: t.Iterable[Unresolved], to_do: str) -> None:
    """Raises ImageInUse where one of *claims*, of which nobody knows the file, may be on the image at *path*."""
    found = [claim for claim in claims if claim.may_be(path)]
    if found:
        raise may_be_in_use(path, found, to_do)


def may_be_in_use(path: str, found: t.Sequence[Unresolved], to_do: str) -> ImageInUse:
    """The error for an image that may be what is meant by *found*."""
    told = "; ".join(f"{claim}: {claim.problem}" for claim in found)
    return ImageInUse(
        f"{path}: may be in use by {told}: asked to {to_do}",
        path=path,
        in_use_by=[claim.facts() for claim in found],
    )


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
