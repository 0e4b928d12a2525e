# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The pictures of the README are what tests/tools/pictures.py draws, light and dark, but for the figures of a run."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "tools"))

import pictures  # noqa: E402


def without_figures(svg: str) -> str:
    return re.sub(r"\d+ MiB", "N MiB", svg)


@pytest.mark.parametrize("name", sorted(pictures.PALETTES))
def test_a_picture_is_drawn_by_the_script_as_it_stands(name: str, tmp_path: Path) -> None:
    scene = pictures.played(tmp_path)
    drawn = pictures.drawn(scene, pictures.PALETTES[name])
    kept = (ROOT / "docs" / "pictures" / f"clones-{name}.svg").read_text(encoding="utf-8")
    assert without_figures(kept) == without_figures(drawn)


@pytest.mark.parametrize("readme", ["README.md", "README.zh-CN.md"])
def test_a_readme_shows_the_picture_in_light_and_dark_with_a_text(readme: str) -> None:
    text = (ROOT / readme).read_text(encoding="utf-8")
    shown = re.findall(r'(?:src|srcset)="(docs/pictures/[^"]+)"', text)
    assert sorted(shown) == [f"docs/pictures/clones-{name}.svg" for name in sorted(pictures.PALETTES)]
    assert re.search(r'alt="[^"]+"', text)
    for path in shown:
        assert ElementTree.parse(ROOT / path).getroot().tag.endswith("svg")
