# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Takes the guards of the library out, one at a time, and names the test that notices.

    python tests/tools/mutants.py [GUARD…]

Each guard is a function. In a copy of this checkout its body becomes one that guards nothing, and those tests run that
are to notice it. A guard that no test notices makes this fail, and so does one that the library has no more.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
COPY = ROOT / ".cache" / "mutants"
LIBRARY = Path("plugins") / "module_utils"


class Guard(NamedTuple):
    """The function NAME of a file of the library, what it returns once it guards nothing, and who is to notice."""

    file: str
    name: str
    instead: str
    tests: str


STATE, PLANTED = "tests/unit/_files/test_state.py", "tests/integration/test_other_users.py"
EXCHANGED, METADATA = "tests/faults/test_other_users.py", "tests/integration/test_planted_metadata.py"
GUARDS = (
    # What others plant or exchange.
    Guard("_files/state.py", "_require_ours", "None", STATE),
    Guard("_files/state.py", "_require_owner", "None", STATE),
    Guard("_files/state.py", "has_directory", "os.path.isdir(name)", f"{STATE} {PLANTED}"),
    Guard("_files/record.py", "_by_name", "lambda value: isinstance(value, dict)", STATE),
    Guard("_recovery/traces.py", "_require_confirmed", "None", METADATA),
    Guard("_xml/records.py", "_require_sound", "None", METADATA),
    Guard("_task/places.py", "_require_own_links", "None", PLANTED),
    Guard("_task/places.py", "_require_one_name", "None", PLANTED),
    Guard("_task/places.py", "_shield", "None", EXCHANGED),
    Guard("_task/places.py", "require_nobody_elses", "None", METADATA),
    Guard("_task/writers.py", "_Found.is_somebody_elses", "False", EXCHANGED),
    Guard("_task/writers.py", "_owner_of_all", "None", EXCHANGED),
    Guard("_image/graph.py", "following", "qemu_img", EXCHANGED),
    Guard("_text.py", "visible", "text", PLANTED),
    # Who uses an image, and who reads it.
    Guard("_usage/unused.py", "require_unused", "None", "tests/integration/test_qcow2_image_users.py"),
    Guard("_usage/dependents.py", "require_none", "None", "tests/unit/_usage tests/integration/test_base_images.py"),
    # What an image refers to, claims, or lacks.
    Guard("_image/trust.py", "Trust.require_harmless", "None", "tests/integration/test_hostile_images.py"),
    Guard("_image/trust.py", "Trust.require_believable", "None", "tests/integration/test_hostile_images.py"),
    Guard("_image/whole.py", "require_whole", "None", "tests/integration/test_cut_images.py"),
    Guard("_formats/unread.py", "require_nothing_unread", "None", "tests/unit/_formats/test_unread.py"),
)


def main() -> None:
    wanted = sys.argv[1:]
    guards = [guard for guard in GUARDS if not wanted or guard.name in wanted]
    copy_checkout()
    unnoticed = 0
    for guard in guards:
        noticed_by = without(guard)
        unnoticed += noticed_by is None
        print(f"{guard.file} {guard.name}: {noticed_by or 'NO TEST NOTICES'}", flush=True)
    print(f"mutants: {unnoticed} of {len(guards)} guards are not noticed")
    sys.exit(1 if unnoticed or not guards else 0)


def copy_checkout() -> None:
    """All files that Git knows, or would, with the tools of this checkout."""
    shutil.rmtree(COPY, ignore_errors=True)
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    for name in filter(None, os.fsdecode(listed).split("\0")):
        target = COPY / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target, follow_symlinks=False)


def without(guard: Guard) -> str | None:
    """The first test that fails where GUARD guards nothing; None where all pass."""
    path = COPY / LIBRARY / guard.file
    whole = path.read_text(encoding="utf-8")
    path.write_text(taken_out(whole, guard), encoding="utf-8")
    try:
        command = [sys.executable, "-m", "pytest", "-x", "--quiet", *guard.tests.split()]
        environment = {**os.environ, "ANSIBLE_CONFIG": str(COPY / "ansible.cfg")}
        done = subprocess.run(command, cwd=COPY, env=environment, capture_output=True, text=True, check=False)
    finally:
        path.write_text(whole, encoding="utf-8")
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    if failed is None and done.returncode:
        raise RuntimeError(f"{guard.name}: the tests did not run: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return failed[1] if failed else None


def taken_out(source: str, guard: Guard) -> str:
    """SOURCE with the function of GUARD as one that guards nothing."""
    found: ast.AST = ast.parse(source)
    for name in guard.name.split("."):
        children = [node for node in ast.iter_child_nodes(found) if getattr(node, "name", None) == name]
        if not children:
            raise LookupError(f"{guard.file} has no {guard.name}")
        found = children[-1]
    if not isinstance(found, ast.FunctionDef):
        raise LookupError(f"{guard.file}: {guard.name} is no function")
    first, last = found.body[0], found.body[-1]
    lines = source.splitlines(keepends=True)
    indent = " " * first.col_offset
    return "".join([*lines[: first.lineno - 1], f"{indent}return {guard.instead}\n", *lines[last.end_lineno :]])


if __name__ == "__main__":
    main()
