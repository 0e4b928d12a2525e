# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeps which files a module needs, in the checkout's .cache. The checkout's venv imports this at each start.

To find that out, ansible-core parses the module and each file below it, in each ansible-playbook anew: half a second
of a play of the tests for a module of its own, twice as much for one of ours. What is sent is the same;
KVMOPS_COMPILE_ANEW in the environment turns it off, for whoever measures.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

DIRECTORY = os.path.join(os.path.dirname(sys.prefix), ".cache", "payloads")
PACKER = "ansible.executor.module_common"
#: What the packer's function takes; with other parameters it is another ansible-core's, and left alone.
PARAMETERS = ["name", "module_fqn", "module_data", "zf", "date_time", "extension_manager"]
#: Whose files are known to lie where the module lies, or in ansible-core.
FAMILIES = ("ansible.modules.", "ansible_collections.kvmops.disk.plugins.modules.")


class Watch:
    """Waits until ansible-core loads what packs modules; a process that packs none loads nothing for it."""

    def __init__(self, directory: str) -> None:
        self.directory = directory

    def find_spec(self, name: str, _path: object = None, _target: object = None) -> ModuleSpec | None:
        if name != PACKER:
            return None
        sys.meta_path.remove(self)
        from importlib.util import find_spec

        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_and_keep(packer: ModuleType) -> None:
                load(packer)
                keep_in(self.directory, packer)

            spec.loader.exec_module = load_and_keep  # type: ignore[assignment]
        return spec


def keep_in(directory: str, packer: Any) -> None:
    """From now on, the files that PACKER has found for a module serve until one of them changes."""
    import inspect

    find_anew = packer.recursive_finder
    if [*inspect.signature(find_anew).parameters] != PARAMETERS:
        return

    def find_once(name: str, fqn: str, data: Any, archive: Any, date_time: Any, extensions: Any) -> Any:
        if not fqn.startswith(FAMILIES) or extensions.module_names:
            return find_anew(name, fqn, data, archive, date_time, extensions)
        kept = os.path.join(directory, fqn, state_of(packer, data))
        found = read(kept)
        if found is None:
            found = files_of(find_anew, name, fqn, data, date_time, extensions)
            write(kept, found)
        metadata, files = found
        for file, source in files:
            archive.writestr(packer._make_zinfo(file, date_time, zf=archive), source)
        return metadata

    packer.recursive_finder = find_once


def files_of(find: Any, name: str, fqn: str, data: Any, date_time: Any, extensions: Any) -> tuple[Any, Any]:
    """The module's metadata, and the path and the content of each file that it needs."""
    import io
    import zipfile

    with zipfile.ZipFile(io.BytesIO(), "w") as archive:
        metadata = find(name, fqn, data, archive, date_time, extensions)
        return metadata, [(file, archive.read(file)) for file in archive.namelist()]


def state_of(packer: Any, data: Any) -> str:
    """Of the module with the content DATA, of each library file beside it, and of ansible-core, as a digest: the copies
    of the collection that run side by side are of one state."""
    import hashlib

    module = str(packer.Origin.get_tag(data).path)
    library = os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(module))), "module_utils")
    digest = hashlib.sha256(f"{packer.__file__} {packer.__version__}".encode() + bytes(data))
    for folder, folders, names in os.walk(library):
        folders[:] = sorted(set(folders) - {"__pycache__"})
        for name in sorted(names):
            path = os.path.join(folder, name)
            with open(path, "rb") as file:
                content = file.read()
            digest.update(f"{os.path.relpath(path, library)} {len(content)} ".encode() + content)
    return digest.hexdigest()


def read(kept: str) -> Any:
    import pickle

    try:
        with open(kept, "rb") as stream:
            return pickle.load(stream)
    except (OSError, EOFError, ValueError, pickle.UnpicklingError):
        return None


def write(kept: str, found: Any) -> None:
    """In place of what was found for an older state. Whoever may not write there goes without."""
    import contextlib
    import pickle

    folder = os.path.dirname(kept)
    unfinished = f"{folder}.{os.getpid()}"
    with contextlib.suppress(OSError):
        os.makedirs(folder, exist_ok=True)
        older = os.listdir(folder)
        with open(unfinished, "xb") as stream:
            pickle.dump(found, stream)
        os.replace(unfinished, kept)
        for name in older:
            os.unlink(os.path.join(folder, name))


if "KVMOPS_COMPILE_ANEW" not in os.environ:
    sys.meta_path.insert(0, Watch(DIRECTORY))
