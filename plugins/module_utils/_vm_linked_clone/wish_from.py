# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The wish that the parameters of vm_linked_clone express."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._image.layout import ALLOCATIONS
from ansible_collections.kvmops.disk.plugins.module_utils._size import parse_size
from ansible_collections.kvmops.disk.plugins.module_utils._task import arguments as _arguments
from ansible_collections.kvmops.disk.plugins.module_utils._task.arguments import absolute, require_directories
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.wish import CloneSpec, CloneWish
from ansible_collections.kvmops.disk.plugins.module_utils._xml import document as _document


def wish_from(params: dict[str, t.Any]) -> CloneWish:
    """The wish that the parameters express. Raises InvalidRequest where they contradict themselves."""
    require_directories(params["search_paths"])
    _arguments.require_ratio(params["max_overcommit"])
    directory, allocation, cluster_size = params["disk_dir"], params["allocation"], params["cluster_size"]
    wish = CloneWish(
        clones=tuple(_spec(given, params["disk_sizes"]) for given in params["clones"]),
        disk_dir=absolute(directory.rstrip("/") or "/.", "disk_dir") if directory is not None else None,
        preallocation=ALLOCATIONS[allocation] if allocation else params["preallocation"],
        cluster_size=parse_size(cluster_size, "cluster_size") if cluster_size is not None else None,
        **{
            name: params[name]
            for name in (
                *("source", "mode", "fallback", "start", "protect_base", "unique_serials", "vtpm", "seed_bus"),
                *("trusted", "verify"),
            )
        },
    )
    wish.require_valid()
    return wish


def _spec(given: dict[str, t.Any], sizes: dict[str, t.Any]) -> CloneSpec:
    seed = given.get("seed")
    if seed is not None:
        absolute(seed, f"{given['name']}: seed")
        _document.require_expressible(seed, f"{given['name']}: seed")
    return CloneSpec.parse(given, sizes)
