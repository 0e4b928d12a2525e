# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs a command beside a private hypervisor of tests/lab, which ends with it.

    python tests/tools/with_hypervisor.py COMMAND [ARGUMENT…]

The command finds it in its environment: LAB_URI (the connection), LAB_IMAGES (a folder that QEMU may use), LAB_SERIAL
(a folder for the sockets of serial consoles), LAB_KERNEL and LAB_INITRD (a Linux that boots in seconds).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]


def main() -> None:
    sys.path.insert(0, str(TESTS))
    from lab.hypervisor import Hypervisor

    # Short, for the sockets in it; every user may traverse it, for QEMU's.
    with tempfile.TemporaryDirectory(prefix="kvmops-", dir="/tmp") as base:
        Path(base).chmod(0o711)
        with Hypervisor(Path(base), "lab") as hypervisor:
            guest = hypervisor.kernel()
            environment = dict(
                os.environ,
                LAB_URI=hypervisor.uri,
                LAB_IMAGES=str(hypervisor.images),
                LAB_SERIAL=str(hypervisor.directory / "serial"),
                LAB_KERNEL=str(guest.kernel),
                LAB_INITRD=str(guest.initrd),
            )
            try:
                status = subprocess.run(sys.argv[1:], env=environment, check=False).returncode
            finally:
                for state in Path(base).glob("*/lab.json"):  # what the command has made beside it, and left
                    if state.parent != hypervisor.directory and (
                        left := Hypervisor.running(Path(base), state.parent.name)
                    ):
                        left.down()
    sys.exit(status)


if __name__ == "__main__":
    main()
