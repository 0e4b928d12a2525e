# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a directory can still take, and what new images take of it."""

from __future__ import annotations

import os
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._errors import NotEnoughSpace
from ansible_collections.kvmops.disk.plugins.module_utils._size import format_size

#: With less than this left on a file system, what failed there has most likely filled it.
FULL = 1 << 20


def available_bytes(directory: str) -> int:
    """Bytes that this user may still write in *directory*: root has the reserve, others have not."""
    status = os.statvfs(directory)
    blocks = status.f_bfree if os.geteuid() == 0 else status.f_bavail
    return blocks * status.f_frsize


def require_space(demands: t.Iterable[tuple[str, int]]) -> None:
    """Raises NotEnoughSpace where the file systems cannot take all *demands*: pairs of a new file and its bytes."""
    needed: dict[int, int] = {}
    files: dict[int, list[str]] = {}
    for path, required in demands:
        device = os.stat(os.path.dirname(path)).st_dev
        needed[device] = needed.get(device, 0) + required
        files.setdefault(device, []).append(path)
    for device, required in needed.items():
        require_bytes(files[device], required, available_bytes(os.path.dirname(files[device][0])))


def require_bytes(paths: t.Sequence[str], required: int, available: int) -> None:
    """Raises NotEnoughSpace where new files at *paths*, of one directory, need more bytes than are *available*."""
    if required > available:
        raise NotEnoughSpace(
            f"{', '.join(paths)}: not enough space in {os.path.dirname(paths[0])}: "
            f"needed {format_size(required)} ({required} bytes), "
            f"available {format_size(available)} ({available} bytes): free some, or choose another place",
            required_bytes=required,
            available_bytes=available,
        )


@dataclass(frozen=True)
class NewImage:
    """An image that is to be made, or to grow: the bytes of its disk, and the file that it is to read, if any."""

    path: str
    size: int
    backing_file: str | None = None
