# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plays the part of get-pip.py for ansible-test, which would download it, once for each of its many environments.

The wheels of what is asked for (pip==24.2) are in .cache/pip: run_ansible_test.py puts them there. They are unpacked
once for each Python, and copied from there into its environments, together with the bytecode of what an installation
imports.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path

# ansible-test finds this file by a link.
WHEELS = Path(__file__).resolve().parents[2] / ".cache" / "pip"


def main() -> None:
    packages = [argument for argument in sys.argv[1:] if "==" in argument]
    unpacked = WHEELS / "-".join([str(sys.implementation.cache_tag), *packages])
    if not unpacked.exists():
        unpack(packages, unpacked)
    shutil.copytree(unpacked, sysconfig.get_path("purelib"), dirs_exist_ok=True)


def unpack(packages: list[str], target: Path) -> None:
    staged = tempfile.mkdtemp(dir=WHEELS)
    for package in packages:
        (wheel,) = WHEELS.glob(f"{package.replace('==', '-')}-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(staged)
    environment = dict(os.environ, PYTHONPATH=staged)
    command = [sys.executable, "-m", "pip", "install", "--help"]
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
    try:
        os.rename(staged, target)
    except OSError:  # another process was faster
        shutil.rmtree(staged)


if __name__ == "__main__":
    main()
