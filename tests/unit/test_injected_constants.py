# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever a fault test changes in the library is there: one that changes nothing would show nothing."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "plugins" / "module_utils"
LOADING = """
import sys, types
collections = types.ModuleType("ansible_collections")
collections.__path__ = [sys.argv[1] + "/ansible_collections"]
sys.modules["ansible_collections"] = collections
from ansible_collections.kvmops.disk.plugins.module_utils._files import lock
print(lock.PATIENCE, lock.operation.__wrapped__.__defaults__)
"""


def changed() -> Iterator[tuple[str, str]]:
    """The file of the library and the name of each constant that a test changes."""
    for test in sorted((ROOT / "tests").rglob("*.py")):
        for node in ast.walk(ast.parse(test.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "constants":
                (by_file,) = node.args
                assert isinstance(by_file, ast.Dict), f"{test}:{node.lineno}: the names must stand there"
                for file, values in zip(by_file.keys, by_file.values):
                    assert isinstance(file, ast.Constant), f"{test}:{node.lineno}: the names must stand there"
                    assert isinstance(values, ast.Dict), f"{test}:{node.lineno}: the names must stand there"
                    for name in values.keys:
                        assert isinstance(name, ast.Constant), f"{test}:{node.lineno}: the names must stand there"
                        yield str(file.value), str(name.value)


def assigned(file: Path) -> set[str]:
    statements = ast.parse(file.read_text(encoding="utf-8")).body
    targets = [
        target
        for statement in statements
        for target in (statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)])
    ]
    return {target.id for target in targets if isinstance(target, ast.Name)}


@pytest.mark.parametrize(("file", "name"), sorted(set(changed())))
def test_what_a_test_changes_is_a_constant_of_the_library(file: str, name: str) -> None:
    assert name in assigned(LIBRARY / f"{file.replace('.', '/')}.py")


def loaded(constants: str, collections: Path = ROOT / ".ansible/collections") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests/support/injected"), "CONSTANTS": constants}
    argv = [sys.executable, "-c", LOADING, str(collections)]
    return subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)


def test_a_changed_constant_is_so_wherever_its_file_uses_it() -> None:
    done = loaded('{"_files.lock": {"PATIENCE": 600}}')
    assert done.stdout == "600 (600,)\n", done.stderr


def test_a_constant_is_changed_in_what_ansible_sends_too(tmp_path: Path) -> None:
    sent = tmp_path / "sent.zip"
    files = {Path("ansible_collections/kvmops/disk") / file.relative_to(ROOT): file for file in LIBRARY.rglob("*.py")}
    with zipfile.ZipFile(sent, "w") as archive:
        for name, file in files.items():
            archive.write(file, name)
        for package in {parent for name in files for parent in name.parents if parent.name}:
            archive.writestr(f"{package}/__init__.py", "")
    done = loaded('{"_files.lock": {"PATIENCE": 600}}', sent)
    assert done.stdout == "600 (600,)\n", done.stderr


def test_a_constant_that_the_library_does_not_have_fails_what_loads_its_file() -> None:
    done = loaded('{"_files.lock": {"PATIENCE": 600, "ENDURANCE": 1}}')
    assert done.returncode
    assert "_files.lock has no ENDURANCE" in done.stderr
