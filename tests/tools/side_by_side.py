# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs ansible-test's integration targets, or Molecule's scenarios, in as many processes as the machine has cores.

    python tests/tools/side_by_side.py integration|molecule

Each process has a private hypervisor and, for ansible-test, a copy of the collection of its own. What it
says is printed when it has ended.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TOOLS = Path(__file__).parent
WHAT = {
    "integration": ("tests/integration/targets/*/aliases", ["run_ansible_test.py", "integration"]),
    "molecule": ("extensions/molecule/*/molecule.yml", ["run_molecule.py"]),
}


def main() -> None:
    pattern, (tool, *options) = WHAT[sys.argv[1]]
    names = sorted(path.parent.name for path in ROOT.glob(pattern) if not path.parent.name.startswith("setup_"))
    shares = min(os.cpu_count() or 1, len(names))
    logs = ROOT / ".cache" / "side_by_side"
    logs.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    running = []
    for number in range(shares):
        log = logs / f"{sys.argv[1]}-{number}.log"
        environment = dict(os.environ, KVMOPS_COPY=f"copy-{number}")
        command = [sys.executable, str(TOOLS / "with_hypervisor.py"), sys.executable, str(TOOLS / tool), *options]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command, *names[number::shares]],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        running.append((process, log))
    failed = 0
    for process, log in running:
        failed += bool(process.wait())
        print(log.read_text(encoding="utf-8", errors="replace"), flush=True)
    print(f"{sys.argv[1]}: {', '.join(names)}: {failed} of {shares} processes failed, {time.monotonic() - began:.0f} s")
    sys.exit(1 if failed or not names else 0)


if __name__ == "__main__":
    main()
