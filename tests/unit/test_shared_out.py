# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How tests are shared out among processes: those that share what is dear stay together (tests/conftest.py)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TESTS = """
import os, pathlib, pytest

@pytest.mark.xdist_group("dear")
@pytest.mark.parametrize("number", range(8))
def test_dear(number):
    with open(pathlib.Path(__file__).with_name("processes"), "a") as stream:
        stream.write(f"{os.getpid()}\\n")
"""


def test_the_tests_of_a_group_run_in_one_process(tmp_path: Path) -> None:
    (tmp_path / "test_dear.py").write_text(TESTS, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "--quiet", "-p", "no:cacheprovider", "--rootdir", str(tmp_path)]
    subprocess.run([*command, "-n", "2", "--dist", "loadgroup"], cwd=tmp_path, check=True, capture_output=True)
    processes = (tmp_path / "processes").read_text(encoding="utf-8").split()
    assert len(processes) == 8
    assert len({*processes}) == 1
