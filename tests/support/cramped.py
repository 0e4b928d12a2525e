# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A hypervisor whose QEMU sees a small file system."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lab import Hypervisor


@contextlib.contextmanager
def cramped(mib: int) -> Iterator[tuple[Hypervisor, Path]]:
    """The hypervisor, and a directory ``small`` on a file system of MIB mebibytes, which is there before it."""
    directory = Path(tempfile.mkdtemp(prefix="kvmops-", dir="/tmp"))
    directory.chmod(0o711)
    small = directory / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=0711", "tmpfs", small], check=True)
    try:
        with Hypervisor(Path("/tmp"), f"cramped-{os.getpid()}") as hypervisor:
            yield hypervisor, small
    finally:
        subprocess.run(["umount", small], check=True)
        shutil.rmtree(directory)


def fill(path: Path) -> None:
    """Makes the file at PATH take all that there is."""
    with contextlib.suppress(OSError), open(path, "ab", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))
