# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The house has floors, and each outside world one door. A new file of module_utils gets its place here."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PLUGINS = ROOT / "plugins"
LIBRARY = "ansible_collections.kvmops.disk.plugins.module_utils"

FLOORS = (
    {"_block_nodes", "_errors", "_file_copy", "_parallel", "_ranges", "_size"},
    {
        *("_clone_xml", "_domain_identity", "_domain_xml", "_record_xml", "_snapshot_xml", "_xml"),
        *("_libvirt", "_libvirt_binding", "_libvirt_domain"),
        *("_formats", "_mapping", "_mounts", "_process", "_progress", "_qcow2", "_qcow2_bitmaps", "_qemu_img"),
        *("_extents", "_qemu_img_keys", "_qemu_img_run", "_qemu_nbd", "_references", "_secrets"),
    },
    {
        *("_base", "_block_device", "_block_job", "_capacity", "_dependents", "_domain", "_file_set", "_image"),
        "_layout",
        *("_leftovers", "_lock", "_passage", "_promises", "_staging", "_ties", "_usage"),
    },
    {
        *("_clone", "_clone_existing", "_clone_facts", "_clone_keep", "_clone_make", "_clone_rebase"),
        *("_clone_remove", "_clone_seed"),
        *("_changeable", "_clone_source", "_clone_survey", "_disk_chain", "_hands"),
        *("_bitmaps", "_commit", "_convert", "_create", "_live", "_offline", "_plan"),
        *("_reconcile", "_records", "_recover", "_remove", "_shutdown"),
        *("_encrypting", "_encryption", "_exchange", "_rebase", "_rebase_survey", "_rebasing"),
        *("_flatten", "_flatten_left", "_flatten_live", "_flatten_offline", "_flatten_survey"),
        *("_vm_snapshot", "_vm_snapshot_left", "_vm_snapshot_merge", "_vm_snapshot_removal"),
        *("_vm_snapshot_revert", "_vm_snapshot_survey", "_vm_snapshot_take"),
        *("_image_convert", "_repair", "_resize", "_snapshots", "_survey", "_transcode", "_trust", "_unfinished"),
    },
    {"_module"},
    {"_clone_wish", "_in_place", "_several"},
    {
        *("_checked_image", "_comparison", "_domain_clone", "_domain_conversion", "_domain_flatten", "_domain_resize"),
        *("_described_images", "_domain_rebase", "_domain_snapshots", "_domain_task", "_domain_unclone"),
        "_image_conversion",
        *(
            "_commit_survey",
            "_managed_bitmaps",
            "_managed_commit",
            "_managed_image",
            "_managed_snapshots",
            "_storage",
            "_surroundings",
        ),
    },
)

# Who may use whom on the same floor; everybody else looks only down.
NEIGHBOURS = {
    "_file_copy": {"_errors"},
    "_size": {"_errors"},
    "_capacity": {"_lock", "_promises", "_usage"},
    "_clone_xml": {"_domain_identity", "_domain_xml", "_record_xml", "_xml"},
    "_domain_identity": {"_xml"},
    "_domain_xml": {"_xml"},
    "_libvirt": {"_libvirt_binding", "_libvirt_domain"},
    "_libvirt_domain": {"_libvirt_binding"},
    "_record_xml": {"_xml"},
    "_snapshot_xml": {"_domain_xml", "_xml"},
    "_formats": {"_qcow2"},
    "_qemu_img": {"_qemu_img_keys", "_qemu_img_run", "_qemu_nbd", "_secrets"},
    "_qemu_img_keys": {"_qemu_img_run", "_secrets"},
    "_qemu_img_run": {"_process", "_secrets"},
    "_qemu_nbd": {"_process"},
    "_references": {"_formats", "_qcow2"},
    "_base": {"_lock", "_staging"},
    "_block_job": {"_capacity"},
    "_dependents": {"_base", "_usage"},
    "_domain": {"_usage"},
    "_file_set": {"_base", "_staging"},
    "_layout": {"_image"},
    "_leftovers": {"_file_set", "_lock", "_staging"},
    "_mapping": {"_qcow2"},
    "_qcow2_bitmaps": {"_formats", "_qcow2"},
    "_promises": {"_base", "_image", "_usage"},
    "_staging": {"_lock"},
    "_ties": {"_base", "_lock"},
    "_usage": {"_image"},
    "_bitmaps": {"_plan"},
    "_commit": {"_plan", "_trust"},
    "_clone_existing": {"_clone", "_clone_source"},
    "_clone_facts": {"_clone_existing", "_clone_make", "_clone_seed", "_clone_source"},
    "_clone_keep": {"_clone", "_clone_existing", "_clone_seed", "_plan"},
    "_clone_make": {"_clone", "_clone_source", "_create", "_plan", "_records", "_transcode"},
    "_clone_rebase": {"_clone", "_clone_source", "_create", "_rebase"},
    "_clone_remove": {"_clone_existing", "_plan"},
    "_clone_source": {"_clone", "_create"},
    "_clone_survey": {"_clone", "_clone_make", "_clone_source", "_create", "_disk_chain"},
    "_convert": {"_changeable", "_transcode"},
    "_create": {"_encryption", "_plan"},
    "_disk_chain": {"_trust"},
    "_encrypting": {"_encryption", "_plan"},
    "_flatten": {"_changeable", "_disk_chain"},
    "_flatten_left": {"_flatten", "_plan", "_records"},
    "_flatten_live": {"_flatten", "_flatten_left", "_hands", "_plan"},
    "_flatten_offline": {"_create", "_exchange", "_flatten", "_flatten_live", "_hands", "_plan", "_records"},
    "_flatten_survey": {"_disk_chain", "_flatten"},
    "_hands": {"_records"},
    "_image_convert": {"_create", "_encryption", "_transcode", "_trust"},
    "_live": {"_convert", "_create", "_hands", "_plan", "_records"},
    "_offline": {"_convert", "_hands", "_plan", "_records", "_shutdown", "_transcode"},
    "_rebase": {"_create"},
    "_rebase_survey": {"_create", "_encrypting", "_rebase"},
    "_rebasing": {"_encryption", "_exchange", "_plan", "_rebase"},
    "_reconcile": {"_create", "_encryption", "_plan"},
    "_records": {"_plan"},
    "_recover": {"_plan", "_repair"},
    "_remove": {"_plan"},
    "_repair": {"_plan"},
    "_resize": {"_plan"},
    "_transcode": {"_create", "_encryption"},
    "_snapshots": {"_plan", "_trust"},
    "_survey": {"_convert", "_create", "_disk_chain"},
    "_shutdown": {"_records"},
    "_unfinished": {"_convert", "_plan", "_records", "_shutdown"},
    "_vm_snapshot": {"_changeable"},
    "_vm_snapshot_left": {"_plan", "_records", "_vm_snapshot", "_vm_snapshot_merge"},
    "_vm_snapshot_merge": {"_hands", "_plan", "_vm_snapshot", "_vm_snapshot_removal"},
    "_vm_snapshot_removal": {"_vm_snapshot"},
    "_vm_snapshot_revert": {"_plan", "_records", "_vm_snapshot", "_vm_snapshot_left"},
    "_vm_snapshot_survey": {"_commit", "_trust", "_vm_snapshot", "_vm_snapshot_left", "_vm_snapshot_removal"},
    "_vm_snapshot_take": {"_hands", "_plan", "_records", "_vm_snapshot"},
    "_comparison": {"_surroundings"},
    "_domain_conversion": {"_domain_task"},
    "_domain_flatten": {"_domain_task"},
    "_domain_snapshots": {"_domain_task"},
    "_described_images": {"_surroundings"},
    "_domain_clone": {"_surroundings"},
    "_domain_rebase": {"_surroundings"},
    "_managed_commit": {"_commit_survey"},
    "_image_conversion": {"_surroundings"},
}

DOORS = {"libvirt": "_libvirt_binding", "lxml": "_xml", "subprocess": "_process"}

FLOOR_OF = {name: number for number, names in enumerate(FLOORS) for name in names}
LIBRARY_FILES = sorted((PLUGINS / "module_utils").rglob("*.py"))
PLUGIN_FILES = sorted(PLUGINS.rglob("*.py"))
PYTHON_FILES = sorted([*PLUGIN_FILES, *(ROOT / "tests").rglob("*.py")])
MODULES = sorted(path.stem for path in (PLUGINS / "modules").glob("*.py"))


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(path: Path) -> Iterator[str]:
    """Dotted names of what a file imports; for `from x import y` both x and x.y."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = f"{LIBRARY}{'.' + node.module if node.module else ''}" if node.level else str(node.module)
            yield source
            yield from (f"{source}.{alias.name}" for alias in node.names)


def library_imports(path: Path) -> set[str]:
    """Names of the module_utils files that a file imports."""
    prefix = LIBRARY + "."
    found = {name[len(prefix) :].split(".")[0] for name in imports(path) if name.startswith(prefix)}
    return {name for name in found if (PLUGINS / "module_utils" / f"{name}.py").exists()}


def test_there_is_something_to_check() -> None:
    assert LIBRARY_FILES


@pytest.mark.parametrize("path", LIBRARY_FILES, ids=relative)
def test_a_library_file_has_a_floor_and_is_private(path: Path) -> None:
    assert path.name.startswith("_"), "what is in module_utils is private: its name starts with _"
    assert path.stem in FLOOR_OF, f"{path.stem} has no floor: add it to FLOORS"


@pytest.mark.parametrize("path", LIBRARY_FILES, ids=relative)
def test_a_library_file_imports_only_from_floors_below(path: Path) -> None:
    here = path.stem
    below = {name for names in FLOORS[: FLOOR_OF.get(here, 0)] for name in names}
    wrong = library_imports(path) - below - NEIGHBOURS.get(here, set())
    assert not wrong, f"{here} must not import {', '.join(sorted(wrong))}"


def test_neighbours_share_a_floor_and_lean_one_way() -> None:
    assert all(FLOOR_OF[user] == FLOOR_OF[one] for user, used in NEIGHBOURS.items() for one in used)
    TopologicalSorter(NEIGHBOURS).prepare()


@pytest.mark.parametrize("path", PLUGIN_FILES, ids=relative)
def test_each_outside_world_has_one_door(path: Path) -> None:
    worlds = {name.split(".")[0] for name in imports(path)}
    wrong = {world for world, door in DOORS.items() if world in worlds and path.stem != door}
    assert not wrong, f"{relative(path)} must go through " + ", ".join(f"{DOORS[world]}.py" for world in wrong)


@pytest.mark.parametrize("path", PYTHON_FILES, ids=relative)
def test_a_python_file_says_whose_it_is(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    head = text[:600]
    assert not text or "SPDX-License-Identifier: GPL-3.0-or-later" in head
    assert not text or "Copyright: kvmops.disk contributors" in head.replace("Copyright (c) ", "Copyright: ")


def test_every_module_is_in_the_action_group() -> None:
    runtime = yaml.safe_load((ROOT / "meta" / "runtime.yml").read_text(encoding="utf-8"))
    assert sorted(runtime["action_groups"]["all"]) == MODULES


def test_every_module_has_an_integration_target() -> None:
    targets = ROOT / "tests" / "integration" / "targets"
    assert [name for name in MODULES if not (targets / name / "tasks" / "main.yml").is_file()] == []
