# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs several things at once, each with a copy of the collection of its own; prints what each said when it has ended.

    python tests/tools/side_by_side.py sanity|integration|molecule
    python tests/tools/side_by_side.py make TARGET…

ansible-test's integration targets, or Molecule's scenarios, are shared out by the length of what is to be played, among
one process more than the machine has cores, because each waits for guests now and then. Each has a private hypervisor.
Of ansible-test's sanity tests, pylint lasts as long as all others together.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TOOLS = Path(__file__).parent
SANITY = ["run_ansible_test.py", "sanity"]
WHAT = {
    "integration": (
        "tests/integration/targets/*/aliases",
        ["with_hypervisor.py", sys.executable, str(TOOLS / "run_ansible_test.py"), "integration"],
    ),
    "molecule": ("extensions/molecule/*/molecule.yml", ["run_molecule.py"]),
}


def main() -> None:
    what, *targets = sys.argv[1:]
    commands = commands_of(what, targets)
    report, failed = [], 0
    with ThreadPoolExecutor(len(commands) or 1) as pool:
        running = [pool.submit(run, f"{what}-{number}", command) for number, command in enumerate(commands)]
        for command, future in zip(commands, running):
            status, seconds, log = future.result()
            print(log.read_text(encoding="utf-8", errors="replace"), flush=True)
            report.append(f"{seconds:6.0f} s  {title(command)}{' FAILED' if status else ''}")
            failed += bool(status)
    print("\n".join(report))
    print(f"{what}: {failed} of {len(commands)} processes failed")
    sys.exit(1 if failed or not commands else 0)


def run(name: str, command: list[str]) -> tuple[int, float, Path]:
    """The exit status of COMMAND, how long it took (seconds), and what it said; NAME is for its copy and its log."""
    log = ROOT / ".cache" / "side_by_side" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with log.open("wb") as output:
        status = subprocess.run(
            command,
            cwd=ROOT,
            env=dict(os.environ, KVMOPS_COPY=name),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        ).returncode
    return status, time.monotonic() - began, log


def title(command: list[str]) -> str:
    return shlex.join(word for word in command if not Path(word).is_absolute() and not word.startswith("--no-print"))


def commands_of(what: str, targets: list[str]) -> list[list[str]]:
    """What is to be run at once."""
    if what == "make":
        return [["make", "--no-print-directory", target] for target in targets]
    if what == "sanity":
        return [tool(*SANITY, "--test", "pylint"), tool(*SANITY, "--skip-test", "pylint")]
    return shares_of(what)


def tool(name: str, *arguments: str) -> list[str]:
    return [sys.executable, str(TOOLS / name), *arguments]


def shares_of(what: str) -> list[list[str]]:
    """The commands that together play all that there is."""
    pattern, command = WHAT[what]
    directories = [path.parent for path in sorted(ROOT.glob(pattern))]
    lengths = {path.name: length(path) for path in directories if not path.name.startswith("setup_")}
    return [tool(*command, *share) for share in shared_out(lengths, (os.cpu_count() or 1) + 1)]


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
