# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs ansible-test's integration targets, or Molecule's scenarios, in one process more than the machine has cores.

    python tests/tools/side_by_side.py integration|molecule

Each process has a private hypervisor and, for ansible-test, a copy of the collection of its own, and a share of the
work by the length of what is to be played. One of them more, because each waits for guests now and then. What it says
is printed when it has ended.
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
    names = {path.parent.name: length(path.parent) for path in sorted(ROOT.glob(pattern))}
    shares = shared_out(
        {name: size for name, size in names.items() if not name.startswith("setup_")}, (os.cpu_count() or 1) + 1
    )
    logs = ROOT / ".cache" / "side_by_side"
    logs.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    running = []
    for number, share in enumerate(shares):
        log = logs / f"{sys.argv[1]}-{number}.log"
        environment = dict(os.environ, KVMOPS_COPY=f"copy-{number}")
        command = [sys.executable, str(TOOLS / "with_hypervisor.py"), sys.executable, str(TOOLS / tool), *options]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command, *share],
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
    done = ", ".join(name for share in shares for name in share)
    print(f"{sys.argv[1]}: {done}: {failed} of {len(shares)} processes failed, {time.monotonic() - began:.0f} s")
    sys.exit(1 if failed or not shares else 0)


def length(directory: Path) -> int:
    """The bytes of what is played: a measure of how long it takes."""
    return sum(path.stat().st_size for path in directory.rglob("*.yml"))


def shared_out(lengths: dict[str, int], number: int) -> list[list[str]]:
    """The names in NUMBER shares of much the same length, or in fewer: the longest first, always to whom has least."""
    shares: list[list[str]] = [[] for _share in range(number)]
    for name in sorted(lengths, key=lambda name: -lengths[name]):
        min(shares, key=lambda share: sum(lengths[one] for one in share)).append(name)
    return [share for share in shares if share]


if __name__ == "__main__":
    main()
