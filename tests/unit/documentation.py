# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the plugins document of themselves, read from their source."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(path.stem for path in (ROOT / "plugins" / "modules").glob("*.py"))


def blocks(path: Path) -> dict[str, str]:
    """The constants of a plugin or fragment that hold text, by name."""
    return {
        node.targets[0].id: node.value.value
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    }


@cache
def block(module: str, name: str) -> dict[str, Any]:
    """The block *name* (DOCUMENTATION, RETURN) of *module*."""
    found = yaml.safe_load(blocks(ROOT / "plugins" / "modules" / f"{module}.py")[name])
    assert isinstance(found, dict)
    return found


@cache
def fragment(name: str) -> dict[str, Any]:
    """A documentation fragment of this collection, by the name that extends_documentation_fragment gives it."""
    file, _dot, part = name.removeprefix("kvmops.disk.").partition(".")
    found = yaml.safe_load(blocks(ROOT / "plugins" / "doc_fragments" / f"{file}.py")[part.upper() or "DOCUMENTATION"])
    assert isinstance(found, dict)
    return found


def fragments(module: str) -> list[str]:
    """The names of this collection's fragments that *module* extends."""
    extended = block(module, "DOCUMENTATION").get("extends_documentation_fragment", ())
    return [name for name in extended if name.startswith("kvmops.disk.")]


def options(module: str) -> set[str]:
    """The parameters of *module*: its own, and those of the fragments that it extends."""
    documents = [block(module, "DOCUMENTATION"), *map(fragment, fragments(module))]
    return {name for document in documents for name in document.get("options") or ()}


def aliases(module: str) -> set[str]:
    """The other names of the parameters of *module*."""
    documents = [block(module, "DOCUMENTATION"), *map(fragment, fragments(module))]
    said = [option for document in documents for option in (document.get("options") or {}).values()]
    return {name for option in said for name in option.get("aliases", ())}
