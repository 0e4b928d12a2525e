# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A script where a module finds qemu-img, for the tests of how it is run."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path


def python_with(directory: Path, script: str) -> Path:
    """An interpreter for run_module, to which the shell SCRIPT is qemu-img; that one is `$REAL` in it.

    Modules look in the usual places before they look in PATH, so that the script gets a namespace in which it is there.
    """
    real = Path(shutil.which("qemu-img") or "")
    kept, stand_in, entered, outside = (directory / name for name in ("real", "stand-in", "entered", "python"))
    shutil.copy(real, kept)
    stand_in.write_text(f"#!/bin/sh\nREAL={kept}\n{script}\n", encoding="utf-8")
    entered.write_text(f'#!/bin/sh -e\nmount --bind {stand_in} {real}\nexec {sys.executable} "$@"\n', encoding="utf-8")
    outside.write_text(f'#!/bin/sh -e\nexec unshare --mount {entered} "$@"\n', encoding="utf-8")
    for made in (stand_in, entered, outside):
        made.chmod(0o755)
    return outside


def listening(directory: Path, log: Path) -> Path:
    """An interpreter to which qemu-img is as it is, and says in LOG what it was asked."""
    return python_with(directory, f'echo "$@" >>{log}\nexec $REAL "$@"')
