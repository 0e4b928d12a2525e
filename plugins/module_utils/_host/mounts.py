# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which file system a file lies on, by what the kernel says of its mounts (proc(5), /proc/self/mountinfo)."""

from __future__ import annotations

import os
import re

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass

#: Where this process has mounted directories over themselves, for itself alone (shield).
OWN: list[str] = []
_ESCAPED = r"\\([0-7]{3})"


@dataclass(frozen=True)
class Mount:
    """A mounted file system: where, what (``/dev/vda1``, ``server:/export``), its type, and the number of its device.

    *number* is the kernel's ``major:minor`` of the whole file system: the same for each mount of it, and for all
    subvolumes of btrfs, whose files have device numbers of their own.
    """

    point: str
    device: str
    type: str
    number: str


class Mounts:
    """The mounts of this process."""

    def __init__(self, mountinfo: str) -> None:
        self._mounts = [_parse(line) for line in mountinfo.splitlines()]

    @classmethod
    def now(cls) -> Mounts:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as stream:
            mounts = cls(stream.read())
        for point in OWN:
            last = max((number for number, mount in enumerate(mounts._mounts) if mount.point == point), default=None)
            if last is not None:
                del mounts._mounts[last]
        return mounts

    def of(self, path: str, device: int) -> Mount | None:
        """The mount on which the file at *path* lies, whose stat says *device*; None where the kernel shows none.

        It is the one that is mounted nearest above it. One that a later mount hides has another device; a subvolume of
        btrfs has one that no mount has.
        """
        real = os.path.realpath(path)
        above = [mount for mount in self._mounts if _is_below(real, mount.point)]
        number = f"{os.major(device)}:{os.minor(device)}"
        nearest: Mount | None = None
        for mount in [one for one in above if one.number == number] or above:
            if nearest is None or len(mount.point) >= len(nearest.point):
                nearest = mount
        return nearest


def _parse(line: str) -> Mount:
    fields = line.split(" ")
    after = fields.index("-")
    return Mount(_plain(fields[4]), _plain(fields[after + 2]), fields[after + 1], fields[2])


def _plain(text: str) -> str:
    """Blanks and backslashes are written as octal numbers."""
    return re.sub(_ESCAPED, lambda found: chr(int(found[1], 8)), text)


def _is_below(path: str, point: str) -> bool:
    return path == point or path.startswith(point.rstrip("/") + "/")
