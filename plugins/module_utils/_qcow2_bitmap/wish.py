# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
""""""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_bitmap.decision import BitmapWish
from ansible_collections.kvmops.disk.plugins.module_utils._size import parse_size
from ansible_collections.kvmops.disk.plugins.module_utils._task.arguments import absolute


def wish_from(params: dict[str, t.Any]) -> BitmapWish:
    """The wish that the parameters say. Raises InvalidRequest where they contradict each other."""
    granularity, other = params["granularity"], params["merge_from_path"]
    wish = BitmapWish(
        path=params["path"],
        name=params["bitmap"],
        state=params["state"],
        granularity=parse_size(granularity, "granularity") if granularity is not None else None,
        sources=tuple(params["merge_from"] or ()),
        file=absolute(other, "merge_from_path") if other is not None else None,
    )
    wish.require_valid()
    return wish
