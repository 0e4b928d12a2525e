# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A world in which qemu-img is slow and nothing else is: a mount namespace with another program in its place."""

from __future__ import annotations

import shutil
from pathlib import Path

QEMU_IMG = shutil.which("qemu-img") or "/usr/bin/qemu-img"
SLOW = """#!/bin/sh
verb=$1
shift
[ "$verb" != convert ] || exec {real} convert -r {rate} "$@"
exec {real} "$verb" "$@"
"""


def slowed(directory: Path, rate: str = "12M") -> str:
    """Shell commands, for a mount namespace of one's own: from there on conversions write RATE bytes in a second."""
    real, slow = directory / "real-qemu-img", directory / "slow-qemu-img"
    real.touch()
    slow.write_text(SLOW.format(real=real, rate=rate), encoding="utf-8")
    slow.chmod(0o755)
    return f"mount --bind {QEMU_IMG} {real} && mount --bind {slow} {QEMU_IMG}"
