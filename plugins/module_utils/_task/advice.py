# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a failure says besides what happened: which option of the task it is about, and what to do."""

from __future__ import annotations

import grp
import os
import pwd
import stat
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._errors import (
    DiskError,
    MissingImage,
    NotPermitted,
    UnsafeImage,
)

_ABOUT_FILES = (MissingImage, NotPermitted, UnsafeImage)


def about_option(error: DiskError, params: t.Mapping[str, t.Any], spec: t.Mapping[str, t.Any]) -> str | None:
    """The option by which the task names the file that *error* is about, such as ``src``, or ``disks: path``.

    None where the message names the option itself, or where the task names the file by none.
    """
    path = error.facts.get("path")
    is_about_file = isinstance(error, _ABOUT_FILES) or isinstance(error.__cause__, OSError)
    if not is_about_file or not str(error).startswith(f"{path}: "):
        return None
    return next((option for option, value in named_paths(params, spec) if os.path.normpath(value) == path), None)


def named_paths(params: t.Mapping[str, t.Any], spec: t.Mapping[str, t.Any]) -> t.Iterator[tuple[str, str]]:
    """The options of *params* that are paths by their *spec*, each with its value; a list has one row for each."""
    for name, option in spec.items():
        value = params.get(name)
        values = value if isinstance(value, list) else [value]
        if "path" in (option.get("type"), option.get("elements")):
            yield from ((name, one) for one in values if isinstance(one, str) and one)
        elif "options" in option:
            for one in values:
                yield from ((f"{name}: {inner}", path) for inner, path in named_paths(one or {}, option["options"]))


def what_to_do(error: DiskError) -> str:
    """What ends the message of *error*, with a colon before it; nothing where that says enough."""
    cause = error.__cause__
    if isinstance(cause, PermissionError) or isinstance(error, NotPermitted):
        place = error.facts.get("directory") or error.facts.get("path")
        return f": {_as_another_user(place if isinstance(place, str) else None)}"
    return f": {error.advice}" if error.advice else ""


def _as_another_user(path: str | None) -> str:
    user = _name(pwd.getpwuid, os.geteuid())
    where = _closed(path) if path else ""
    if os.geteuid() == 0:
        return (
            f"the task runs as {user}{where}: something else refuses it: the immutable attribute (lsattr), a security "
            "module, or a network file system, where the owner may (become_user)"
        )
    return f"the task runs as {user}{where}: set become=true, or run it as a user who may"


def _closed(path: str) -> str:
    """Whose the first thing on *path* is that this user may not enter, or *path* itself."""
    place = "/"
    for part in (*[one for one in path.split("/") if one], ""):
        try:
            status = os.stat(place)
        except OSError:
            return ""
        if not part or (stat.S_ISDIR(status.st_mode) and not os.access(place, os.X_OK, effective_ids=True)):
            break
        place = os.path.join(place, part)
    owner, group = _name(pwd.getpwuid, status.st_uid), _name(grp.getgrgid, status.st_gid)
    return f", and {place} is of {owner}:{group} with mode {stat.S_IMODE(status.st_mode):04o}"


def _name(look_up: t.Callable[[int], t.Any], number: int) -> str:
    """The name of a user or a group; its number where it has none."""
    try:
        return str(look_up(number)[0])
    except KeyError:
        return str(number)
