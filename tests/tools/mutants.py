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
    """The function NAME of a file of the library, and what it returns once it guards nothing.

    Who is to notice: the TESTS of some files, of which those run that have ONLY in their names, by the rules of pytest.
    """

    file: str
    name: str
    instead: str
    tests: str
    only: str = ""


STATE, STAGING, LOCK = (f"tests/unit/_files/test_{name}.py" for name in ("state", "staging", "lock"))
PROCESS = "tests/unit/_qemu/test_process.py"
PLANTED, EXCHANGED = "tests/integration/test_other_users.py", "tests/faults/test_other_users.py"
METADATA = "tests/integration/test_planted_metadata.py"
DESCRIBED, EXTENTS, REBASED = (
    f"tests/integration/test_{name}.py" for name in ("qcow2_image_info", "qcow2_convert_extents", "qcow2_image_rebase")
)
USED, UNRESOLVED, ASKED = (
    f"tests/integration/test_{name}.py" for name in ("qcow2_image_users", "unresolved_volumes", "asked_libvirts")
)
CUT, FOREIGN = (f"tests/integration/test_{name}.py" for name in ("cut_images", "unread_content"))
ALIGNED, BACK, FIGURES = (
    f"tests/integration/test_{name}.py" for name in ("alignment", "way_back_from_a_shutdown", "figures")
)
GUARDS = (
    # What others plant.
    Guard("_files/state.py", "_require_ours", "None", STATE),
    Guard("_files/state.py", "_require_owner", "None", STATE),
    Guard("_files/state.py", "require_own_directory", "None", f"{STATE} {STAGING}"),
    Guard("_files/state.py", "content", "os.pread(descriptor, 2 * LONGEST, 0)", STATE),
    Guard("_files/state.py", "parsed", "json.loads(written)", STATE),
    Guard("_files/state.py", "is_name", "isinstance(value, str)", STATE),
    Guard("_files/state.py", "is_identity", "isinstance(value, list)", STATE),
    Guard("_files/record.py", "_by_name", "lambda value: isinstance(value, dict)", STATE),
    Guard("_files/record.py", "_each", "lambda value: isinstance(value, list)", STATE),
    Guard("_files/stage.py", "_inside", "outer.join(_inner_name(outer.status()))", STAGING),
    Guard("_files/same_file.py", "is_file", "os.path.lexists(path)", STAGING),
    Guard("_files/rest.py", "lay_to_rest", "os.chmod(path, wanted[2])", PLANTED, "gives_no_rights"),
    Guard("_files/file_set.py", "_are_files", "True", "tests/unit/_files/test_file_set.py"),
    Guard("_files/lock.py", "_same_file", "True", LOCK),
    Guard("_files/lock.py", "_require_time", "None", LOCK, "for_ever"),
    Guard("_recovery/traces.py", "_require_confirmed", "None", METADATA, "no_run_noted"),
    Guard("_xml/records.py", "_require_sound", "None", METADATA, "nobody_can_read"),
    # What others exchange.
    Guard("_host/strangers.py", "foreign_link", "None", PLANTED, "link_of_another_user"),
    Guard("_host/strangers.py", "open_directory", "None", PLANTED, "second_name"),
    Guard("_task/places.py", "_require_own_links", "None", PLANTED, "link_of_another_user"),
    Guard("_task/places.py", "_require_one_name", "None", PLANTED, "second_name"),
    Guard(
        "_task/places.py",
        "_shield",
        "None",
        EXCHANGED,
        "any_system_call and qcow2_image and not flattens and not removes",
    ),
    Guard("_task/places.py", "require_nobody_elses", "None", METADATA, "fills_no_new_image"),
    Guard("_task/writers.py", "_Found.is_somebody_elses", "False", EXCHANGED, "comes_to_refer"),
    Guard("_task/writers.py", "_owner_of_all", "None", EXCHANGED, "several_users"),
    Guard("_image/graph.py", "following", "qemu_img", EXCHANGED, "looked_at"),
    Guard("_image/graph.py", "require_unmoved", "None", EXCHANGED, "after_the_look"),
    Guard("_image/graph.py", "require_same_references", "None", EXCHANGED, "flattened and data_file and mkdir"),
    Guard("_text.py", "visible", "text", PLANTED, "no_terminal"),
    Guard("_qemu/process.py", "_limitation", "lambda: None", PROCESS, "no_more_time"),
    Guard("_qemu/process.py", "_Watch.look", "None", PROCESS, "moves_nothing"),
    # Who uses an image, and who reads it.
    Guard("_usage/unused.py", "require_unused", "None", USED, "running_guest"),
    Guard("_usage/unused.py", "require_resolved", "None", UNRESOLVED, "may_be_the_one"),
    Guard("_usage/dependents.py", "require_none", "None", "tests/unit/_usage"),
    Guard("_task/surroundings.py", "Surroundings.require_libvirts", "self._libvirts()", ASKED, "mistyped"),
    Guard("_task/still.py", "require_unlocked", "None", EXTENTS, "extents_are_removed_with_their_image_and"),
    # What an image refers to, claims, or lacks.
    Guard("_image/trust.py", "Trust.require_harmless", "None", "tests/unit/_image/test_trust.py"),
    Guard("_image/trust.py", "Trust.require_believable", "None", "tests/unit/_image/test_trust.py"),
    Guard("_domain/disk_chain.py", "require_known_references", "None", "tests/unit/_domain/test_disk_chain.py"),
    Guard("_domain/disk_chain.py", "require_same_chain", "None", "tests/unit/_domain/test_disk_chain.py"),
    Guard("_image/whole.py", "require_whole", "None", CUT, "any_layer or wherever"),
    Guard("_formats/unread.py", "require_nothing_unread", "None", "tests/unit/_formats/test_unread.py"),
    Guard("_formats/unread.py", "require_true_size", "None", "tests/unit/_formats/test_unread.py"),
    Guard("_image/foreign.py", "require_replayed", "None", FOREIGN, "not_closed"),
    Guard("_image/foreign.py", "_require_own_extents", "None", DESCRIBED, "vmdk"),
    # What cannot be undone, or would not work in the end.
    Guard("_image/alignment.py", "require_openable", "None", ALIGNED, "raw_disk_is_only"),
    Guard("_domain/start.py", "require_startable", "None", BACK, "stays_on"),
    Guard("_domain/ready.py", "require_return", "None", BACK, "stays_on or gains"),
    Guard("_domain/ready.py", "require_plugged_in", "None", BACK, "only_the_definition"),
    Guard("_capacity/space.py", "require_length", "None", FIGURES, "no_file_can_hold"),
    Guard("_capacity/space.py", "require_space", "None", REBASED, "space_is_measured"),
    Guard("_host/access.py", "require_writable_by_qemu", "None", "tests/unit/_host/test_access.py"),
    Guard("_recovery/settle.py", "require_whole", "None", "tests/unit/_recovery/test_settle.py"),
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
        command = [sys.executable, "-m", "pytest", "-x", "--quiet", *guard.tests.split(), "-k", guard.only]
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
