# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A look at what stands where no image is to be."""

from __future__ import annotations

import os
import stat

from ansible_collections.kvmops.disk.plugins.module_utils._files import file_set as _file_set
from ansible_collections.kvmops.disk.plugins.module_utils._provision.plan_remove import Standing


def standing(path: str) -> Standing | None:
    """What stands at *path*, None for nothing; a link is looked at itself."""
    try:
        mode = os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    return Standing(stat.S_ISREG(mode) or stat.S_ISLNK(mode), len(_file_set.files(path)) - 1)
