# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The decision to remove an image."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._errors import UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan, Step


@dataclass(frozen=True)
class Standing:
    """What stands where no image is to be: a file or a link to one, or something else; with how many *extents*."""

    is_file: bool
    extents: int = 0


def plan_remove(path: str, found: Standing | None, remove: t.Callable[[], None]) -> Plan:
    """The plan that has *remove* remove the image at *path*, its extents with it; of a symbolic link the target stays.

    Raises UnsafeImage where something else than a file is there.
    """
    after = {"path": path, "state": "absent"}
    if found is None:
        return Plan(after, after)
    if not found.is_file:
        raise UnsafeImage(
            f"{path}: asked to remove an image, found something that is not a regular file: left alone: name "
            "the image itself",
            path=path,
        )
    what = f"remove {path}" + (f" and its {found.extents} extent(s)" if found.extents else "")
    return Plan({"path": path, "state": "present"}, after, (Step(what, remove),))
