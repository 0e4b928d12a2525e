# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The decision to remove an image."""

from __future__ import annotations

import os
import stat

from ansible_collections.kvmops.disk.plugins.module_utils._errors import UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._files import file_set as _file_set
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan, Step


def plan_remove(path: str) -> Plan:
    """The plan that removes the image at *path*, its extents with it; a symbolic link goes, and its target stays.

    Raises UnsafeImage where something else than a file is there.
    """
    after = {"path": path, "state": "absent"}
    if not os.path.lexists(path):
        return Plan(after, after)
    mode = os.lstat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
        raise UnsafeImage(
            f"{path}: asked to remove an image, found something that is not a regular file: left alone", path=path
        )
    extents = len(_file_set.files(path)) - 1
    what = f"remove {path}" + (f" and its {extents} extent(s)" if extents else "")
    return Plan({"path": path, "state": "present"}, after, (Step(what, lambda: _file_set.remove(path)),))
