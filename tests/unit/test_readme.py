# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the README promises is there: its modules, its roles, its guides, and the parameters of its tasks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from unit.documentation import MODULES, aliases, options

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDE = (ROOT / "docs" / "docsite" / "rst" / "from_qemu_img.rst").read_text(encoding="utf-8")
TABLE = GUIDE.split("\nAt a glance\n", 1)[1].split("\nMake an image\n", 1)[0]
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir())
PLAYBOOKS = sorted(path.name for path in (ROOT / "playbooks").glob("*.yml"))


def section(title: str) -> str:
    return README.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def tasks() -> list[tuple[str, dict[str, Any]]]:
    """The tasks of the table, and of the README's other examples, as (module, parameters)."""
    cells = re.findall(r"`((?:qcow2|vm|storage)_\w+: \{.*?\})`", section("What you type today, and the task") + TABLE)
    found = [next(iter(yaml.safe_load(cell).items())) for cell in cells]
    for block in re.findall(r"```yaml\n(.*?)```", README, re.DOTALL):
        for task in _tasks_of(yaml.safe_load(block)):
            found += [(key.rpartition(".")[2], value) for key, value in task.items() if key.startswith("kvmops.disk.")]
    return found


def _tasks_of(plays: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [task for play in plays for task in play.get("tasks", [play])]


def guides() -> list[tuple[str, str, dict[str, Any]]]:
    """The tasks of the guides, as (guide, module, parameters)."""
    found = []
    for path in sorted((ROOT / "docs" / "docsite" / "rst").glob("*.rst")):
        for block in re.findall(
            r"^\.\. code-block:: yaml.*\n\n((?:   .*\n|\n)+)", path.read_text("utf-8"), re.MULTILINE
        ):
            loaded = yaml.safe_load(re.sub("^   ", "", block, flags=re.MULTILINE))
            for task in _tasks_of(loaded) if isinstance(loaded, list) else ():  # others set variables
                own = {key: value for key, value in task.items() if key.startswith("kvmops.disk.")}
                found += [(path.stem, key.rpartition(".")[2], value) for key, value in own.items()]
    return found


@pytest.mark.parametrize(("guide", "module", "parameters"), guides(), ids=lambda one: str(one)[:40])
def test_a_task_of_a_guide_has_parameters_that_its_module_takes(
    guide: str, module: str, parameters: dict[str, Any]
) -> None:
    assert module in MODULES, guide
    assert set(parameters or {}) <= options(module) | aliases(module), guide


@pytest.mark.parametrize(("module", "parameters"), tasks(), ids=[name for name, _parameters in tasks()])
def test_a_task_of_the_readme_has_parameters_that_its_module_takes(module: str, parameters: dict[str, Any]) -> None:
    assert module in MODULES
    assert set(parameters) <= options(module)


def test_every_module_has_its_place_in_both_tables() -> None:
    listed = re.findall(r"^\| `(\w+)` \|", section("What is in it"), re.MULTILINE)
    assert sorted(listed) == MODULES
    assert [module for module in MODULES if not re.search(rf"`{module}\b", TABLE)] == []


def test_the_readme_shows_eight_rows_of_the_table_of_the_guide() -> None:
    rows = re.findall(r"^\| (`.*|….*) \| (.*) \|$", section("What you type today, and the task"), re.MULTILINE)
    assert len(rows) == 8
    said = TABLE.replace("``", "`")
    assert [row for row in rows if f"* - {row[0]}\n     - {row[1]}\n" not in said] == []


def test_every_role_and_every_playbook_has_its_place() -> None:
    text = section("What is in it")
    assert sorted(re.findall(r"^\| \[`(\w+)`\]", text, re.MULTILINE)) == ROLES
    assert [name for name in PLAYBOOKS if name not in text] == []


def test_every_link_leads_to_something() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert [link for link in links if not (ROOT / link).exists()] == []
