# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Parameters that several modules have, read and checked."""

from __future__ import annotations

import math
import os
import typing as t
import unicodedata

from ansible_collections.kvmops.disk.plugins.module_utils._errors import InvalidRequest, NotPermitted
from ansible_collections.kvmops.disk.plugins.module_utils._image.choices import ALLOCATIONS
from ansible_collections.kvmops.disk.plugins.module_utils._image.layout import Layout
from ansible_collections.kvmops.disk.plugins.module_utils._size import parse_size


def layout_from(params: t.Mapping[str, t.Any]) -> Layout:
    """The layout that a module's parameters ask for. Raises InvalidRequest for a cluster size that is no size."""
    cluster_size = params.get("cluster_size")
    return Layout(
        format=params["format"],
        preallocation=ALLOCATIONS[params["allocation"]] if params.get("allocation") else params.get("preallocation"),
        cluster_size=parse_size(cluster_size, "cluster_size") if cluster_size is not None else None,
        compat=params.get("compat"),
        lazy_refcounts=params.get("lazy_refcounts"),
        refcount_bits=params.get("refcount_bits"),
        extended_l2=params.get("extended_l2"),
        compression_type=params.get("compression_type"),
        subformat=params.get("subformat"),
    )


def absolute(path: str, what: str) -> str:
    """*path*, where it can be the name of an image. Raises InvalidRequest for a relative or an impossible one."""
    if not path.startswith("/"):
        raise InvalidRequest(
            f"{what}: {path!r} is relative: give the absolute path, so that it means the same to libvirt and QEMU"
        )
    if "\0" in path or path.endswith("/"):
        raise InvalidRequest(f"{what}: {path!r} does not name a file")
    return path


def require_directories(search_paths: t.Iterable[str]) -> None:
    """Raises InvalidRequest where one of the directories that are to be searched for images is none, NotPermitted where
    it is closed."""
    for directory in search_paths:
        if not os.path.isdir(absolute(directory.rstrip("/") or "/.", "search_paths")):
            raise InvalidRequest(f"search_paths: {directory} is not a directory: give a directory to search for images")
        if not os.access(directory, os.R_OK | os.X_OK, effective_ids=True):
            raise NotPermitted(f"search_paths: no permission to search {directory}", path=directory)


def search_paths_from(params: t.Mapping[str, t.Any]) -> tuple[str, ...]:
    """The directories in which the task has images looked for. Raises InvalidRequest where one of them is none."""
    require_directories(params["search_paths"])
    return tuple(params["search_paths"])


def overcommit_from(params: t.Mapping[str, t.Any]) -> float | None:
    """How many times its own size a file system may promise; None for no limit. Raises InvalidRequest for no ratio."""
    require_ratio(params["max_overcommit"])
    return t.cast("float | None", params["max_overcommit"])


def require_ratio(ratio: float | None, what: str = "max_overcommit") -> None:
    """Raises InvalidRequest where *ratio*, the parameter *what*, is no limit of promises."""
    if ratio is not None and not (math.isfinite(ratio) and ratio > 0):
        raise InvalidRequest(
            f"{what}: {ratio:g} is not a ratio: give how many times its own size a file system may promise, such as 1.2"
        )


def require_usable_name(name: str, what: str, longest: int) -> None:
    """Raises InvalidRequest where *name*, the parameter *what*, cannot name a snapshot or a bitmap.

    It has from 1 to *longest* bytes of UTF-8, and no control characters, which tools mangle (HAZARDS E3).
    """
    try:
        raw = name.encode()
    except UnicodeEncodeError:
        raise InvalidRequest(f"{what}: {name!r} is not UTF-8 text: choose another name") from None
    if not 1 <= len(raw) <= longest:
        raise InvalidRequest(f"{what}: a name has from 1 to {longest} bytes, {name!r} has {len(raw)}")
    if any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in name):
        raise InvalidRequest(f"{what}: {name!r} has control characters: choose another name")
