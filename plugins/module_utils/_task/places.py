# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What root may do where others can exchange names: a user may spoil his own images there, and nothing else."""

from __future__ import annotations

import os
import stat
import typing as t
from contextlib import AbstractContextManager

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._errors import UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._host.strangers import foreign_link, open_directory

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.runner import Writer

#: Directories that are searched for what reads an image: what is found there is looked at, no more.
_ONLY_SEARCHED = "search_paths"


def guard(module: AnsibleModule) -> None:
    """Makes sure of the paths that the task names, before anything is looked at. See guard_paths()."""
    if os.geteuid() == 0:
        guard_paths(_paths(module.params, module.argument_spec), module)


def guard_paths(paths: t.Iterable[str], module: AnsibleModule) -> None:
    """Has no link of somebody else on *paths* followed, now or later, where this is root's work.

    Raises UnsafeImage where there is one, where a file has several names and somebody else may have given it one, and
    where the kernel cannot keep links out, unless the task trusts such directories.
    """
    if os.geteuid() != 0:
        return
    for path in paths:
        _require_own_links(path)
        directory = open_directory(f"{path}/.")
        if directory is not None:
            _shield(directory, path, trusts=module.params["trust_directories"])
            _require_one_name(path)


def writing_safely(qemu_img: QemuImg, module: AnsibleModule) -> QemuImg:
    """*qemu_img*, which changes images in place as writers says, where this is root's work."""
    if os.geteuid() != 0:
        return qemu_img

    def writing(paths: t.Sequence[str], image_format: str) -> AbstractContextManager[Writer]:
        from ansible_collections.kvmops.disk.plugins.module_utils._task import writers as _writers

        return _writers.writing(paths, image_format, trusts=module.params["trust_directories"])

    return qemu_img.writing_by(writing)


def require_nobody_elses(path: str, to_do: str, module: AnsibleModule) -> None:
    """Raises UnsafeImage where somebody else may exchange the file at *path* while libvirt, which opens it by its name,
    is asked *to_do* something with it; unless the task trusts such directories."""
    directory = open_directory(path) if os.geteuid() == 0 else None
    if directory is not None and not module.params["trust_directories"]:
        raise UnsafeImage(
            f"{path}: libvirt is to {to_do} there, by that name, and the user with the number "
            f"{os.lstat(directory).st_uid}, or one that may write in {directory}, can put a link to any file of this "
            "host in its place in the meantime: choose a directory that only root may write, or set "
            "trust_directories=true where you trust all users who may",
            path=path,
            directory=directory,
        )


def _paths(params: t.Mapping[str, t.Any], spec: t.Mapping[str, t.Any]) -> t.Iterator[str]:
    """The absolute paths among *params*, by their *spec*."""
    for name, option in spec.items():
        value = params.get(name)
        values = value if isinstance(value, list) else [value]
        if name != _ONLY_SEARCHED and "path" in (option.get("type"), option.get("elements")):
            yield from (one for one in values if isinstance(one, str) and one.startswith("/"))
        elif "options" in option:
            for one in values:
                yield from _paths(one or {}, option["options"])


def _require_own_links(path: str) -> None:
    link = foreign_link(path)
    if link is not None:
        raise UnsafeImage(
            f"{path}: leads over the link {link.path} (to {link.target}), which the user with the number {link.owner} "
            "may have put there: it was not followed: give the path without that link",
            path=link.path,
        )


def _shield(directory: str, path: str, *, trusts: bool) -> None:
    from ansible_collections.kvmops.disk.plugins.module_utils._host import shield as _shield

    if not _shield.shield(directory) and not trusts:
        raise UnsafeImage(
            f"{path}: others than root may exchange names in {directory}, and this kernel does not let links there be "
            "refused (Linux 5.14, and the right to mount, are needed): run as the user whose images these are "
            "(become_user), or set trust_directories=true where you trust all users who may write there",
            path=path,
            directory=directory,
        )


def _require_one_name(path: str) -> None:
    try:
        status = os.lstat(path)
    except OSError:
        return
    if stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
        raise UnsafeImage(
            f"{path}: has {status.st_nlink} names, and lies where others than root may give it one: it may be "
            "another user's file: it was left alone: remove the other names, or copy it",
            path=path,
        )
