# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A script where a module finds qemu-img, for the tests of how it is run."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path


def mount(directory: Path, script: str) -> str:
    """A shell command for a mount namespace of one's own: from there on the shell SCRIPT is qemu-img.

    That one is `$REAL` in it. Modules look in the usual places before they look in PATH, so the script takes its place.
    """
    real = Path(shutil.which("qemu-img") or "")
    kept, stand_in = directory / "real-qemu-img", directory / "stand-in"
    shutil.copy(real, kept)
    stand_in.write_text(f"#!/bin/sh\nREAL={kept}\n{script}\n", encoding="utf-8")
    stand_in.chmod(0o755)
    return f"mount --bind {stand_in} {real}"


def python_with(directory: Path, script: str) -> Path:
    """An interpreter for run_module to which the shell SCRIPT is qemu-img."""
    entered, outside = directory / "entered", directory / "python"
    entered.write_text(f'#!/bin/sh -e\n{mount(directory, script)}\nexec {sys.executable} "$@"\n', encoding="utf-8")
    outside.write_text(f'#!/bin/sh -e\nexec unshare --mount {entered} "$@"\n', encoding="utf-8")
    for made in (entered, outside):
        made.chmod(0o755)
    return outside


def listening(directory: Path, log: Path) -> Path:
    """An interpreter to which qemu-img is as it is, and says in LOG what it was asked."""
    return python_with(directory, f'echo "$@" >>{log}\nexec $REAL "$@"')
