# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Owner, group, mode and attributes of images, as the file modules set them."""

from __future__ import annotations

import grp
import os
import pwd
import re
import stat
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._errors import InvalidRequest
from ansible_collections.kvmops.disk.plugins.module_utils._host.image_locks import is_locked

#: What a task may say of a file, by the names of the file modules.
_SAID = ("owner", "group", "mode", "seuser", "serole", "setype", "selevel", "attributes")
#: What tells whose a file is, and what others may do with it.
_RETURNED = ("owner", "group", "mode")
_NAMES: dict[str, t.Callable[[int], t.Any]] = {"owner": pwd.getpwuid, "group": grp.getgrgid}
_NUMBERS: dict[str, t.Callable[[str], t.Any]] = {"owner": pwd.getpwnam, "group": grp.getgrnam}
_ALL_BITS = 0o7777
_SYMBOLIC = r"[ugoa]*([-+=]([rwxXst]*|[ugo]))+(,[ugoa]*([-+=]([rwxXst]*|[ugo]))+)*"


def require_known(params: t.Mapping[str, t.Any]) -> None:
    """Raises InvalidRequest where the task gives an owner or a group that this host does not know, or no mode: before
    anything is made."""
    for option, look_up in _NUMBERS.items():
        name = params.get(option)
        if name is not None and not str(name).isdecimal():
            try:
                look_up(str(name))
            except KeyError:
                what = "user" if option == "owner" else "group"
                raise InvalidRequest(
                    f"{option}: there is no {what} {name} on this host: make it first (ansible.builtin.{what}), or "
                    "name another"
                ) from None
    mode = params.get("mode")
    if mode is not None and not _is_mode(mode):
        raise InvalidRequest(f"mode: {mode!r} is not a mode: give one such as '0640' (in quotes), or u=rw,g=r")


def dress(module: AnsibleModule, path: str) -> None:
    """Gives a file that is being made what the task says."""
    module.set_fs_attributes_if_different(module.load_file_common_arguments(module.params, path=path), False)


def set_attributes(module: AnsibleModule, files: t.Sequence[str], report: dict[str, t.Any], *, made: bool) -> None:
    """Gives the *files* of an image, the one that names it first, what the task says; what changes goes into *report*,
    and whose the image is then. *made*: it is a new image, which got all of that before it was put in its place.

    Not where a guest has the image open: libvirt owns that one for the time. Raises DiskError where the libvirt that
    the task names does not answer.
    """
    path = files[0]
    foreseen = made and module.check_mode
    if made:
        _tell_of_new(module.params, report["diff"])
    if not foreseen and os.path.lexists(path) and not is_locked(path):
        _set(module, files, report)
    found = whose(None if foreseen else path)
    said = report["diff"]["after"] if module.check_mode else {}
    report.update({name: said.get(name, value) for name, value in found.items()})


def _set(module: AnsibleModule, files: t.Sequence[str], report: dict[str, t.Any]) -> None:
    for path in files:
        arguments = module.load_file_common_arguments(module.params, path=path)
        if not report["changed"] and module.params["uri"] is not None and _would_change(module, arguments):
            from ansible_collections.kvmops.disk.plugins.module_utils._task import libvirts as _libvirts

            _libvirts.ask(module.params["uri"])
        if module.set_fs_attributes_if_different(arguments, False, report["diff"]):
            report["changed"] = True
            report["actions"].append(f"set the owner, mode or attributes of {path}")
    for side in report["diff"].values():
        side.update({option: _name(option, side[option]) for option in _NAMES if option in side})


def _would_change(module: AnsibleModule, arguments: dict[str, t.Any]) -> bool:
    decided, module.check_mode = module.check_mode, True
    try:
        return bool(module.set_fs_attributes_if_different(arguments, False))
    finally:
        module.check_mode = decided


def _tell_of_new(params: t.Mapping[str, t.Any], diff: dict[str, t.Any]) -> None:
    """Has the *diff* of a new image show what the task says of its file."""
    said = {option: params[option] for option in _SAID if params.get(option) is not None}
    diff["after"].update({option: _name(option, value) for option, value in said.items()})


def whose(path: str | None) -> dict[str, t.Any]:
    """The owner, group and mode of the file at *path*; None for each where there is no file."""
    try:
        status = os.stat(path or "")
    except FileNotFoundError:
        return dict.fromkeys(_RETURNED)
    return {
        "owner": _name("owner", status.st_uid),
        "group": _name("group", status.st_gid),
        "mode": f"{stat.S_IMODE(status.st_mode):04o}",
    }


def _name(option: str, value: t.Any) -> t.Any:
    """The name of the user or group with a number, and a mode as its digits; anything else as it is."""
    if option == "mode" and isinstance(value, int):
        return f"{value:04o}"
    if option not in _NAMES or not str(value).isdecimal():
        return value
    try:
        return _NAMES[option](int(value))[0]
    except KeyError:
        return str(value)


def _is_mode(mode: t.Any) -> bool:
    """Whether the file modules take *mode*: a number, as YAML makes of 0640 without quotes, or a text."""
    if isinstance(mode, int):
        return 0 <= mode <= _ALL_BITS
    return bool(re.fullmatch(r"(0o)?[0-7]{1,5}", mode) or re.fullmatch(_SYMBOLIC, mode))
