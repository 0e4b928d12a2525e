# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Modules as they reach a host: one file (AnsiballZ), from which every task compiles anew what it imports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

#: A module that does nothing but load what every module for domains has to load.
EMPTY = """
import libvirt
import lxml.etree
from ansible.module_utils.basic import AnsibleModule

AnsibleModule(argument_spec={}).exit_json(changed=False)
"""


def empty_module(directory: Path) -> Callable[[], None]:
    """A run of the empty module, whose source is written to DIRECTORY."""
    library = directory / "library"
    library.mkdir()
    (library / "empty.py").write_text(EMPTY, encoding="utf-8")
    return unchanged_run("empty", {}, directory, library)


def unchanged_run(
    module: str, parameters: Mapping[str, Any], directory: Path, library: Path | None = None
) -> Callable[[], None]:
    """A run of MODULE that changes nothing, from the file that Ansible makes of it; that is kept in DIRECTORY."""
    argv = [sys.executable, str(_built(module, parameters, directory, library))]

    def run() -> None:
        said = subprocess.run(argv, check=True, stdout=subprocess.PIPE).stdout
        if json.loads(said)["changed"]:
            raise RuntimeError(f"{module} changed something")

    return run


def _built(module: str, parameters: Mapping[str, Any], directory: Path, library: Path | None) -> Path:
    """The file that Ansible itself sends for a task, which it is told to keep."""
    kept = directory / module
    environment = {**os.environ, "ANSIBLE_KEEP_REMOTE_FILES": "1", "ANSIBLE_REMOTE_TMP": str(kept)}
    argv = ["ansible", "localhost", "--inventory", "localhost,", "--connection", "local", "--module-name", module]
    argv += ["--extra-vars", json.dumps({"ansible_python_interpreter": sys.executable})]
    argv += ["--args", json.dumps(parameters)] if parameters else []
    argv += ["--module-path", str(library)] if library else []
    said = subprocess.run(argv, check=False, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if said.returncode:
        raise RuntimeError(f"{module} failed: {said.stdout.decode()}")
    (made,) = kept.glob("*/AnsiballZ_*.py")
    return made
