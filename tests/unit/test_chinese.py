# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is said in Chinese has the commands, tasks and tables of the English pages."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from unit.documentation import MODULES

ROOT = Path(__file__).resolve().parents[2]
GUIDES = ROOT / "docs" / "docsite" / "rst"
ENGLISH, CHINESE = ((GUIDES / f"{name}.rst").read_text("utf-8") for name in ("from_qemu_img", "from_qemu_img_zh_cn"))
CONVERSIONS = (GUIDES / "guide_convert.rst").read_text("utf-8")
README, CHINESE_README = ((ROOT / name).read_text("utf-8") for name in ("README.md", "README.zh-CN.md"))
BLOCK = re.compile(r"^\.\. code-block:: (console|yaml)\n\n((?:   .*\n|\n)+)", re.MULTILINE)


def commands(page: str) -> list[str]:
    return [text.strip() for kind, text in BLOCK.findall(page) if kind == "console"]


def tasks(page: str) -> list[dict[str, Any]]:
    """The tasks of a page without their names, which are in the language of the page."""
    found = [yaml.safe_load(text) for kind, text in BLOCK.findall(page) if kind == "yaml"]
    found += [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)]
    return [{key: value for key, value in task.items() if key != "name"} for block in found for task in block]


def code(row: str) -> list[str]:
    return [one.strip("`") for one in re.findall(r"``[^`]+``|`[^`]+`", row)]


def rst_rows(page: str, first_command: str) -> list[list[str]]:
    """The code in each row of the table that has *first_command* in its first one."""
    table = next(part for part in page.split(".. list-table::") if f"``{first_command}``" in part)
    rows = re.split(r"^   \* - ", table.split("\n\n", 2)[1], flags=re.MULTILINE)[2:]
    return [code(row) for row in rows]


def markdown_rows(page: str, start: str) -> list[list[str]]:
    """The code in each row of the table whose first row begins with *start*."""
    lines = page[page.index(start) :].splitlines()
    return [code(line) for line in lines[: next((n for n, line in enumerate(lines) if not line), len(lines))]]


def test_the_chinese_page_has_commands_and_tasks_of_the_english_ones_in_their_order() -> None:
    english = commands(ENGLISH)
    assert commands(CHINESE) == [command for command in english if command in commands(CHINESE)]
    known = tasks(ENGLISH) + tasks(CONVERSIONS)
    assert [task for task in tasks(CHINESE) if task not in known] == []


def test_each_command_of_the_chinese_page_is_followed_by_its_task() -> None:
    def pairs(page: str) -> list[tuple[str, Any]]:
        blocks = [(kind, text.strip()) for kind, text in BLOCK.findall(page)]
        return [
            (command, [{**task, "name": ""} for task in yaml.safe_load(re.sub("^   ", "", text, flags=re.MULTILINE))])
            for (kind, command), (_yaml, text) in zip(blocks, blocks[1:])
            if kind == "console"
        ]

    assert [pair for pair in pairs(CHINESE) if pair not in pairs(ENGLISH)] == []
    assert len(pairs(CHINESE)) >= 10


def test_the_table_of_commands_is_the_same_in_both_languages() -> None:
    first = "qemu-img create -f qcow2 web.qcow2 40G"
    rows = rst_rows(ENGLISH, first)
    assert len(rows) > 30
    assert rst_rows(CHINESE, first) == rows


def test_the_tables_of_the_readmes_are_the_same_in_both_languages() -> None:
    for start, rows in (("| `qemu-img create -f qcow2 web.qcow2 40G`", 8), ("| `qcow2_bitmap`", len(MODULES))):
        english = markdown_rows(README, start)
        assert len(english) == rows
        assert [row if rows == 8 else row[:1] for row in markdown_rows(CHINESE_README, start)] == [
            row if rows == 8 else row[:1] for row in english
        ]
    english, chinese = markdown_rows(README, "| VMware says"), markdown_rows(CHINESE_README, "| VMware |")
    assert chinese[2:] == english[2:]


def test_the_readmes_have_the_same_task() -> None:
    assert [task for task in tasks(CHINESE_README) if task not in tasks(README)] == []
    assert tasks(CHINESE_README)


def test_every_link_of_the_chinese_readme_leads_to_something() -> None:
    assert [link for link in re.findall(r"\]\(([^)#:]+)\)", CHINESE_README) if not (ROOT / link).exists()] == []


def test_the_chinese_pages_are_in_chinese() -> None:
    for page in (CHINESE, CHINESE_README):
        assert len(re.findall(r"[\u4e00-\u9fff]", page)) > 500
