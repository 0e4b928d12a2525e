# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Block devices of a test, which are loop devices, and what must be the same of one that was only read."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Protocol

from lab import write_pattern
from support.scene import MIB


class MakeDevice(Protocol):
    """Makes a loop device of so many MiB, and returns its path; it goes after the test."""

    def __call__(self, mib: int) -> str: ...


def with_disk(device: str, scratch: Path, image_format: str = "raw", mib: int = 2) -> str:
    """A disk of 8 MiB on DEVICE, whose first MIB mebibytes are the lab's pattern."""
    write_pattern(scratch, mib, "device")
    os.truncate(scratch, 8 * MIB)
    argv = ["qemu-img", "convert", "-n", "-f", "raw", "-O", image_format, str(scratch), device]
    if image_format != "raw":
        subprocess.run(["qemu-img", "create", "-q", "-f", image_format, device, "8M"], check=True)
    subprocess.run(argv, check=True)
    scratch.unlink()
    return device


def looks(device: str) -> tuple[int, ...]:
    """What nobody may change of a device: that it is one, which one, its owner and its mode."""
    status = os.stat(device)
    return status.st_ino, status.st_rdev, status.st_uid, status.st_gid, status.st_mode
