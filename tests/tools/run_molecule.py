# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the Molecule scenarios, one for each role; by their names, or all of them.

    python tests/tools/run_molecule.py [SCENARIO…]

Each runs beside a private hypervisor of its own (with_hypervisor.py), and knows nothing of an earlier run. Molecule
reports success also when no host matched and nothing ran. Here a scenario has passed only when the recap of its
verification counts tasks that were ok.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WITH_HYPERVISOR = [sys.executable, str(Path(__file__).with_name("with_hypervisor.py"))]
SCENARIOS = ROOT / "extensions" / "molecule"
NOTHING_MATCHED = ("no hosts matched", "Could not match supplied host pattern")


def main() -> None:
    scenarios = sys.argv[1:] or sorted(path.parent.name for path in SCENARIOS.glob("*/molecule.yml"))
    without = {path.name for path in (ROOT / "roles").iterdir()} - {path.name for path in SCENARIOS.iterdir()}
    if without:
        sys.exit(f"roles without a scenario: {', '.join(sorted(without))}")
    verified = {scenario: tasks_verified(scenario) for scenario in scenarios}
    for scenario, tasks in verified.items():
        print(f"{scenario}: {tasks} tasks verified" if tasks else f"{scenario}: FAILED")
    if not verified or not all(verified.values()):
        sys.exit(1)
    print(f"{len(verified)} scenarios passed")


def tasks_verified(scenario: str) -> int:
    """How many tasks of the scenario's verification were ok; 0 when anything in the scenario went wrong."""
    lines = []
    with tempfile.TemporaryDirectory(prefix="kvmops-molecule-") as memory:
        environment = dict(
            os.environ, NO_COLOR="1", ANSIBLE_NOCOLOR="1", COLUMNS="160", MOLECULE_EPHEMERAL_DIRECTORY=memory
        )
        with subprocess.Popen(
            [*WITH_HYPERVISOR, "molecule", "test", "--destroy", "never", "--scenario-name", scenario],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            for line in process.stdout or ():
                print(line, end="", flush=True)
                lines.append(line)
    output = "".join(lines)
    if process.returncode or any(words in output for words in NOTHING_MATCHED):
        return 0
    _converged, verify_began, verification = output.rpartition("verify] Executing")
    return sum(int(count) for count in re.findall(r"\bok=(\d+)", verification)) if verify_began else 0


if __name__ == "__main__":
    main()
