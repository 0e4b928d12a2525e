# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Python interpreters of this machine: those on PATH, and those of pyenv, whose shims are no interpreters."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path


def interpreter_folders(versions: str) -> list[str]:
    """Folders to append to PATH so that each python3.N of this machine that is one of VERSIONS is found by its name."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    return [str(folder) for folder in sorted(pyenv.glob(f"versions/{versions}/bin"))]


def search_path(versions: str = "3.*") -> str:
    """PATH without the shims of version managers, with the folders of their interpreters of VERSIONS at its end."""
    folders = [folder for folder in os.environ.get("PATH", os.defpath).split(os.pathsep) if "shims" not in folder]
    return os.pathsep.join(folders + interpreter_folders(versions))


def interpreters() -> dict[str, str]:
    """Version ("3.11") to path of each Python 3 that is found."""
    path = search_path()
    names = {entry.name for folder in path.split(os.pathsep) for entry in Path(folder).glob("python3.*")}
    found = {
        name[len("python") :]: shutil.which(name, path=path) for name in names if re.fullmatch(r"python3\.\d+", name)
    }
    return {version: where for version, where in found.items() if where}


if __name__ == "__main__":
    for version, where in sorted(interpreters().items(), key=lambda item: int(item[0].split(".")[1])):
        print(version, where)
