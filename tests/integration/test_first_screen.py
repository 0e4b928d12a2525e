# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The first lines of the README, exactly as they stand there, lead a newcomer to a first result on his own host."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from lab.pip_settings import pip_environment

ROOT = Path(__file__).resolve().parents[2]
HOME_OF_THE_PROJECT = "https://github.com/kvmops/kvmops.disk.git"
READMES = ("README.md", "README.zh-CN.md")


def first_lines(readme: str) -> list[str]:
    """The commands of the first console block."""
    text = (ROOT / readme).read_text(encoding="utf-8")
    (block,) = re.findall(r"```console\n(.*?)```", text, re.DOTALL)[:1]
    return [line.removeprefix("$ ") for line in block.splitlines()]


def newcomers(home: Path) -> dict[str, str]:
    """The environment of somebody who has configured nothing. What is on GitHub is this checkout."""
    settings = [("safe.directory", "*"), (f"url.{ROOT}.insteadOf", HOME_OF_THE_PROJECT)]
    git = {"GIT_CONFIG_COUNT": str(len(settings))}
    for number, (key, value) in enumerate(settings):
        git.update({f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value})
    pip = Path("~/.config/pip/pip.conf").expanduser()
    pips = {"PIP_CONFIG_FILE": str(pip)} if pip.exists() else {}
    system = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
    return {**system, **pips, **pip_environment(), **git, "HOME": str(home)}


def test_the_first_lines_are_few_and_the_same_in_both_languages() -> None:
    english, chinese = (first_lines(readme) for readme in READMES)
    assert english == chinese
    assert len(english) <= 5
    assert all(line.startswith(("python3 ", "pip ", "ansible")) for line in english)


def test_the_first_lines_lead_to_an_image_and_its_facts(tmp_path: Path) -> None:
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    script = "\n".join(["set -eu", *first_lines("README.md")])
    for outcome in ("CHANGED", "SUCCESS"):
        done = subprocess.run(
            ["bash", "-c", script], cwd=here, env=newcomers(home), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"localhost | {outcome} =>" in done.stdout
        script = "\n".join(["set -eu", ". kvmops/bin/activate", *first_lines("README.md")[-2:]])
    looked = subprocess.run(["qemu-img", "info", "--output=json", here / "web.qcow2"], check=True, capture_output=True)
    assert json.loads(looked.stdout)["virtual-size"] == 40 << 30
    assert '"virtual_size": 42949672960' in done.stdout
    assert sorted(os.listdir(here)) == ["kvmops", "web.qcow2"]


@pytest.mark.parametrize("readme", READMES)
def test_the_first_screen_holds_what_it_is_a_picture_and_the_first_lines(readme: str) -> None:
    screen = "\n".join((ROOT / readme).read_text(encoding="utf-8").splitlines()[:26])
    assert screen.count("<picture>") == 1
    assert screen.count("```") == 2
