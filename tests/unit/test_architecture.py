# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The house has floors, which are folders, and each wing stages, which are the first words of its files' names.

A folder imports only from floors below its own, a file of a wing only from stages before its own, and each outside
world has one door. A wing is a folder named after its module, and stands on the top floor.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PLUGINS = ROOT / "plugins"
HOUSE = PLUGINS / "module_utils"
LIBRARY = "ansible_collections.kvmops.disk.plugins.module_utils"

GROUND = ""  # the files beside the folders
FLOORS = (
    {GROUND},
    {"_host", "_qemu", "_formats", "_xml", "_libvirt"},
    {"_files", "_image"},
    {"_usage", "_recovery"},
    {"_backup", "_capacity"},
    {"_content"},
    {"_domain"},
    {"_task"},
    {"_provision"},
)
STAGES = ("wish", "decision", "leftovers", "survey", "work", "result", "task")

# The way into each outside world, and what else reaches it without one.
DOORS = {"libvirt": "_libvirt/binding", "lxml": "_xml/document", "subprocess": "_qemu/process"}
PURE = {"wish", "decision"}
OUTSIDE = {"_host", "_qemu", "_libvirt"}
TOUCHES = {
    "exists",
    "lexists",
    "isfile",
    "isdir",
    "islink",
    "ismount",
    "realpath",
    "samefile",
    "getsize",
    "getmtime",
} | {
    *("stat", "lstat", "open", "access", "listdir", "scandir", "walk", "readlink", "unlink", "remove", "rename"),
    *("link", "replace", "symlink", "mkdir", "makedirs", "rmdir", "chmod", "chown", "statvfs", "utime"),
}

MODULES = sorted(path.stem for path in (PLUGINS / "modules").glob("*.py"))
WINGS = {f"_{name}" for name in MODULES}
FLOOR_OF = {name: number for number, names in enumerate((*FLOORS, WINGS)) for name in names}
LIBRARY_FILES = sorted(HOUSE.rglob("*.py"))
WING_FILES = [path for path in LIBRARY_FILES if path.parent.name in WINGS]
PLUGIN_FILES = sorted(PLUGINS.rglob("*.py"))
PYTHON_FILES = sorted([*PLUGIN_FILES, *(ROOT / "tests").rglob("*.py")])


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def room(path: Path) -> str:
    """The folder that a library file stands in."""
    return str(path.parent.relative_to(HOUSE)) if path.parent != HOUSE else GROUND


def stage(path: Path) -> str:
    return path.stem.split("_")[0]


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path) -> Iterator[str]:
    """Dotted names of what a file imports; for `from x import y` both x and x.y."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{relative(path)} imports by a relative name"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def library_imports(path: Path) -> set[Path]:
    """The library files that a file imports."""
    prefix = LIBRARY + "."
    names = {name[len(prefix) :].replace(".", "/") for name in imports(path) if name.startswith(prefix)}
    return {file for name in names if (file := HOUSE / f"{name}.py").is_file()}


def touched(path: Path) -> set[str]:
    """What a file calls that looks at the file system or changes it."""
    calls = [node.func for node in ast.walk(tree(path)) if isinstance(node, ast.Call)]
    of_os = {
        call.attr
        for call in calls
        if isinstance(call, ast.Attribute) and ast.unparse(call.value) in ("os", "os.path", "shutil", "glob")
    }
    return (of_os & TOUCHES) | {call.id for call in calls if isinstance(call, ast.Name) and call.id == "open"}


def test_there_is_something_to_check() -> None:
    assert LIBRARY_FILES
    assert WING_FILES


def test_every_module_has_a_wing_with_a_task() -> None:
    assert [name for name in MODULES if not list((HOUSE / f"_{name}").glob("task*.py"))] == []


@pytest.mark.parametrize("path", LIBRARY_FILES, ids=relative)
def test_a_library_file_stands_in_a_room_of_the_house(path: Path) -> None:
    assert room(path) in FLOOR_OF, f"{room(path)} is neither a floor nor the wing of a module"
    assert room(path) != GROUND or path.name.startswith("_"), "what is in module_utils is private"


@pytest.mark.parametrize("path", LIBRARY_FILES, ids=relative)
def test_a_library_file_imports_only_from_floors_below(path: Path) -> None:
    here = FLOOR_OF[room(path)]
    wrong = {one for one in library_imports(path) if room(one) != room(path) and FLOOR_OF[room(one)] >= here}
    assert not wrong, f"{relative(path)} must not import {', '.join(sorted(map(relative, wrong)))}"


@pytest.mark.parametrize("path", WING_FILES, ids=relative)
def test_a_file_of_a_wing_has_a_stage_and_imports_only_from_earlier_ones(path: Path) -> None:
    assert stage(path) in STAGES, f"{stage(path)} is no stage of a wing"
    here = STAGES.index(stage(path))
    wrong = {one for one in library_imports(path) if room(one) == room(path) and STAGES.index(stage(one)) > here}
    assert not wrong, f"{relative(path)} must not import {', '.join(sorted(map(relative, wrong)))}"


@pytest.mark.parametrize("path", [path for path in WING_FILES if stage(path) in PURE], ids=relative)
def test_a_wish_and_a_decision_look_at_nothing(path: Path) -> None:
    assert {relative(one) for one in library_imports(path) if room(one) in OUTSIDE} == set(), "it imports a door"
    assert touched(path) == set(), "it touches the file system"


def test_there_is_no_circle() -> None:
    TopologicalSorter({path: library_imports(path) for path in LIBRARY_FILES}).prepare()


@pytest.mark.parametrize("path", PLUGIN_FILES, ids=relative)
def test_each_outside_world_has_one_door(path: Path) -> None:
    worlds = {name.split(".")[0] for name in imports(path)}
    wrong = {world for world, door in DOORS.items() if world in worlds and path != HOUSE / f"{door}.py"}
    assert not wrong, f"{relative(path)} must go through " + ", ".join(f"{DOORS[world]}.py" for world in wrong)


@pytest.mark.parametrize("path", LIBRARY_FILES, ids=relative)
def test_a_data_class_of_the_library_is_a_cheap_one(path: Path) -> None:
    assert path == HOUSE / "_dataclass.py" or "dataclasses" not in imports(path), "import them from _dataclass.py"


@pytest.mark.parametrize("path", PYTHON_FILES, ids=relative)
def test_a_python_file_says_whose_it_is(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    head = text[:600]
    assert not text or "SPDX-License-Identifier: GPL-3.0-or-later" in head
    assert not text or "Copyright: kvmops.disk contributors" in head.replace("Copyright (c) ", "Copyright: ")


def test_the_picture_of_the_house_is_true() -> None:
    drawing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("```mermaid", 1)[1].split("```", 1)[0]
    drawn = [set(re.findall(r"^\s+(_\w+)\[", floor, re.MULTILINE)) for floor in drawing.split("subgraph")[1:]]
    assert drawn == [set(), *FLOORS[1:], set()]
    stairs = " --> ".join(["ground", *(f"floor{number}" for number in range(1, len(drawn)))])
    assert re.findall(r"\w+ --> .*", drawing) == [stairs]


def test_every_module_is_in_the_action_group() -> None:
    runtime = yaml.safe_load((ROOT / "meta" / "runtime.yml").read_text(encoding="utf-8"))
    assert sorted(runtime["action_groups"]["all"]) == MODULES


def test_every_module_has_an_integration_target() -> None:
    targets = ROOT / "tests" / "integration" / "targets"
    assert [name for name in MODULES if not (targets / name / "tasks" / "main.yml").is_file()] == []
