# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Unit and sanity tests under every supported ansible-core for which this machine has a Python.

    python tests/tools/core_matrix.py [VERSION…]

Each ansible-core gets a venv of its own in .cache. The closing lines say what passed and what could not be tried.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from interpreters import interpreters

ROOT = Path(__file__).resolve().parents[2]

# What each can be run with, Debian 12's own Python first: it brings the bindings of libvirt.
PYTHONS = {
    "2.17": ("3.11", "3.10", "3.12"),
    "2.18": ("3.11", "3.12", "3.13"),
    "2.19": ("3.11", "3.12", "3.13"),
    "2.20": ("3.12", "3.13", "3.14"),
    "2.21": ("3.12", "3.13", "3.14"),
}
TOOLS = ("hypothesis", "lxml", "pytest", "pytest-timeout", "pytest-xdist")


def main() -> None:
    found = interpreters()
    outcome = {}
    for core in sys.argv[1:] or PYTHONS:
        version = next((version for version in PYTHONS[core] if version in found), None)
        if version is None:
            outcome[core] = f"not tried: it needs one of Python {', '.join(PYTHONS[core])}"
        else:
            passed = passes(core, venv(core, version, found[version]))
            outcome[core] = f"{'passed' if passed else 'FAILED'} (Python {version})"
    for core, said in outcome.items():
        print(f"ansible-core {core}: {said}")
    tried = [said for said in outcome.values() if not said.startswith("not tried")]
    sys.exit(0 if tried and all(said.startswith("passed") for said in tried) else 1)


def venv(core: str, version: str, interpreter: str) -> Path:
    """The folder of a venv with this ansible-core; made when it is not there, or not finished."""
    folder = ROOT / ".cache" / "matrix" / f"core-{core}-python-{version}"
    finished = folder / "installed"
    if not finished.exists():
        subprocess.run([interpreter, "-m", "venv", "--clear", "--system-site-packages", str(folder)], check=True)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, f"ansible-core=={core}.*", *TOOLS], check=True)
        finished.touch()
    return folder


def passes(core: str, folder: Path) -> bool:
    python = str(folder / "bin" / "python")
    environment = dict(os.environ, PATH=f"{folder / 'bin'}:{os.environ['PATH']}", KVMOPS_PYTHONS="3.*")
    commands = (
        [python, "-m", "pytest", "tests/unit", "--numprocesses", "auto", "--quiet"],
        [python, "tests/tools/run_ansible_test.py", "sanity"],
    )
    for command in commands:
        print(f"--- ansible-core {core}: {' '.join(command[1:])}", flush=True)
        if subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode:
            return False
    return True


if __name__ == "__main__":
    main()
