# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs playbooks on whole hosts, and prints a table of what became of them. See README.md.

python -m hosts [--hosts NAME,…] [--playbooks NAME,…] [--cuts NUMBER] [--seed NUMBER]
"""

from __future__ import annotations

import argparse
import secrets
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from lab.namespaces import LabError

from hosts.chapters import all_names, chapters_for
from hosts.image import host_image
from hosts.kinds import Kind, all_kinds, chosen
from hosts.machine import Machine
from hosts.table import Row, table
from hosts.trial import Choice, Trial

_OUTPUT = Path(__file__).resolve().parents[1] / "output" / "hosts"


def main() -> int:
    kinds, choice = _asked(sys.argv[1:])
    print(f"seed {choice.seed}", flush=True)
    rows = [row for kind in kinds for row in _rows(kind, choice)]
    print(table(rows))
    return 0 if rows and all(row.is_good for row in rows) else 1


def _asked(words: Sequence[str]) -> tuple[list[Kind], Choice]:
    parser = argparse.ArgumentParser(prog="python -m hosts", description="Runs playbooks on whole hosts.")
    parser.add_argument("--hosts", type=_names, default=(), help=f"of {', '.join(all_kinds())}")
    parser.add_argument("--playbooks", type=_names, default=(), help=f"of {', '.join(all_names())}")
    parser.add_argument("--cuts", type=int, default=2, help="power cuts that each playbook has to survive")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 31), help="of the instants of the cuts")
    asked = parser.parse_args(words)
    for given, known in ((asked.hosts, all_kinds()), (asked.playbooks, all_names())):
        for name in given:
            if name not in known:
                parser.error(f"{name}: there are {', '.join(known)}")
    return chosen(asked.hosts), Choice(asked.playbooks, asked.cuts, asked.seed)


def _names(text: str) -> tuple[str, ...]:
    return tuple(filter(None, text.replace(",", " ").split()))


def _rows(kind: Kind, choice: Choice) -> list[Row]:
    """What became of the chosen playbooks on a host of this kind."""
    chapters = chapters_for(kind, choice.playbooks)
    if not chapters:
        return []
    began = time.monotonic()

    def tell(what: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {kind.name}: {what}", flush=True)

    output = _OUTPUT / kind.name
    output.mkdir(parents=True, exist_ok=True)
    tell("is built, unless the cache has it")
    image = host_image(kind)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="kvmops-hosts-") as directory:
        tell("boots")
        try:
            with Machine(kind, image, Path(directory)) as machine:
                trial = Trial(machine, output, choice, tell)
                for chapter in chapters:
                    for row in trial.rows(chapter):
                        tell("; ".join((" ".join(row.cells()[1:]), *row.faults)))
                        rows.append(row)
        except LabError as problem:
            rows.append(Row(kind.name, "the host itself", faults=(str(problem),)))
    return rows


if __name__ == "__main__":
    sys.exit(main())
